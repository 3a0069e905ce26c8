"""Only its own folder, and only what is of a gvit dataset in it, is ever written or deleted."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest

import fake_encode as fake
from gvit.pipeline import run as run_module
from gvit.pipeline.place.folder import Folder
from gvit.pipeline.place.lease import Lease
from gvit.schemas import GvitError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return fake.make_flawed_source(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def reference(source, tmp_path_factory):
    """The files of an encode that nothing disturbed."""
    destination = tmp_path_factory.mktemp("reference") / "dst"
    fake.fake_encode(source, destination)
    return fake.files_of(destination)


# ---------------------------------------------------------------- destinations that will not do


def test_a_file_as_destination_is_refused(source, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(GvitError, match="is not a folder"):
        fake.fake_encode(source, tmp_path / "file")
    with pytest.raises(GvitError, match="file"):
        fake.fake_encode(source, tmp_path / "file" / "below")
    with pytest.raises(GvitError, match="cannot be created"):
        fake.fake_encode(source, Path("/proc/no/such/place"))
    with pytest.raises(GvitError, match="cannot be read"):
        fake.fake_encode(source, tmp_path / ("x" * 300))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_with_something_else_is_refused_even_with_overwrite_and_not_touched(source, tmp_path):
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst" / "shard-000000.tar").write_text("somebody's")
    for overwrite in (False, True):
        with pytest.raises(GvitError, match=r"holds no gvit dataset \(there is shard-000000.tar\)"):
            fake.fake_encode(source, tmp_path / "dst", overwrite=overwrite)
    assert [path.name for path in (tmp_path / "dst").iterdir()] == ["shard-000000.tar"]


def test_another_dataset_is_refused_with_the_differing_fields_named_and_not_touched(
    source, reference, tmp_path
):
    destination = tmp_path / "dst"
    fake.fake_encode(source, destination)
    with pytest.raises(GvitError, match=r"seed is 0 there and 1 here.*choose another folder"):
        fake.fake_encode(source, destination, seed=1)
    fake.assert_complete(destination, reference)


def test_settings_may_be_changed_as_long_as_nothing_is_finished(source, reference, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fake.fake_encode(source, tmp_path / "dst", seed=5, fitter_factory=interrupted)
    fake.fake_encode(source, tmp_path / "dst")
    fake.assert_complete(tmp_path / "dst", reference)


def test_overwrite_replaces_a_dataset_and_spares_what_is_not_of_it(source, reference, tmp_path):
    destination = tmp_path / "dst"
    fake.fake_encode(source, destination, shard_size=40, seed=1)
    (destination / "notes.txt").write_text("mine")
    (destination / "shard-000000.tar.bak").write_text("mine")
    fake.fake_encode(source, destination, overwrite=True)
    mine = {"notes.txt", "shard-000000.tar.bak"}
    left = fake.files_of(destination)
    assert left.keys() == reference.keys() | mine
    assert left == left | reference


def test_overwrite_begins_anew_once_and_goes_on_when_it_was_interrupted(source, reference, tmp_path):
    destination = tmp_path / "dst"
    fake.fake_encode(source, destination)
    fake.kill_after_first_block("slow:0.1", source, destination, "batch_size=128", "overwrite=1")
    fitters = fake.CountingFitters()
    options = {"overwrite": True, "fitter_factory": fitters}
    fake.fake_encode(source, destination, **options)
    assert fitters.images <= 2 * fake.PER_CLASS + 2 - 255
    fake.assert_complete(destination, reference)
    fake.fake_encode(source, destination, **options)  # complete: this time it does begin anew
    assert sum(fitters[1].batches) == 2 * fake.PER_CLASS + 1
    fake.assert_complete(destination, reference)


def test_a_killed_overwrite_leaves_a_folder_that_can_still_be_overwritten(source, reference, tmp_path):
    for moment in (1, 5, 9):
        destination = tmp_path / f"killed-{moment}"
        fake.fake_encode(source, destination, seed=1)
        fake.run_script(f"kill:{moment}", source, destination, "overwrite=1", expect=-signal.SIGKILL)
        fake.fake_encode(source, destination, overwrite=True)
        fake.assert_complete(destination, reference)


def test_a_dataset_without_its_private_folder_is_not_continued_but_may_be_overwritten(
    source, reference, tmp_path
):
    destination = tmp_path / "dst"
    fake.fake_encode(source, destination)
    shutil.rmtree(destination / ".gvit")
    with pytest.raises(GvitError, match=r"without its .gvit folder.*--overwrite"):
        fake.fake_encode(source, destination)
    fake.fake_encode(source, destination, overwrite=True)
    fake.assert_complete(destination, reference)


def test_a_full_disk_is_one_sentence_and_a_resume_finishes(source, reference, tmp_path):
    destination = tmp_path / "dst"
    limited = fake.run_script("limit:20000", source, destination, expect=2)
    assert "\nError: no space is left for " in limited.stderr
    assert limited.stderr.count("\n") == 3  # what was understood, where it fits, and the sentence
    assert "run the same command again" in limited.stderr
    assert not list(destination.rglob("*.tmp"))
    fake.fake_encode(source, destination)
    fake.assert_complete(destination, reference)


@pytest.mark.parametrize("call", [1, 4, 8, 20])
def test_a_disk_that_fills_up_at_any_flush_is_survived(source, reference, tmp_path, monkeypatch, call):
    flush, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) >= call:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(GvitError, match="no space is left"):
            fake.fake_encode(source, tmp_path / "dst")
    assert not list((tmp_path / "dst").rglob("*.tmp"))
    fake.fake_encode(source, tmp_path / "dst")
    fake.assert_complete(tmp_path / "dst", reference)


def test_a_read_only_destination_is_one_sentence(source, tmp_path, monkeypatch):
    def refuse(self, *_args, **_options):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        GvitError, match=r"cannot be written \(Read-only file system\); choose another folder"
    ):
        fake.fake_encode(source, tmp_path / "dst")


def test_a_destination_that_is_deleted_underneath_is_one_sentence(source, tmp_path):
    destination = tmp_path / "dst"

    class Deleter(fake.FakeFitter):
        def fit(self, targets, keys):
            shutil.rmtree(destination, ignore_errors=True)
            return super().fit(targets, keys)

    with pytest.raises(GvitError, match="cannot be used"):
        fake.fake_encode(source, destination, fitter_factory=Deleter)


def test_a_lease_that_is_lost_after_the_last_shard_stops_the_run_too(source, tmp_path, monkeypatch):
    destination = tmp_path / "dst"
    journal = destination / ".gvit" / "journal" / "shard-000000"

    def work_and_lose(*arguments, **options):
        run_inline(*arguments, **options)
        (destination / ".gvit" / "lease").unlink()
        journal.mkdir(parents=True)  # of whoever took over

    run_inline = run_module.run_inline
    monkeypatch.setattr(run_module, "run_inline", work_and_lose)
    with pytest.raises(GvitError, match="taken over"):
        fake.fake_encode(source, destination)
    assert journal.is_dir()
    assert not (destination / "dataset.json").exists()


def test_a_lost_lease_stops_the_run_before_it_commits(source, tmp_path):
    destination = tmp_path / "dst"

    class Thief(fake.FakeFitter):
        def fit(self, targets, keys):
            (destination / ".gvit" / "lease").unlink(missing_ok=True)
            return super().fit(targets, keys)

    with pytest.raises(GvitError, match="taken over"):
        fake.fake_encode(source, destination, fitter_factory=Thief)
    assert not list(destination.glob("shard-*"))
    assert not Lease(Folder(destination)).claim.still_ours()
