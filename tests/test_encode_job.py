"""Every input once, and the same bytes whatever ran how and where."""

from __future__ import annotations

import hashlib
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import fake_encode as fake
import gvit
from gvit.images import decode_pool
from gvit.pipeline import worker


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return fake.make_flawed_source(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def reference(source, tmp_path_factory):
    """The files of an encode that nothing disturbed."""
    destination = tmp_path_factory.mktemp("reference") / "dst"
    fake.fake_encode(source, destination)
    return fake.files_of(destination)


# ---------------------------------------------------------------- what comes out


def test_every_input_is_exactly_once_in_the_rows_and_the_sets_are_the_fitters(source, tmp_path):
    summary = fake.fake_encode(source, tmp_path / "dst")
    dataset = gvit.open_dataset(tmp_path / "dst")
    inputs = sorted(str(path.relative_to(source)) for path in source.rglob("*.png"))
    rows = dataset.rows.to_pylist()
    assert sorted(row["source"] for row in rows) == inputs
    assert (summary.images, summary.failed) == (len(dataset), 2) == (2 * fake.PER_CLASS, 2)
    assert {row["source"]: row["error"] for row in rows if row["status"] == "failed"} == {
        fake.BROKEN: "image: the file is not an image of a known format",
        fake.FLAT_GRAY: "fit: the fit gave no finite result",
    }
    assert set(summary.failures) == {(r["source"], r["error"]) for r in rows if r["status"] == "failed"}
    ok = [row for row in rows if row["status"] == "ok"]
    for row, sample in list(zip(ok, dataset, strict=True))[::50]:
        with Image.open(source / row["source"]) as image:
            target = np.asarray(image.resize((fake.SIZE,) * 2, Image.Resampling.BICUBIC))
            assert (row["width"], row["height"]) == image.size
        colours = fake._grid(target, fake.NUM_GAUSSIANS)[:, 5:8]
        np.testing.assert_allclose(sample.gaussians[:, 5:8], colours, atol=1e-3)
        assert row["class"] == dataset.manifest.classes[sample.label]
        assert row["source_sha256"] == hashlib.sha256((source / row["source"]).read_bytes()).hexdigest()
        assert sample.key == row["key"]
    assert summary.psnr_mean == pytest.approx(np.mean([row["psnr"] for row in ok]), abs=1e-4)


def test_splits_share_one_dataset_and_no_shard(tmp_path):
    for split, count in (("train", 5), ("val", 3)):
        fake.make_source(tmp_path / "src" / split, classes=("b", "a"), per_class=count)
    fake.fake_encode(tmp_path / "src", tmp_path / "dst")
    dataset = gvit.open_dataset(tmp_path / "dst")
    assert dataset.manifest.splits == {"train": 10, "val": 6}
    assert dataset.manifest.classes == ("a", "b")
    assert [shard.split for shard in dataset.manifest.shards] == ["train", "val"]
    assert sorted(dataset.split("val").labels.tolist()) == [0, 0, 0, 1, 1, 1]


def test_a_source_of_broken_images_only_gives_a_dataset_without_sets(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.jpg").write_bytes(b"x")
    summary = fake.fake_encode(tmp_path / "src", tmp_path / "dst")
    assert (summary.images, summary.failed, summary.psnr_mean) == (0, 1, None)
    assert gvit.open_dataset(tmp_path / "dst").failures["source"].to_pylist() == ["a.jpg"]


@pytest.mark.parametrize(
    "run",
    [{"workers": 3}, {"workers": 9, "batch_size": 256}, {"batch_size": 7}, {"workers": 2, "device": "cpu"}],
)
def test_workers_batch_size_and_device_do_not_change_a_byte(source, reference, tmp_path, run):
    fake.fake_encode(source, tmp_path / "dst", **run)
    fake.assert_complete(tmp_path / "dst", reference)


def test_where_things_are_does_not_change_a_byte(source, reference, tmp_path, monkeypatch):
    moved = tmp_path / "somewhere else"
    shutil.copytree(source, moved)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    fake.fake_encode("somewhere else", "result")
    fake.assert_complete(tmp_path / "result", reference)
    for path in (tmp_path / "result").iterdir():
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes()


def test_the_card_tells_what_the_manifest_holds(source, reference, tmp_path):
    fake.fake_encode(source, tmp_path / "dst")
    card = (tmp_path / "dst" / "README.md").read_text()
    front = card.split("---\n")[1]
    assert "- split: train\n    path:\n    - shard-000000.parquet\n    - shard-000001.parquet\n" in front
    assert "500 images, each stored as 4 2D Gaussians" in card
    assert "{" not in card


# ---------------------------------------------------------------- decoders that die


DEADLY_DECODER = """
import os
from gvit.images.decode import decode_image

def decode(data, size, crop, color):
    if data == b"die":
        os._exit(11)
    return decode_image(data, size, crop)
"""


def test_an_image_that_kills_its_decoder_is_a_row_and_hurts_no_other(tmp_path, monkeypatch):
    root = fake.make_source(tmp_path / "src", classes=("a",), per_class=9)
    real = decode_pool.DecodePool

    def deadly(**options):
        return real(**options, decoder="deadly_decoder:decode")

    (tmp_path / "deadly_decoder.py").write_text(DEADLY_DECODER)
    (root / "a" / "poison.png").write_bytes(b"die")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(worker, "DecodePool", deadly)
    summary = fake.fake_encode(root, tmp_path / "dst", batch_size=3)
    assert (summary.images, summary.failed) == (9, 1)
    assert summary.failures == (("a/poison.png", "crash: the decoder crashed"),)


# ---------------------------------------------------------------- progress


def test_off_a_terminal_progress_is_plain_lines_now_and_then(source, tmp_path, monkeypatch):
    monkeypatch.setattr("gvit.pictures.progress.INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr("gvit.fitting.config._has_driver", lambda: False)
    out = io.StringIO()
    fake.fake_encode(source, tmp_path / "dst", console=Console(file=out), batch_size=256)
    understood, where, *lines = out.getvalue().splitlines()
    assert understood.startswith("Understood: 502 images")
    assert where == "encode: fitting on 1 CPU core (no GPU)"
    counts = [int(re.search(r"(\d+) of 502 images, ", line)[1]) for line in lines]
    assert counts[0] == 1  # a short first batch: whoever looks sees soon that images come out
    assert counts[-1] == 502
    assert 256 in counts
    assert counts == sorted(counts)
    assert re.match(r"encode: 0 s to go, .* 2 failed, \S+ images/s, 26\.\d\d dB$", lines[-1])


def test_on_a_terminal_progress_is_a_bar(source, tmp_path):
    out = io.StringIO()
    fake.fake_encode(source, tmp_path / "dst", console=Console(file=out, force_terminal=True, width=120))
    assert "502 of 502 images" in out.getvalue()
    assert "2 failed" in out.getvalue()
