"""Every command and every program of the documentation works.

The fenced blocks of a page marked `bash` or `python` are run in order, in a folder with tiny images under the
names that the pages use. A block after the line `<!-- not run: REASON -->` is not run; its commands and
options must exist all the same. Other marks (`text`, `json`, `csv`) are for what is shown and not run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import typer
from PIL import Image

from gvit.commands import app as cli

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<mark>.*)\n(?P<text>(?:.*\n)*?)^```$", re.M
)
SHOWN = {"text", "json", "csv"}
CLASSES = ("n01440764", "n01443537")
BROKEN = "imagenet/train/n01440764/broken.JPEG"


class Block(NamedTuple):
    mark: str
    text: str
    skipped: bool


def blocks_of(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [Block(m["mark"], m["text"], m["reason"] is not None) for m in BLOCK.finditer(text)]
    assert len(blocks) * 2 == len(re.findall("^```", text, re.M)), "a fence is not closed"
    return blocks


def save_photo(path, seed):
    """A smooth picture of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC).save(path, format="JPEG")


def make_images(folder):
    for number, name in enumerate(CLASSES):
        save_photo(folder / f"imagenet/train/{name}/{name}_10026.JPEG", number)
        save_photo(folder / f"imagenet/train/{name}/{name}_10027.JPEG", 10 + number)
        save_photo(folder / f"imagenet-flat/train/{name}/{name}_10026.JPEG", number)
    for number, name in ((293, CLASSES[0]), (236, CLASSES[1])):
        image = f"ILSVRC2012_val_{number:08d}"
        save_photo(folder / f"imagenet/val/{name}/{image}.JPEG", number)
        save_photo(folder / f"imagenet-flat/val/{image}.JPEG", number)
    rows = [f"ILSVRC2012_val_{n:08d},{c} 85 1 499 272" for n, c in ((293, CLASSES[0]), (236, CLASSES[1]))]
    (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows, ""]))


def make_photos(folder):
    """Enough of them to train on, some with a mask."""
    for number in range(80):
        name = f"{CLASSES[number % 2]}/{number:02d}"
        save_photo(folder / f"photos/{'val' if number < 12 else 'train'}/{name}.jpg", 100 + number)
        if number % 3:
            mask = folder / f"masks/train/{name}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.eye(60, 80, dtype=np.uint8) * 255).save(mask)


def run(command, folder):
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """A folder as it is when a reader of the README comes to the other pages, one file having been broken."""
    folder = tmp_path_factory.mktemp("pages")
    make_images(folder)
    (folder / BROKEN).write_bytes(b"no image")
    done = run(["gvit", "encode", "imagenet", "out/imagenet"], folder)
    assert done.returncode == 1, done.stderr
    save_photo(folder / BROKEN, 99)
    make_photos(folder)
    done = run(["gvit", "encode", "photos", "out/shards", *["--size", "32", "--num-gaussians", "16"]], folder)
    assert done.returncode == 0, done.stderr
    return folder


def run_blocks(page, folder):
    for block in blocks_of(page):
        if block.skipped or block.mark in SHOWN:
            continue
        script = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-W", "error", "-c"]}
        done = run([*script[block.mark], block.text], folder)
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"


def test_the_readme_works_from_its_first_line_to_its_last(tmp_path):
    make_images(tmp_path)
    run_blocks("README.md", tmp_path)
    for picture in ("sheet.png", "view.png"):
        with Image.open(tmp_path / picture) as image:
            image.verify()


@pytest.mark.parametrize("page", PAGES[1:])
def test_every_other_page_works_after_the_readme(page, encoded, tmp_path):
    shutil.copytree(encoded, tmp_path, dirs_exist_ok=True)
    run_blocks(page, tmp_path)


@pytest.mark.parametrize("notebook", ["encode_and_look", "train_and_predict"])
def test_a_notebook_runs_from_its_first_cell_to_its_last(notebook, encoded, tmp_path):
    shutil.copytree(encoded, tmp_path, dirs_exist_ok=True)
    book = json.loads((ROOT / f"docs/notebooks/{notebook}.ipynb").read_text())
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    program = "\n".join("".join(cell["source"]) for cell in cells)
    done = run([sys.executable, "-W", "error", "-c", program], tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_whether_it_is_a_program(page):
    assert {block.mark for block in blocks_of(page)} <= {"bash", "python"} | SHOWN


def commands_of(page):
    for block in blocks_of(page):
        if block.mark == "bash":
            yield from (shlex.split(line, comments=True) for line in block.text.splitlines())


def test_every_make_target_that_a_page_names_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    pages = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
    named = {target for text in pages.values() for target in re.findall(r"(?:`|^)make ([a-z]+)", text, re.M)}
    assert {"demo", "test", "lint"} <= named <= targets


@pytest.mark.parametrize("page", PAGES)
def test_every_option_that_a_page_names_exists(page):
    """For blocks that are not run too."""
    commands = typer.main.get_command(cli.app).commands
    for words in commands_of(page):
        if words[:1] in (["gvit-encode"], ["gvit-train"]):
            words[:1] = words[0].split("-")
        if words[:1] != ["gvit"] or words[1:2] == ["--help"]:
            continue
        command = commands[words[1]]
        if hasattr(command, "commands"):  # a group, as gvit bench
            command = command.commands[words[2]]
        known = {option for parameter in command.params for option in parameter.opts}
        used = {word.partition("=")[0] for word in words[2:] if re.match("--?[a-z]", word)}
        assert used <= known | {"--help"}, words


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_of_the_repository_leads_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page).parent / link).exists(), link
