"""A dataset that goes to a URL: the bytes of a local one, and nothing half-written is ever taken for done."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import fsspec
import numpy as np
import pytest

import fake_encode as fake
import fake_store as store
import gvit
from gvit.commands import app as cli
from gvit.dataset.remote.transfer import pull
from gvit.pipeline.place import lease
from gvit.pipeline.place.lease import STALE_SECONDS
from gvit.pipeline.progress import status_of
from gvit.schemas import DatasetError, GvitError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return fake.make_flawed_source(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def reference(source, tmp_path_factory):
    """The files of an encode to a folder that nothing disturbed."""
    destination = tmp_path_factory.mktemp("reference") / "dst"
    fake.fake_encode(source, destination)
    return fake.files_of(destination)


@pytest.fixture(autouse=True)
def bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("GVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(store.BucketFileSystem, "before", staticmethod(lambda *_: None))
    store.register()
    return tmp_path / "bucket"


def run_script(action, source, folder, *options, expect=None):
    command = [sys.executable, store.__file__, action, str(source), store.url_of(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert expect is None or done.returncode == expect, done.stderr
    return done


def assert_complete(folder, reference, cache):
    assert fake.files_of(folder) == reference
    assert not [path for path in folder.glob(".gvit/journal/**/*") if path.is_file()]
    assert not (folder / ".gvit" / "lease").exists()
    assert not list(cache.glob("encode/*/scratch/*"))


def assert_whole_or_none(folder, files):
    """What can be opened is a dataset of exactly these files."""
    try:
        opened = gvit.open_dataset(store.url_of(folder))
    except DatasetError:
        return
    assert fake.files_of(opened.path) == files


# ---------------------------------------------------------------- the same bytes


def test_a_store_without_renames_gets_the_bytes_of_a_folder(source, reference, bucket, tmp_path):
    summary = fake.fake_encode(source, store.url_of(bucket / "set"))
    assert (summary.images, summary.failed) == (2 * fake.PER_CLASS, 2)
    assert_complete(bucket / "set", reference, tmp_path / "cache")
    dataset = gvit.open_dataset(store.url_of(bucket / "set"))
    assert len(dataset) == 2 * fake.PER_CLASS
    assert fake.files_of(dataset.path) == reference


def test_any_place_that_fsspec_knows_will_do(source, reference, tmp_path):
    fake.fake_encode(source, "memory://place/set")
    pull("memory://place/set", tmp_path / "back")
    assert fake.files_of(tmp_path / "back") == reference
    fsspec.filesystem("memory").store.clear()
    fake.fake_encode(source, f"file://{tmp_path}/folder")
    assert_complete(tmp_path / "folder", reference, tmp_path / "cache")


def test_a_finished_dataset_is_left_alone_and_its_numbers_told_again(source, reference, bucket):
    url = store.url_of(bucket / "set")
    first = fake.fake_encode(source, url)
    before = {path: path.stat().st_mtime_ns for path in bucket.glob("set/[!.]*")}

    def no_fitter(*_):
        raise AssertionError("nothing is left to fit")

    again = fake.fake_encode(source, url, fitter_factory=no_fitter)
    assert (again.images, again.failed, again.psnr_mean) == (first.images, first.failed, first.psnr_mean)
    assert {path: path.stat().st_mtime_ns for path in bucket.glob("set/[!.]*")} == before


def test_the_done_mark_is_written_after_the_files_and_the_checksums_last_of_all(source, bucket, monkeypatch):
    order = []
    note = lambda action, path, *_: order.append((action, Path(path).name))  # noqa: E731
    monkeypatch.setattr(store.BucketFileSystem, "before", staticmethod(note))
    fake.fake_encode(source, store.url_of(bucket / "set"))
    written = [name for action, name in order if action == "write"]
    for shard in ("shard-000000", "shard-000001"):
        mark = written.index(f"{shard}.json")
        assert mark > written.index(f"{shard}.tar")
        assert mark > written.index(f"{shard}.parquet")
    promises = [n for n in written if n in ("README.md", "dataset.json", "SHA256SUMS") or "shard-" in n]
    assert promises[-3:] == ["README.md", "dataset.json", "SHA256SUMS"]
    order.clear()
    fake.fake_encode(source, store.url_of(bucket / "set"), retry_failed=True)
    assert order.index(("remove", "SHA256SUMS")) < order.index(("remove", "dataset.json"))
    first = order.index(("remove", "shard-000000.json"))
    assert order.index(("remove", "dataset.json")) < first < order.index(("write", "shard-000000.tar"))


# ---------------------------------------------------------------- kills and failures


@pytest.mark.parametrize("kills", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_an_encode_killed_amid_any_write_is_finished_by_another_machine(
    source, reference, tmp_path, bucket, kills, monkeypatch
):
    writes = int(run_script("count", source, bucket / "count", expect=0).stdout)
    assert writes > 20
    chance = random.Random(kills)
    for write in [chance.randint(1, writes) for _ in range(kills)]:
        folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "set"
        run_script(f"kill:{write}", source, folder, expect=-signal.SIGKILL)
        assert_whole_or_none(folder, reference)
        cache = Path(tempfile.mkdtemp(dir=tmp_path))
        monkeypatch.setenv("GVIT_CACHE", str(cache))  # an empty disk
        fake.fake_encode(source, store.url_of(folder))
        assert_complete(folder, reference, cache)


def test_a_kill_costs_at_most_one_block(source, reference, bucket, tmp_path):
    command = [sys.executable, store.__file__, "slow:0.1", str(source), store.url_of(bucket / "set")]
    process = subprocess.Popen([*command, "batch_size=16"], stderr=subprocess.DEVNULL)
    fake.wait_for(lambda: fake.journaled(bucket / "set"))
    with pytest.raises(GvitError, match=f"bucket://.*/set is being encoded by process {process.pid}"):
        fake.fake_encode(source, store.url_of(bucket / "set"))
    process.kill()
    process.wait()
    fitters = fake.CountingFitters()
    fake.fake_encode(source, store.url_of(bucket / "set"), fitter_factory=fitters)
    assert fitters.images <= fake.IMAGES - 255
    assert_complete(bucket / "set", reference, tmp_path / "cache")


def test_shards_that_are_done_are_not_made_again_on_an_empty_disk(source, reference, bucket, tmp_path):
    fake.fake_encode(source, store.url_of(bucket / "set"))
    (bucket / "set" / "shard-000001.parquet").unlink()
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    fitters = fake.CountingFitters()
    fake.fake_encode(source, store.url_of(bucket / "set"), fitter_factory=fitters)
    assert fitters.images <= fake.IMAGES - fake.SHARD_SIZE
    assert_complete(bucket / "set", reference, tmp_path / "cache")


@pytest.mark.parametrize("name", ["shard-000001.tar", "shard-000000.json", "dataset.json", "00000256"])
def test_a_write_that_fails_is_one_sentence_and_a_resume_finishes(
    source, reference, bucket, tmp_path, name, monkeypatch
):
    def fail(_action, path, value=b""):
        if Path(path).name == name and value:
            Path(store.BucketFileSystem._strip_protocol(path)).write_bytes(value[:7])
            raise OSError("the connection was reset")

    with monkeypatch.context() as patched:
        patched.setattr(store.BucketFileSystem, "before", staticmethod(fail))
        with pytest.raises(GvitError, match=r"bucket://.*/set cannot be written: the connection was reset"):
            fake.fake_encode(source, store.url_of(bucket / "set"))
    fake.fake_encode(source, store.url_of(bucket / "set"))
    assert_complete(bucket / "set", reference, tmp_path / "cache")


def test_a_lost_lease_stops_the_run_before_it_commits(source, bucket):
    class Thief(fake.FakeFitter):
        def fit(self, targets, keys):
            lease = bucket / "set" / ".gvit" / "lease"
            lease.write_text(json.dumps(json.loads(lease.read_text()) | {"token": "other"}))
            return super().fit(targets, keys)

    with pytest.raises(GvitError, match=r"another gvit encode has taken over bucket://"):
        fake.fake_encode(source, store.url_of(bucket / "set"), fitter_factory=Thief)
    assert not list((bucket / "set").glob("shard-*"))


@pytest.mark.parametrize(("age", "taken"), [(STALE_SECONDS - 20, False), (STALE_SECONDS + 20, True)])
def test_another_machines_lease_is_taken_over_only_when_its_heartbeat_stopped(
    source, reference, bucket, tmp_path, age, taken
):
    import time

    lease = bucket / "set" / ".gvit" / "lease"
    lease.parent.mkdir(parents=True)
    holder = {"host": "elsewhere", "pid": 1, "start": "x", "token": "y", "beat": time.time() - age}
    lease.write_text(json.dumps(holder))
    if taken:
        fake.fake_encode(source, store.url_of(bucket / "set"))
        assert_complete(bucket / "set", reference, tmp_path / "cache")
    else:
        with pytest.raises(GvitError, match="on host elsewhere"):
            fake.fake_encode(source, store.url_of(bucket / "set"))


# ---------------------------------------------------------------- retries and replacements


def test_retrying_fits_only_what_failed_and_ends_with_the_bytes_of_a_good_source(source, bucket, tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    shutil.copytree(source, good)
    shutil.copytree(source, bad)
    fake.save_image(good / fake.BROKEN, np.full((5, 6, 3), 200))
    fake.save_image(good / fake.FLAT_GRAY, np.full((8, 8, 3), 10))
    fake.fake_encode(good, tmp_path / "expected")
    fake.fake_encode(bad, store.url_of(bucket / "set"))
    for name in (fake.BROKEN, fake.FLAT_GRAY):
        shutil.copyfile(good / name, bad / name)
    fitters = fake.CountingFitters()
    summary = fake.fake_encode(bad, store.url_of(bucket / "set"), retry_failed=True, fitter_factory=fitters)
    assert (summary.images, summary.failed, fitters.images) == (fake.IMAGES, 0, 2)
    assert_complete(bucket / "set", fake.files_of(tmp_path / "expected"), tmp_path / "cache")


def test_another_dataset_is_refused_and_replaced_only_when_asked(source, reference, bucket, tmp_path):
    url = store.url_of(bucket / "set")
    fake.fake_encode(source, url, seed=1, shard_size=40)
    (bucket / "set" / "notes.txt").write_text("mine")
    with pytest.raises(GvitError, match=r"bucket://.*/set holds another dataset \(seed is 1 there and 0"):
        fake.fake_encode(source, url)
    fake.fake_encode(source, url, overwrite=True)
    assert fake.files_of(bucket / "set").keys() == reference.keys() | {"notes.txt"}
    (bucket / "set" / "notes.txt").unlink()
    assert_complete(bucket / "set", reference, tmp_path / "cache")


@pytest.mark.parametrize("option", ["overwrite=1", "retry_failed=1"])
def test_a_killed_replacement_or_retry_is_finished_by_the_same_command(source, bucket, option):
    finished, expected = bucket / "finished", {}
    fake.fake_encode(source, store.url_of(finished), seed=1)
    for seed in (0, 1):
        fake.fake_encode(source, store.url_of(bucket / f"seed{seed}"), seed=seed)
        expected[seed] = fake.files_of(bucket / f"seed{seed}")
    seed = 0 if option.startswith("overwrite") else 1
    for write in (2, 6, 13):
        folder = bucket / f"killed{write}"
        shutil.copytree(finished, folder)
        run_script(f"kill:{write}", source, folder, f"seed={seed}", option, expect=-signal.SIGKILL)
        assert_whole_or_none(folder, expected[1])
        name, _, _ = option.partition("=")
        fake.fake_encode(source, store.url_of(folder), seed=seed, **{name: True})
        assert fake.files_of(folder) == expected[seed]
        assert not fake.journaled(folder)


def test_a_place_with_something_else_is_refused_and_not_touched(source, bucket):
    (bucket / "set").mkdir(parents=True)
    (bucket / "set" / "shard-000000.tar").write_text("somebody's")
    for overwrite in (False, True):
        with pytest.raises(GvitError, match=r"holds no gvit dataset \(there is shard-000000.tar\)"):
            fake.fake_encode(source, store.url_of(bucket / "set"), overwrite=overwrite)
    assert fake.files_of(bucket / "set").keys() == {"shard-000000.tar"}


# ---------------------------------------------------------------- what users see


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nosuch://bucket/set", "cannot be reached: Protocol not known"),
        ("hf://datasets/me/set", r"encode into a folder, then: gvit push DST hf://datasets/me/set"),
    ],
)
def test_a_place_that_takes_no_dataset_is_one_sentence(source, url, sentence):
    with pytest.raises(GvitError, match=sentence):
        fake.fake_encode(source, url)


@pytest.mark.parametrize(("url", "package"), [("s3://bucket/set", "s3fs"), ("gs://bucket/set", "gcsfs")])
def test_a_missing_package_is_named(source, url, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        GvitError, match=rf"needs {package}, which is not installed: pip install 'gvit\[(s3|gs)\]'"
    ):
        fake.fake_encode(source, url)


def test_a_disk_that_cannot_be_written_is_named_before_work(source, bucket, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GVIT_CACHE", str(tmp_path / "file"))

    def no_fitter(*_):
        raise AssertionError("work has begun")

    with pytest.raises(GvitError, match=r"file/encode/.* cannot be written .*set GVIT_CACHE to a folder"):
        fake.fake_encode(source, store.url_of(bucket / "set"), fitter_factory=no_fitter)


def test_what_killed_runs_left_on_this_disk_goes(source, bucket, tmp_path):
    fake.fake_encode(source, store.url_of(bucket / "set"))
    (base,) = (tmp_path / "cache").glob("encode/set-*/scratch")
    (base / "deadbeef-x").mkdir()
    (base / "deadbeef-x" / "shard-000000.tar").touch()
    fake.fake_encode(source, store.url_of(bucket / "set"))
    assert not list(base.iterdir())


def test_arrays_are_for_folders(source):
    with pytest.raises(GvitError, match="format zarr needs a folder"):
        fake.fake_encode(source, "bucket:///set", format="zarr")


def test_status_tells_of_a_url_what_it_tells_of_a_folder(source, bucket, monkeypatch, capsys):
    url = store.url_of(bucket / "set")
    with pytest.raises(GvitError, match=r"bucket://.*/set holds no dataset, begun or finished"):
        status_of(Path(url))
    run_script("kill:15", source, bucket / "set", "batch_size=16", expect=-signal.SIGKILL)
    stopped = status_of(Path(url))
    assert (stopped.state, stopped.standing.total) == ("stopped", fake.IMAGES)
    fake.fake_encode(source, url)
    monkeypatch.setattr(sys, "argv", ["gvit", "status", url])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(f"{url}: finished\n502 of 502 images, 2 failed, 26.")
