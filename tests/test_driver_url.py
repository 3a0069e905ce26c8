"""Workers that write to a URL share nothing else: whatever dies, the dataset is that of one process."""

from __future__ import annotations

import pytest

import fake_crew as crews
import fake_encode as fake
import fake_store as store
from gvit.dataset.remote.transfer import pull
from gvit.pipeline.engines import driver as driver_module
from gvit.pipeline.engines import remote_worker
from gvit.pipeline.engines.cluster import Layout
from gvit.pipeline.engines.driver import POISON, Driver
from gvit.pipeline.place import lease
from gvit.pipeline.place import store as store_module
from gvit.schemas import GvitError


@pytest.fixture
def url(tmp_path, monkeypatch):
    """A bucket, a cache folder of this test's own, and no waiting."""
    monkeypatch.setenv("GVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(store_module, "REQUEST_SECONDS", 0.0)
    store.register()
    return store.url_of(tmp_path / "bucket" / "set")


@pytest.fixture
def encode_with(monkeypatch):
    from gvit.pipeline.engines import ray as engine_ray

    def run(crew, *arguments, **options):
        def run_local(job, shards):
            Driver(job, crew, Layout(2, 1, 0.0), shards).work()
            return job.spec.device

        monkeypatch.setattr(engine_ray, "run_ray", run_local)
        return fake.fake_encode(*arguments, engine="ray", **options)

    return run


def test_workers_upload_their_shards_and_the_bytes_are_those_of_a_folder(encode_with, url, tmp_path):
    root = fake.make_flawed_source(tmp_path / "src")
    fake.fake_encode(root, tmp_path / "expected", shard_size=64)
    encode_with(crews.LocalCrew(), root, url, shard_size=64)
    assert fake.files_of(tmp_path / "bucket" / "set") == fake.files_of(tmp_path / "expected")
    assert not fake.journaled(tmp_path / "bucket" / "set")
    assert not list((tmp_path / "cache").glob("encode/*/scratch/*"))


def test_poison_is_cornered_where_workers_share_only_the_url(encode_with, url, tmp_path, monkeypatch):
    root = fake.make_source(tmp_path / "src", per_class=40)
    crews.add_poison(root, "cats/poison.png", crews.DEADLY)
    crew = crews.LocalCrew()
    summary = encode_with(crew, root, url, fitter_factory=crews.HostileFitter, shard_size=50, batch_size=8)
    assert (summary.images, summary.failed) == (80, 1)
    assert summary.failures == (("cats/poison.png", f"worker: {POISON}"),)
    assert len(crew.workers) < 20
    pull(url, tmp_path / "back")
    assert not fake.journaled(tmp_path / "bucket" / "set")


def test_a_worker_whose_writing_does_not_arrive_is_refused_before_work(
    encode_with, url, tmp_path, monkeypatch
):
    root = fake.make_source(tmp_path / "src", per_class=4)
    monkeypatch.setattr(driver_module, "_VISIBLE_SECONDS", 0.1)
    monkeypatch.setattr(remote_worker, "write_worker", lambda *_: None)
    with pytest.raises(GvitError, match="does not appear here; all machines must reach it"):
        encode_with(crews.LocalCrew(), root, url)


def test_a_worker_that_cannot_reach_the_url_is_refused_before_work(encode_with, url, tmp_path, monkeypatch):
    root = fake.make_source(tmp_path / "src", per_class=4)

    def refuse(*_):
        raise GvitError("s3://bucket/set cannot be written: Access Denied")

    monkeypatch.setattr(remote_worker, "write_worker", refuse)
    with pytest.raises(GvitError, match=r"on .*: s3://bucket/set cannot be written: Access Denied"):
        encode_with(crews.LocalCrew(), root, url)
    assert not list((tmp_path / "bucket" / "set").glob("shard-*"))


def test_requests_for_progress_that_fail_now_and_then_cost_nothing(encode_with, url, tmp_path, monkeypatch):
    root = fake.make_source(tmp_path / "src", per_class=40)
    fake.fake_encode(root, tmp_path / "expected", shard_size=16)
    failed = dict.fromkeys(("write_worker", "read_worker"), 0)

    def flaky(module, name):
        plain = getattr(module, name)

        def request(destination, what):
            if name == "read_worker" or what.doing != "starting":
                failed[name] += 1
                if failed[name] % 2:
                    raise GvitError("the store is busy")
            return plain(destination, what)

        monkeypatch.setattr(module, name, request)

    flaky(remote_worker, "write_worker")
    flaky(driver_module, "read_worker")
    encode_with(crews.LocalCrew(), root, url, shard_size=16)
    assert all(failed.values())
    assert fake.files_of(tmp_path / "bucket" / "set") == fake.files_of(tmp_path / "expected")
