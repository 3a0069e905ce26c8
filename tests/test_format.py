"""docs/format.md is enough for a reader of one's own, and version 1 stays readable."""

import ast
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import small_dataset as small
from gvit.dataset.reader import open_dataset
from gvit.rendering.arrays import render_numpy
from gvit.schemas import ENCODINGS, DatasetError
from gvit.schemas.checksums import dump_checksums, parse_checksums

ROOT = Path(__file__).parent.parent
READER = ROOT / "docs" / "reader.py"
V1 = Path(__file__).parent / "data" / "v1"

# As read by the gvit that wrote tests/data/v1 (see make_v1.py there).
V1_SUMS_SHA256 = "a5cbae4ca94ef5e1a769c39e94c3e2f7974e2aa885ac490fa4579cb363e87140"
V1_SETS_SHA256 = "8cae50d098a6a5f7d10be10902bebf7c862411a2804717324cc14376861fd3fa"


@pytest.fixture(scope="module")
def reader():
    spec = importlib.util.spec_from_file_location("reader", READER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoded")
    small.save_images(folder / "src")
    small.encode_for_real(folder / "src", folder / "dst")
    return folder / "dst"


def test_the_reader_of_the_specification_is_short_and_needs_only_numpy():
    text = READER.read_text()
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert len(text.splitlines()) < 60
    assert {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names) == {"numpy"}


def rule_of(folder):
    return json.loads((folder / "dataset.json").read_bytes())["render"]


def assert_reads_the_same(reader, folder):
    dataset = open_dataset(folder)
    blocks = list(reader.read(folder))
    np.testing.assert_array_equal(
        np.concatenate([sets for sets, _ in blocks]), dataset.gaussians(slice(None))
    )
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in blocks]), dataset.labels)


def test_the_reader_of_the_specification_reads_what_the_encoder_writes(reader, encoded):
    assert len(open_dataset(encoded)) == 12
    assert_reads_the_same(reader, encoded)


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_the_reader_of_the_specification_reads_every_encoding(reader, tmp_path, encoding):
    small.write_small(tmp_path, encoding=encoding)
    assert_reads_the_same(reader, tmp_path)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 56)])
def test_the_rendering_of_the_specification_is_ours(reader, encoded, height, width):
    sets = open_dataset(encoded).gaussians(slice(0, 6))
    rule = rule_of(encoded)
    theirs = np.stack([reader.render(one, height, width, rule) for one in sets])
    difference = np.abs(theirs - render_numpy(sets, height, width))
    assert np.quantile(difference, 0.99) < 1e-4  # a few pixels lie at a threshold of the rule


def test_the_recorded_psnr_is_that_of_the_rendering_of_the_specification(reader, encoded):
    dataset = open_dataset(encoded)
    rows = [row for row in dataset.rows.to_pylist() if row["status"] == "ok"]
    rule = rule_of(encoded)
    for sample, row in zip(dataset, rows[:3], strict=False):
        image = Image.open(encoded.parent / "src" / row["source"]).convert("RGB")
        target = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)) / 255
        error = np.mean((reader.render(sample.gaussians, 32, 32, rule) - target) ** 2)
        assert -10 * np.log10(error) == pytest.approx(row["psnr"], abs=0.01)


# ---------------------------------------------------------------- the frozen dataset


def test_the_frozen_dataset_is_untouched():
    data = (V1 / "SHA256SUMS").read_bytes()
    assert hashlib.sha256(data).hexdigest() == V1_SUMS_SHA256
    for name, sha256 in parse_checksums(data, "SHA256SUMS").items():
        assert hashlib.sha256((V1 / name).read_bytes()).hexdigest() == sha256


def test_version_1_is_read_as_it_was_when_it_was_written(reader):
    dataset = open_dataset(V1)
    sets = dataset.gaussians(slice(None))
    assert hashlib.sha256(sets.tobytes()).hexdigest() == V1_SETS_SHA256
    assert (sets.shape, len(dataset.failures)) == ((24, 24, 9), 1)
    assert dataset.manifest.splits == {"train": 18, "val": 6}
    assert dataset.failures["source"].to_pylist() == ["train/one/broken.png"]
    eight = dataset.by_key("val/eight/7")
    assert eight.label == dataset.manifest.classes.index("eight")
    assert sorted(set(dataset.labels.tolist())) == [0, 1, 2]
    assert_reads_the_same(reader, V1)


def test_a_reader_takes_no_offence_at_fields_and_files_of_a_later_gvit(tmp_path):
    shutil.copytree(V1, tmp_path / "v1")
    for path in (tmp_path / "v1").glob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "later": {"a": [1]}}))
    (tmp_path / "v1" / "later.bin").write_bytes(b"?")
    assert len(open_dataset(tmp_path / "v1")) == 24


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("dataset.json", {"schema_version": 2}, "has schema version 2 where this gvit reads version 1"),
        ("shard-000000.json", {"schema_version": 2}, "has schema version 2 where this gvit reads version 1"),
        ("dataset.json", {"encoding": "later"}, "its encoding 'later' is unknown: install the gvit"),
        ("dataset.json", {"render": {"rule": "sum"}}, "the field render.alpha_max is missing"),
    ],
)
def test_what_a_reader_does_not_know_it_refuses(tmp_path, name, change, sentence):
    shutil.copytree(V1, tmp_path / "v1")
    path = tmp_path / "v1" / name
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    with pytest.raises(DatasetError, match=sentence):
        open_dataset(tmp_path / "v1")


# ---------------------------------------------------------------- SHA256SUMS


def test_sha256sum_checks_a_dataset(encoded):
    done = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=encoded, capture_output=True)
    assert done.returncode == 0, done.stdout
    listed = set(parse_checksums((encoded / "SHA256SUMS").read_bytes(), "sums"))
    assert listed == set(small.files_of(encoded)) - {"SHA256SUMS"}


SHA = "0" * 64


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        f"{SHA} dataset.json\n".encode(),
        f"{SHA}  ../dataset.json\n".encode(),
        f"{SHA}  /etc/passwd\n".encode(),
        f"{SHA}  gaussians.zarr/../../x/0\n".encode(),
        f"{SHA}  dataset.json".encode(),
        f"{SHA}  dataset.json\n{SHA}  dataset.json\n".encode(),
        f"{SHA}  dataset.json\n{SHA}  README.md\n".encode(),
    ],
)
def test_checksums_of_anything_but_files_of_a_dataset_are_refused(data):
    with pytest.raises(DatasetError, match="sums"):
        parse_checksums(data, "sums")


def test_checksums_come_back():
    sums = {"dataset.json": SHA, "README.md": "1" * 64, "gaussians.zarr/gaussians/c/0/0/0": "2" * 64}
    assert parse_checksums(dump_checksums(sums), "sums") == sums
