"""What a plain install can do: read, verify, view, export and share a dataset; run by whatever Python it has.

    python tests/plain_install.py

CI runs it in an environment where nothing but gvit and its dependencies is installed; the tests run it with
the packages of the extras hidden.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATASET = ROOT / "tests/data/v1"
KEY = "train/one/4"
OF_EXTRAS = (
    *("gcsfs", "gsplat", "numba", "ray", "s3fs", "safetensors", "scipy"),
    *("skimage", "sklearn", "timm", "torch", "torchvision", "webdataset"),
)
CAN = [
    "info DATASET",
    "info DATASET --json",
    "verify DATASET --deep",
    "view DATASET -o sheet.png",
    "view DATASET KEY -o one.png",
    "export DATASET samples --to samples",
    "export DATASET images --to images",
    "export DATASET rows --to parquet",
    "export DATASET arrays --to zarr",
    "export arrays tars --to webdataset",
    "verify tars --deep",
    "push tars file://HERE/pushed",
    "verify pushed --deep",
    "pull file://HERE/pushed pulled",
    "card pulled",
    "verify pulled --deep",
]
CANNOT = {
    "encode images coded": "numba, which is not installed: pip install 'gvit[encode]'",
    "encode images coded --dry-run": "numba, which is not installed: pip install 'gvit[encode]'",
    "train --shards DATASET --out run": "which is not installed: pip install 'gvit[train]'",
    "evaluate --checkpoint run --shards DATASET": "which is not installed: pip install 'gvit[train]'",
    "predict --checkpoint run one.png": "which is not installed: pip install 'gvit[encode,train]'",
    "demo demo": "which is not installed: pip install 'gvit[demo]'",
    "bench render": "which is not installed: pip install 'gvit[bench]'",
}


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def gvit(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    names = {"DATASET": "v1", "KEY": KEY, "HERE": str(folder)}
    line = re.sub("DATASET|KEY|HERE", lambda match: names[match[0]], line)
    return run([sys.executable, "-m", "gvit", *line.split()], folder)


def programs_of_the_readme() -> list[str]:
    """Its programs that read a dataset, which they name `out/imagenet`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    programs = re.findall("^```python\n(.*?)^```$", text, re.M | re.S)
    assert len(programs) == 3
    return [program.replace("out/imagenet", "v1") for program in programs]


def check(folder: Path) -> None:
    for package in OF_EXTRAS:
        assert find_spec(package) is None, f"{package} is installed; this is no plain install"
    shutil.copytree(DATASET, folder / "v1")
    for line in CAN:
        done = gvit(line, folder)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    for program in programs_of_the_readme():
        done = run([sys.executable, "-W", "error", "-c", program], folder)
        assert done.returncode == 0, (program, done.stderr)
    commands = set(re.findall(r"^. ([a-z]+)  ", gvit("--help", folder).stdout, re.M))
    assert commands > {line.split()[0] for line in [*CAN, *CANNOT]}, commands
    for line, sentence in CANNOT.items():
        before = sorted(folder.iterdir())
        done = gvit(line, folder)
        assert (done.returncode, done.stdout) == (2, ""), (line, done.stdout, done.stderr)
        assert done.stderr.startswith("Error: "), (line, done.stderr)
        assert done.stderr.endswith(f"{sentence}\n"), (line, done.stderr)
        assert len(done.stderr.splitlines()) == 1, (line, done.stderr)
        assert sorted(folder.iterdir()) == before, line


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        check(Path(scratch))
    print("a plain install reads, verifies, views, exports and shares")
