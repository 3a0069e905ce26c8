"""What is installed: only the package, quick to start, and light to import."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
SCRIPTS = PROJECT["project"]["scripts"]
TEMPLATES = ("dataset/card.md", "dataset/card_reading.md", "train/recipes.yaml", "train/run/model_card.md")
KERNELS = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/kernels/*.cu*")]
HEAVY = ("torch", "ray", "numba")
BUILD = "import setuptools.build_meta as b; print(b.build_wheel('wheels'))"


def folder_of(package):
    return ROOT.joinpath(*package.split(".")[1:])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names of the files in a wheel that was built of a copy of the sources, other folders included."""
    copy = tmp_path_factory.mktemp("sources") / "clone"
    wanted = ("*.py", "*.md", "*.yaml", "kernels/*", "py.typed", "pyproject.toml", "README.md", "LICENSE")
    folders = [folder_of(package) for package in PACKAGES] + [ROOT / "tests", ROOT / "benchmarks"]
    for path in (path for folder in folders for pattern in wanted for path in folder.glob(pattern)):
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    done = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = (copy / "wheels").glob("*.whl")
    return zipfile.ZipFile(path).namelist()


def test_the_wheel_holds_the_modules_of_the_packages_and_that_they_are_typed(wheel):
    files = {name for name in wheel if ".dist-info/" not in name}
    modules = {
        f"{package.replace('.', '/')}/{path.name}"
        for package in PACKAGES
        for path in folder_of(package).glob("*.py")
    }
    templates = {f"gvit/{name}" for name in (*TEMPLATES, *KERNELS)}
    assert len(KERNELS) == 7
    assert files == modules | templates | {"gvit/py.typed"}
    assert "gvit/schemas/__init__.py" in modules


def test_every_folder_of_modules_is_a_package_of_the_wheel():
    inits = (path.relative_to(ROOT).parent for path in ROOT.glob("[a-z]*/**/__init__.py"))
    folders = {folder for folder in inits if folder.parts[0] not in ("build", "studies")}
    assert {".".join(("gvit", *folder.parts)) for folder in folders} | {"gvit"} == set(PACKAGES)


def imported_by(program):
    lines = [*program, "import sys", f"print([name for name in {HEAVY} if name in sys.modules])"]
    return subprocess.check_output([sys.executable, "-c", "\n".join(lines)], text=True).strip()


@pytest.mark.parametrize(
    "program",
    [
        ["import gvit", "dir(gvit), gvit.__version__, gvit.open_dataset"],
        ["import gvit.schemas"],
        ["import gvit.commands.app"],
    ],
)
def test_the_public_face_loads_neither_torch_nor_ray_nor_numba(program):
    assert imported_by(program) == "[]"


def test_the_look_at_loaded_modules_would_notice_numba():
    assert imported_by(["import gvit.rendering.cpu"]) == "['numba']"


def test_every_public_name_is_there():
    program = "import gvit; print(all(hasattr(gvit, name) for name in gvit.__all__))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "True\n"


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_console_script_answers_help_without_loading_what_commands_need(script):
    path = Path(sys.executable).parent / script
    program = f"import sys, runpy; sys.argv = [{str(path)!r}, '--help']\n"
    program += f"try: runpy.run_path({str(path)!r}, run_name='__main__')\n"
    program += "except SystemExit as ended: print('code', ended.code or 0)\n"
    program += (
        "print('loaded', [n for n in ('torch', 'ray', 'numba', 'numpy', 'pyarrow') if n in sys.modules])"
    )
    out = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert out.splitlines()[-2:] == ["code 0", "loaded []"]
    assert "Usage" in out
