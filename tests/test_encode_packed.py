"""The job's promises hold for images in tar and Parquet files too."""

import sys

import pytest
from rich.console import Console

from fake_encode import (
    CountingFitters,
    FakeFitter,
    assert_complete,
    fake_config,
    fake_encode,
    files_of,
    journaled,
    kill_after_first_block,
    run_script,
)
from gvit.commands import app as cli
from gvit.dataset.reader import open_dataset
from gvit.images.originals import Originals
from gvit.pipeline.dry_run import estimate
from gvit.schemas import GvitError, table_to_rows
from packed_sources import DIGIT_NAMES, digit_files, digit_members, write_parquet, write_tar

IMAGES = 320  # in two blocks
BROKEN = 5


def make_tars(folder):
    members = dict(digit_members(0, IMAGES - 20))
    members["000005.jpg"] = b"no image"
    write_tar(folder / "train-0.tar", members.items())
    write_tar(folder / "val-0.tar", digit_members(IMAGES - 20, 20))
    return folder


def make_parquet(folder):
    files, labels = digit_files(IMAGES)
    files[BROKEN] = b"no image"
    write_parquet(folder / "train-0.parquet", files[:-20], labels[:-20], DIGIT_NAMES, rows_in_group=100)
    write_parquet(folder / "val-0.parquet", files[-20:], labels[-20:], DIGIT_NAMES, rows_in_group=100)
    return folder


MAKERS = {"tar": make_tars, "parquet": make_parquet}


@pytest.fixture(params=MAKERS, scope="module")
def source(request, tmp_path_factory):
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param) / "src")


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    destination = tmp_path_factory.mktemp("finished") / "dst"
    summary = fake_encode(source, destination)
    assert (summary.images, summary.failed) == (IMAGES - 1, 1)
    return destination


def test_every_image_is_a_row_and_the_broken_one_says_why(source, finished):
    dataset = open_dataset(finished)
    rows = table_to_rows(dataset.rows)
    assert len({row.source for row in rows}) == len({row.key for row in rows}) == IMAGES
    (failed,) = (row for row in rows if row.status == "failed")
    assert (failed.error, failed.source[-8:]) in {
        ("image: the file is not an image of a known format", "0005.jpg"),
        ("image: the file is not an image of a known format", "00000005"),
    }
    assert dataset.manifest.splits == {"train": IMAGES - 21, "val": 20}
    assert len(dataset.manifest.classes) == 10
    assert all(row.class_name == dataset.manifest.classes[row.label] for row in rows)


def test_the_originals_are_found_again_and_are_the_same(source, finished):
    dataset = open_dataset(finished)
    originals = Originals(source, dataset.manifest)
    rows = [row for row in table_to_rows(dataset.rows) if row.status == "ok"]
    assert all(originals.find(row).pixels is not None for row in rows[::30])


@pytest.mark.parametrize("workers", [2, 3])
def test_the_bytes_do_not_depend_on_workers_or_batches(source, finished, tmp_path, workers):
    fake_encode(source, tmp_path / "dst", workers=workers, batch_size=7 * workers)
    assert files_of(tmp_path / "dst") == files_of(finished)


def test_a_killed_encode_resumes_to_the_same_bytes(source, finished, tmp_path):
    destination = tmp_path / "dst"
    kill_after_first_block("slow:0.2", source, destination, "batch_size=64")
    assert journaled(destination)
    fitters = CountingFitters()
    fake_encode(source, destination, fitter_factory=fitters)
    assert fitters.images < IMAGES - 1
    assert_complete(destination, files_of(finished))


@pytest.mark.parametrize("moment", [2, 9, 17])
def test_a_kill_at_any_moment_costs_no_byte(source, finished, tmp_path, moment):
    run_script(f"kill:{moment}", source, tmp_path / "dst")
    run_script("run", source, tmp_path / "dst", expect=0)
    assert_complete(tmp_path / "dst", files_of(finished))


@pytest.mark.parametrize("kind", MAKERS)
def test_a_mended_image_is_tried_again_and_nothing_else(kind, tmp_path):
    destination = tmp_path / "dst"
    source = MAKERS[kind](tmp_path / "src")
    fake_encode(source, destination)
    if kind == "tar":
        write_tar(source / "train-0.tar", digit_members(0, IMAGES - 20))
    else:
        files, labels = digit_files(IMAGES)
        write_parquet(source / "train-0.parquet", files[:-20], labels[:-20], DIGIT_NAMES, rows_in_group=100)
    fitters = CountingFitters()
    summary = fake_encode(source, destination, retry_failed=True, fitter_factory=fitters)
    assert (summary.images, summary.failed, fitters.images) == (IMAGES, 0, 1)


def test_a_dry_run_counts_and_writes_nothing(source, tmp_path):
    found = estimate(fake_config(source, tmp_path / "dst"), fitter_factory=FakeFitter)
    assert (found.images, found.splits, len(found.classes)) == (IMAGES, {"train": 300, "val": 20}, 10)
    assert found.seconds is not None
    assert not (tmp_path / "dst").exists()


def test_one_file_is_a_source_too(tmp_path):
    make_tars(tmp_path)
    summary = fake_encode(tmp_path / "val-0.tar", tmp_path / "dst", console=Console(quiet=True))
    assert (summary.images, open_dataset(tmp_path / "dst").manifest.splits) == (20, {"val": 20})


def test_a_tar_without_an_image_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys):
    write_tar(tmp_path / "a.tar", [("a.txt", b"text")])
    monkeypatch.setattr(sys, "argv", ["gvit", "encode", str(tmp_path / "a.tar"), str(tmp_path / "dst")])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    err = capsys.readouterr().err
    assert err.startswith(
        f"Error: {tmp_path / 'a.tar'} holds no image: no member of a tar file ends with .avif, .bmp"
    )
    assert err.count("\n") == 1
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize("inside", [".", "out", "a/b/out"])
def test_a_destination_within_the_source_is_refused(tmp_path, inside):
    make_tars(tmp_path)
    with pytest.raises(GvitError, match=r"lies in .*; choose a folder outside of it"):
        fake_encode(tmp_path, tmp_path / inside)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train-0.tar", "val-0.tar"]
