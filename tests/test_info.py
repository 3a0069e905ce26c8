"""`gvit info`: the exact names for programs, one fact per line in pipes, and no wider than a terminal."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import fake_encode as fake
from gvit.commands import app as cli
from gvit.dataset.reader import open_dataset
from gvit.pictures.summary import print_summary

NAMES = [
    *("images", "failed", "gaussians", "size", "format", "schema_version", "classes", "splits", "shards"),
    *("bytes_per_image", "psnr"),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("info")
    fake.make_source(root / "src/train", per_class=3)
    fake.make_source(root / "src/val", per_class=2)
    (root / "src/train/cats/broken.png").write_bytes(b"no image")
    fake.fake_encode(root / "src", root / "dst")
    return root / "dst"


@pytest.fixture
def gvit_info(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gvit", "info", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def printed(dataset, **console):
    file = io.StringIO()
    print_summary(open_dataset(dataset), Console(file=file, **console))
    return file.getvalue()


def test_json_is_one_line_with_exactly_the_promised_names(dataset, gvit_info):
    code, out, err = gvit_info(dataset, "--json")
    (line,) = out.splitlines()
    found = json.loads(line)
    assert (code, err, list(found)) == (0, "", NAMES)
    assert {name: found[name] for name in NAMES[:9]} == {
        "images": 10,
        "failed": 1,
        "gaussians": fake.NUM_GAUSSIANS,
        "size": fake.SIZE,
        "format": "webdataset",
        "schema_version": 1,
        "classes": 2,
        "splits": {"train": 6, "val": 4},
        "shards": 2,
    }
    manifest = json.loads((dataset / "dataset.json").read_text())
    assert found["psnr"] == manifest["psnr"]


def test_bytes_per_image_is_what_sets_and_rows_take_on_the_disk(dataset, gvit_info):
    files = [path for path in dataset.iterdir() if path.suffix in (".tar", ".parquet")]
    found = json.loads(gvit_info(dataset, "--json")[1])["bytes_per_image"]
    assert found == pytest.approx(sum(path.stat().st_size for path in files) / 10, abs=0.05)


def test_a_dataset_in_which_everything_failed_has_no_psnr(tmp_path, gvit_info):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/broken.png").write_bytes(b"no image")
    fake.fake_encode(tmp_path / "src", tmp_path / "dst")
    code, out, _ = gvit_info(tmp_path / "dst", "--json")
    found = json.loads(out)
    assert (code, found["images"], found["psnr"], found["bytes_per_image"]) == (0, 0, None, None)
    assert gvit_info(tmp_path / "dst")[0] == 0


def test_a_person_reads_counts_classes_quality_and_why_images_failed(dataset, gvit_info):
    code, out, err = gvit_info(dataset)
    assert (code, err) == (0, "")
    assert "10 (train 6, val 4), 1 failed" in out
    assert "2 (cats, dogs)" in out
    assert "1 x image: the file is not an image of a known format" in out
    assert "mean " in out


def test_in_a_pipe_every_fact_is_one_plain_line_however_long(dataset):
    wide, narrow = printed(dataset, width=200), printed(dataset, width=20)
    assert narrow == wide
    assert "\x1b" not in narrow
    assert all(line == line.rstrip() for line in narrow.splitlines())


def test_on_a_narrow_terminal_no_line_is_wider_than_it(dataset):
    lines = printed(dataset, width=40, force_terminal=True, color_system=None).splitlines()
    table = lines[-8:]  # above it is the path, broken where the terminal ends
    assert max(len(line) for line in lines) <= 40
    assert any(line.startswith("PSNR") for line in table)


def test_a_name_that_the_output_cannot_say_is_escaped(tmp_path):
    fake.make_source(tmp_path / "src", classes=("\u732b",), per_class=1)
    fake.fake_encode(tmp_path / "src", tmp_path / "dst")
    program = (
        "import sys; from gvit.commands import app as cli; sys.argv = ['gvit', 'info', 'dst']; cli.main()"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    out = subprocess.check_output([sys.executable, "-c", program], cwd=tmp_path, env=environment, text=True)
    assert "1 (\\u732b)" in out


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "is not a folder: give the folder that gvit encode wrote"),
        (Path.mkdir, "holds no gvit dataset: make one with gvit encode SRC"),
        (Path.touch, "is not a folder: give the folder that gvit encode wrote"),
        (lambda path: (path / ".gvit").mkdir(parents=True), "is not complete: run gvit encode again"),
    ],
)
def test_what_is_no_dataset_is_one_sentence_and_exit_code_2(make, sentence, tmp_path, gvit_info):
    make(tmp_path / "dst")
    code, out, err = gvit_info(tmp_path / "dst")
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.splitlines()) == 1
