"""The house: rooms on floors, imports that only go down, no circles, and no room named like a function."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BELOW = {
    "schemas": [],
    "dataset": ["schemas"],
    "rendering": ["schemas"],
    "images": ["schemas"],
    "fitting": ["schemas", "rendering"],
    "pictures": ["schemas", "dataset", "rendering", "images"],
    "pipeline": ["schemas", "dataset", "rendering", "images", "fitting", "pictures"],
    "train": ["schemas", "dataset", "rendering", "images", "fitting", "pictures"],
}
"""The rooms from the ground up, and what each may import; those of `TOP` may import all."""
TOP = ("front", "commands", "benchmarks", "studies")
PARTS = {  # rooms within rooms, likewise; what lies beside them belongs to the top
    "dataset": ["zarr", "remote"],
    "images": ["sources"],
    "pipeline": ["place", "engines"],
    "train": ["data", "model", "guidance", "run"],
}


def modules():
    """Return module -> file of the product."""
    folders = [*BELOW, *TOP]
    paths = [path for name in folders for path in (ROOT / name).rglob("*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


def imports_of(module, path, known):
    """Yield what a module imports of the package, wherever in it, for types alone too."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name.removeprefix("gvit.") for a in node.names if a.name.startswith("gvit."))
        if not isinstance(node, ast.ImportFrom):
            continue
        base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        start = ".".join([*base, *([node.module] if node.module else [])])
        if not node.level:
            if not start.startswith("gvit"):
                continue
            start = start.removeprefix("gvit").removeprefix(".")
        for alias in node.names:
            inner = f"{start}.{alias.name}".removeprefix(".")
            yield inner if inner in known else start


def edges():
    known = modules()
    return {
        module: {found for found in imports_of(module, path, known) if found and found != module}
        for module, path in known.items()
    }


def room(module):
    return module.partition(".")[0]


def test_imports_between_rooms_only_go_down():
    up = [
        f"{module} -> {found}"
        for module, imported in edges().items()
        for found in imported
        if room(module) in BELOW and room(found) not in [room(module), *BELOW[room(module)]]
    ]
    assert not up


def test_the_installed_package_knows_nothing_of_the_studies():
    assert not [
        m for m, found in edges().items() if room(m) != "studies" for f in found if room(f) == "studies"
    ]


def test_no_modules_import_each_other_in_a_circle():
    known = edges()
    done, path, circles = set(), [], []

    def visit(module):
        if module in path:
            circles.append([*path[path.index(module) :], module])
        if module in done or module in path:
            return
        path.append(module)
        for found in sorted(known.get(module, ())):
            visit(found)
        path.pop()
        done.add(module)

    for module in known:
        visit(module)
    assert not circles


@pytest.mark.parametrize("name", sorted(PARTS))
def test_the_parts_of_a_room_lie_one_above_the_other(name):
    floors = PARTS[name]

    def floor(module):
        part = module.split(".")[1] if module.count(".") > 1 else ""
        return floors.index(part) if part in floors else None

    up = [
        f"{module} -> {found}"
        for module, imported in edges().items()
        for found in imported
        if room(module) == room(found) == name and floor(module) is not None and floor(found) is not None
        if floor(found) > floor(module)
    ]
    assert not up


def test_no_module_hides_a_public_name_of_the_package():
    program = (
        "import importlib, pkgutil, types, gvit\n"
        "before = {name: getattr(gvit, name) for name in gvit.__all__}\n"
        "for found in pkgutil.walk_packages(gvit.__path__, 'gvit.'):\n"
        "    if found.name.split('.')[1] not in ('tests', 'docs', 'docker', 'studies'):\n"
        "        importlib.import_module(found.name)\n"
        "after = {name: getattr(gvit, name) for name in gvit.__all__}\n"
        "print([name for name in gvit.__all__ if after[name] is not before[name]])\n"
        "print([name for name, value in after.items() if isinstance(value, types.ModuleType)])\n"
        "functions = ('fit', 'render', 'encode', 'draw', 'predict')\n"
        "print([n for n in functions if isinstance(getattr(gvit, n, None), types.ModuleType)])\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["[]", "[]", "[]"], found.stderr
