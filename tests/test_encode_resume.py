"""Killed, interrupted or retried: the same plan ends with the same bytes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

import fake_encode as fake
import gvit
from gvit.schemas import DatasetError, GvitError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return fake.make_flawed_source(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def reference(source, tmp_path_factory):
    """The files of an encode that nothing disturbed."""
    destination = tmp_path_factory.mktemp("reference") / "dst"
    fake.fake_encode(source, destination)
    return fake.files_of(destination)


# ---------------------------------------------------------------- kills and resumes


@pytest.mark.parametrize("kills", [15, pytest.param(100, marks=pytest.mark.slow)])
def test_an_encode_killed_at_any_moment_resumes_to_the_same_bytes(source, reference, tmp_path, kills):
    moments = int(fake.run_script("count", source, tmp_path / "count", expect=0).stdout)
    assert moments > 40
    chance = random.Random(kills)
    for moment in [chance.randint(1, moments) for _ in range(kills)]:
        destination = Path(tempfile.mkdtemp(dir=tmp_path)) / "dst"
        fake.run_script(f"kill:{moment}", source, destination, expect=-signal.SIGKILL)
        if (destination / "dataset.json").exists():  # the kill came after the promise
            assert len(gvit.open_dataset(destination)) == 2 * fake.PER_CLASS
        else:
            with pytest.raises(DatasetError):
                gvit.open_dataset(destination)
        fake.fake_encode(source, destination)
        fake.assert_complete(destination, reference)


def test_an_encode_killed_again_and_again_gets_there(source, reference, tmp_path):
    for _ in range(40):
        done = fake.run_script("kill:20", source, tmp_path / "dst")
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    fake.assert_complete(tmp_path / "dst", reference)


def test_a_kill_costs_at_most_one_block(source, reference, tmp_path):
    destination = tmp_path / "dst"
    fake.kill_after_first_block("slow:0.05", source, destination, "batch_size=16")
    fitters = fake.CountingFitters()
    summary = fake.fake_encode(source, destination, fitter_factory=fitters)
    assert (
        fitters.images <= 2 * fake.PER_CLASS + 2 - 255
    )  # 256 were fake.journaled, one of them broken perhaps
    assert (summary.images, summary.failed) == (2 * fake.PER_CLASS, 2)
    fake.assert_complete(destination, reference)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_encode_leaves_no_lease_and_no_temporary_and_resumes(
    source, reference, tmp_path, number
):
    destination = tmp_path / "dst"
    process = fake.start_script("slow:0.2", source, destination, "batch_size=64")
    fake.wait_for(lambda: fake.journaled(destination))
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode not in (0, 2)
    if number == signal.SIGINT:  # SIGTERM is turned into the same by the command line only
        assert not (destination / ".gvit" / "lease").exists()
    assert not list(destination.glob("*.tmp"))
    fake.fake_encode(source, destination)
    fake.assert_complete(destination, reference)


def test_a_second_live_run_is_refused_and_the_first_finishes(source, reference, tmp_path):
    destination = tmp_path / "dst"
    process = fake.start_script("slow:0.04", source, destination)
    fake.wait_for((destination / ".gvit" / "run.json").exists)
    with pytest.raises(GvitError, match=f"process {process.pid} on this machine"):
        fake.fake_encode(source, destination)
    process.communicate(timeout=60)
    assert process.returncode == 0
    fake.assert_complete(destination, reference)


def test_a_finished_dataset_is_left_alone_and_its_numbers_told_again(source, reference, tmp_path):
    first = fake.fake_encode(source, tmp_path / "dst")

    def no_fitter(*_):
        raise AssertionError("nothing is left to fit")

    again = fake.fake_encode(source, tmp_path / "dst", fitter_factory=no_fitter)
    assert (again.images, again.failed, again.psnr_mean) == (first.images, first.failed, first.psnr_mean)
    assert again.images_per_second == 0
    fake.assert_complete(tmp_path / "dst", reference)


def test_a_shard_whose_file_got_lost_or_cut_is_made_again(source, reference, tmp_path):
    destination = tmp_path / "dst"
    fake.fake_encode(source, destination)
    (destination / "shard-000001.parquet").unlink()
    with (destination / "shard-000000.tar").open("r+b") as tar:
        tar.truncate(1000)
    fake.fake_encode(source, destination)
    fake.assert_complete(destination, reference)


def test_each_run_is_on_record_outside_the_dataset(source, tmp_path):
    for _ in range(2):
        fake.fake_encode(source, tmp_path / "dst")
    runs = json.loads((tmp_path / "dst" / ".gvit" / "run.json").read_text())["runs"]
    assert [(run["images"], run["outcome"]) for run in runs] == [(502, "finished"), (0, "finished")]
    events = [
        json.loads(line) for line in (tmp_path / "dst" / ".gvit" / "events.jsonl").read_text().splitlines()
    ]
    assert [event["event"] for event in events] == ["start", "shard", "shard", "end", "end"]


# ---------------------------------------------------------------- retries


def test_retrying_fits_only_what_failed_and_ends_with_the_bytes_of_a_good_source(source, tmp_path):
    good = tmp_path / "good"
    shutil.copytree(source, good)
    fake.save_image(good / fake.BROKEN, np.full((5, 6, 3), 200))
    fake.save_image(good / fake.FLAT_GRAY, np.full((8, 8, 3), 10))
    fake.fake_encode(good, tmp_path / "expected")

    bad, destination = tmp_path / "bad", tmp_path / "dst"
    shutil.copytree(source, bad)
    fake.fake_encode(bad, destination)
    shutil.copyfile(good / fake.BROKEN, bad / fake.BROKEN)
    shutil.copyfile(good / fake.FLAT_GRAY, bad / fake.FLAT_GRAY)
    assert fake.fake_encode(bad, destination).failed == 2  # nobody asked for a retry
    fitters = fake.CountingFitters()
    summary = fake.fake_encode(bad, destination, retry_failed=True, fitter_factory=fitters)
    assert fitters.images == 2
    assert (summary.images, summary.failed) == (2 * fake.PER_CLASS + 2, 0)
    fake.assert_complete(destination, fake.files_of(tmp_path / "expected"))


def test_a_retry_that_is_killed_loses_nothing(source, reference, tmp_path):
    finished = tmp_path / "finished"
    fake.fake_encode(source, finished)
    for moment in (9, 14, 20):
        destination = tmp_path / f"killed-{moment}"
        shutil.copytree(finished, destination)
        fake.run_script(f"kill:{moment}", source, destination, "retry_failed=1", expect=-signal.SIGKILL)
        fake.fake_encode(source, destination)
        fake.assert_complete(destination, reference)


def test_failures_of_an_unfinished_shard_are_retried_too(source, tmp_path):
    bad, destination = tmp_path / "bad", tmp_path / "dst"
    shutil.copytree(source, bad)
    fake.kill_after_first_block("slow:0.2", bad, destination, "batch_size=128")
    fake.save_image(bad / fake.BROKEN, np.full((5, 6, 3), 200))
    fake.save_image(bad / fake.FLAT_GRAY, np.full((5, 6, 3), 20))
    assert fake.fake_encode(bad, destination, retry_failed=True).failed == 0
