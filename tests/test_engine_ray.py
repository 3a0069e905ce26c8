"""The Ray engine on one long-lived head: whatever dies, the same bytes.

The fitters are fakes; they travel to the workers by value: the workers' path does not lead to the tests.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray
from ray import cloudpickle

import fake_crew as crews
import fake_encode as fake
import gvit
from gvit.images import decode_pool
from gvit.pipeline import worker
from gvit.pipeline.engines import ray as engine_ray
from gvit.pipeline.engines.driver import POISON
from gvit.schemas import GvitError

TOKEN = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A Ray head of two cores, with this process as a driver; its address."""
    before = dict(os.environ)
    os.environ.update(TOKEN, GVIT_CACHE=str(tmp_path_factory.mktemp("cache")))
    for module in (fake, crews):
        cloudpickle.register_pickle_by_value(module)
    handler = signal.getsignal(signal.SIGTERM)
    context = ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=engine_ray.OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    ray._private.worker._worker_logs_enabled = False
    yield context.address_info["gcs_address"]
    ray.shutdown()
    signal.signal(signal.SIGTERM, handler)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return fake.make_flawed_source(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def reference(source, tmp_path_factory):
    """The files of an inline encode that nothing disturbed."""
    destination = tmp_path_factory.mktemp("reference") / "dst"
    fake.fake_encode(source, destination, shard_size=64)
    return fake.files_of(destination)


def ray_encode(source, destination, **options):
    return fake.fake_encode(source, destination, **{"engine": "ray", "shard_size": 64, **options})


def encode_under_fire(source, destination, kills, seed, **options):
    finished, counts = threading.Event(), []
    killer = threading.Thread(
        target=lambda: counts.append(crews.kill_workers(destination, kills, seed, finished)), daemon=True
    )
    killer.start()
    try:
        summary = ray_encode(source, destination, **options)
    finally:
        finished.set()
        killer.join()
    return summary, counts[0]


def test_no_cluster_at_auto_is_one_sentence(source, tmp_path):
    """In a process of its own, and first of all: later this one has a cluster that would be found."""
    failed = fake.start_script(
        "gvit-encode", source, tmp_path / "dst", "--ray-address", "auto", TMPDIR=tmp_path, RAY_ADDRESS=""
    )
    _, err = failed.communicate(timeout=60)
    if failed.returncode == 1:
        pytest.skip("somebody's Ray cluster runs on this machine, and was found")
    assert failed.returncode == 2
    assert err.splitlines()[-1].startswith("Error: the Ray cluster at auto cannot be used")


# ---------------------------------------------------------------- the same bytes


@pytest.mark.parametrize("workers", [1, 2])
def test_so_many_workers_give_the_bytes_of_the_inline_engine(head, source, reference, tmp_path, workers):
    summary = ray_encode(source, tmp_path / "dst", workers=workers, ray_address=head)
    assert (summary.images, summary.failed) == (2 * fake.PER_CLASS, 2)
    fake.assert_complete(tmp_path / "dst", reference)
    assert not list((tmp_path / "dst" / ".gvit").glob("workers/*"))
    for number in range(workers):
        log = (tmp_path / "dst" / ".gvit" / "logs" / f"worker-{number:03d}.log").read_text()
        assert "ready" in log
        assert "encoding shard-0" in log


def test_workers_write_to_a_url_and_a_second_driver_is_refused_meanwhile(head, source, reference, tmp_path):
    url = f"file://{tmp_path}/dst"
    options = (f"ray_address={head}", "engine=ray", "workers=2", "batch_size=16", "shard_size=64")
    process = fake.start_script("slow:0.1", source, url, *options)
    fake.wait_for(lambda: fake.journaled(tmp_path / "dst"))
    try:
        with pytest.raises(GvitError, match=f"file://.*/dst is being encoded by process {process.pid} on"):
            ray_encode(source, url, workers=2)
    finally:
        process.kill()
        process.communicate()
    ray_encode(source, url, workers=2, ray_address=head)
    fake.assert_complete(tmp_path / "dst", reference)
    assert list(Path(os.environ["GVIT_CACHE"]).glob("encode/dst-*/logs/worker-001.log"))


def test_the_real_fit_gives_the_same_bytes_inline_and_under_ray(head, tmp_path):
    fake.make_source(tmp_path / "src", per_class=12)
    from gvit.fitting.config import FitConfig
    from gvit.pipeline.config import EncodeConfig, RunConfig
    from gvit.pipeline.encode import encode

    fit = FitConfig(num_gaussians=16, size=24, steps=5)
    for name, run in (
        ("inline", RunConfig(workers=1)),
        ("ray", RunConfig(workers=2, engine="ray", ray_address=head)),
    ):
        encode(
            EncodeConfig(
                source=tmp_path / "src", destination=tmp_path / name, fit=fit, shard_size=10, run=run
            )
        )
    assert fake.files_of(tmp_path / "ray") == fake.files_of(tmp_path / "inline")


# ---------------------------------------------------------------- whatever dies


def test_workers_killed_at_random_moments_cost_nothing_but_time(head, source, reference, tmp_path):
    summary, died = encode_under_fire(
        source, tmp_path / "dst", kills=4, seed=1, workers=2, batch_size=16, fitter_factory=crews.slow(0.1)
    )
    assert died == 4
    assert (summary.images, summary.failed) == (2 * fake.PER_CLASS, 2)
    fake.assert_complete(tmp_path / "dst", reference)


def test_images_that_kill_starve_or_hang_their_workers_become_rows(head, tmp_path):
    root = fake.make_source(tmp_path / "src", per_class=20)
    kinds = (crews.DEADLY, crews.GREEDY, crews.STUCK)
    for gray in kinds:
        crews.add_poison(root, f"cats/poison{gray}.png", gray)

    class Hostile(crews.HostileFitter):
        @staticmethod
        def die():
            os.kill(os.getpid(), signal.SIGSEGV)

    summary = ray_encode(
        root, tmp_path / "dst", shard_size=8, workers=2, fitter_factory=Hostile, hang_seconds=5.0
    )
    assert (summary.images, summary.failed) == (40, 3)
    failures = gvit.open_dataset(tmp_path / "dst").failures.to_pylist()
    assert {(row["source"], row["error"]) for row in failures} == {
        (f"cats/poison{gray}.png", f"worker: {POISON}") for gray in kinds
    }

    fake.assert_complete(tmp_path / "dst", inline_with_condemned(root, tmp_path, kinds))
    news = [
        json.loads(line) for line in (tmp_path / "dst" / ".gvit" / "events.jsonl").read_text().splitlines()
    ]
    assert sum("is given up" in event.get("news", "") for event in news) == 3


def inline_with_condemned(root, tmp_path, grays):
    """The files of an inline encode whose decoder refuses these images with the words of the Ray engine."""
    (tmp_path / "refusing_decoder.py").write_text(
        "from gvit.images.decode import DecodeError, decode_image\n"
        "def decode(data, size, crop, color):\n"
        "    decoded = decode_image(data, size, crop)\n"
        f"    if decoded.pixels.min() == decoded.pixels.max() and decoded.pixels.max() in {grays}:\n"
        f"        raise DecodeError({POISON!r}, 'worker')\n"
        "    return decoded\n"
    )
    sys.path.insert(0, str(tmp_path))
    real = decode_pool.DecodePool
    worker.DecodePool = lambda **options: real(**options, decoder="refusing_decoder:decode")
    try:
        fake.fake_encode(root, tmp_path / "expected", shard_size=8)
    finally:
        worker.DecodePool = real
        sys.path.remove(str(tmp_path))
    return fake.files_of(tmp_path / "expected")


def test_an_image_that_kills_its_decoder_is_named_without_a_worker_dying(head, tmp_path):
    root = fake.make_source(tmp_path / "src", classes=("a",), per_class=9)
    (root / "a" / "poison.png").write_bytes(b"die")
    (tmp_path / "deadly_decoder.py").write_text(
        "import os\n"
        "from gvit.images.decode import decode_image\n"
        "def decode(data, size, crop, color):\n"
        "    return os._exit(11) if data == b'die' else decode_image(data, size, crop)\n"
    )
    hook = str(tmp_path)

    def factory(*arguments):
        from functools import partial

        from gvit.images import decode_pool
        from gvit.pipeline import worker

        sys.path.insert(0, hook)
        worker.DecodePool = partial(decode_pool.DecodePool, decoder="deadly_decoder:decode")
        return fake.FakeFitter(*arguments)

    summary = ray_encode(root, tmp_path / "dst", workers=1, fitter_factory=factory)
    assert (summary.images, summary.failed) == (9, 1)
    assert summary.failures == (("a/poison.png", "crash: the decoder crashed"),)
    assert not (tmp_path / "dst" / ".gvit" / "logs" / "worker-001.log").exists()


def test_a_killed_driver_leaves_a_dataset_that_the_next_one_finishes_at_once(
    head, source, reference, tmp_path
):
    destination = tmp_path / "dst"
    options = ("engine=ray", f"ray_address={head}", "workers=2", "batch_size=16", "shard_size=64")
    process = fake.start_script("slow:0.15", source, destination, *options)
    fake.wait_for(lambda: fake.journaled(destination) or list(destination.glob("shard-*.json")))
    try:
        with pytest.raises(GvitError, match=f"process {process.pid} on this machine"):
            ray_encode(source, destination, workers=2)
    finally:
        process.kill()
        process.communicate()
    ray_encode(source, destination, workers=2)
    fake.assert_complete(destination, reference)


def test_a_destination_deleted_underneath_is_one_sentence(head, source, tmp_path):
    destination = tmp_path / "dst"
    deleter = threading.Thread(
        target=lambda: (
            fake.wait_for(lambda: crews.worker_pids(destination)),
            time.sleep(0.3),
            shutil.rmtree(destination, ignore_errors=True),
            shutil.rmtree(destination, ignore_errors=True),
        )
    )
    deleter.start()
    with pytest.raises(GvitError, match=r"dst cannot be (used|written)|does not see .*/dst;"):
        ray_encode(source, destination, workers=2, batch_size=16, fitter_factory=crews.slow(0.2))
    deleter.join()


def test_a_driver_that_is_terminated_says_so_and_leaves_no_worker(head, source, reference, tmp_path):
    destination = tmp_path / "dst"
    process = fake.start_script(
        "gvit-encode",
        *(source, destination, "--ray-address", head, "--workers", "2", "--shard-size", "64"),
        *("--size", fake.SIZE, "--num-gaussians", fake.NUM_GAUSSIANS, "--batch-size", "16"),
        GVIT_FAKE_SECONDS=0.1,
    )
    fake.wait_for(lambda: fake.journaled(destination) or list(destination.glob("shard-*.json")))
    pids = crews.worker_pids(destination)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "interrupted; run the same command again to finish" in err
    assert not (destination / ".gvit" / "lease").exists()
    fake.wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    ray_encode(source, destination, workers=2)
    fake.assert_complete(destination, reference)


def test_a_disk_that_is_full_under_a_worker_is_one_sentence(head, source, reference, tmp_path):
    def factory(*arguments):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        return fake.FakeFitter(*arguments)

    with pytest.raises(GvitError, match=r"no space is left for .*run the same command again"):
        ray_encode(source, tmp_path / "dst", workers=2, fitter_factory=factory)
    assert not list((tmp_path / "dst").rglob("*.tmp"))
    ray_encode(source, tmp_path / "dst", workers=2)
    fake.assert_complete(tmp_path / "dst", reference)


# ---------------------------------------------------------------- clusters that will not do


def test_a_cluster_with_another_version_is_refused_before_work(head, source, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_ray, "__version__", "9.9.9")
    with pytest.raises(GvitError, match=r"this machine has gvit 9\.9\.9, but .* has gvit \d"):
        ray_encode(source, tmp_path / "dst", workers=1)
    assert not (tmp_path / "dst" / ".gvit" / "logs").exists()


def test_a_cluster_without_gvit_is_refused_before_work(head, source, tmp_path, monkeypatch):
    probe = engine_ray.version_there.__code__.replace(
        co_consts=tuple(
            "no_such_package" if constant == "gvit" else constant
            for constant in engine_ray.version_there.__code__.co_consts
        )
    )
    monkeypatch.setattr(engine_ray.version_there, "__code__", probe)
    with pytest.raises(GvitError, match="has no gvit; install"):
        ray_encode(source, tmp_path / "dst", workers=1)


def test_more_workers_than_the_cluster_has_room_for_are_refused(head, source, tmp_path):
    with pytest.raises(GvitError, match="room for 2 workers with 1 CPU cores each, not 3; give fewer"):
        ray_encode(source, tmp_path / "dst", workers=3)


# ---------------------------------------------------------------- a cluster of its own


def test_without_an_address_ray_is_started_and_ended_even_where_home_cannot_be_written(
    source, reference, tmp_path
):
    """With four workers, on however few cores."""
    before = set(Path("/tmp").glob("gvit-ray-*"))
    destination = tmp_path / "dst"
    process = fake.start_script(
        "gvit-encode",
        *(source, destination, "--engine", "ray", "--workers", "4", "--shard-size", "64"),
        *("--size", fake.SIZE, "--num-gaussians", fake.NUM_GAUSSIANS, "--json"),
        HOME="/proc/nowhere",
        RAY_ADDRESS="",
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    (line,) = out.splitlines()
    assert json.loads(line)["images"] == 2 * fake.PER_CLASS
    assert "Traceback" not in err
    assert set(Path("/tmp").glob("gvit-ray-*")) == before
    fake.assert_complete(destination, reference)


# ---------------------------------------------------------------- the long version


@pytest.mark.slow
def test_a_hundred_killed_workers_cost_nothing_but_time(head, source, reference, tmp_path):
    died = 0
    for seed in range(20):
        destination = tmp_path / f"dst{seed}"
        _, count = encode_under_fire(
            source, destination, kills=5, seed=seed, workers=2, batch_size=16, fitter_factory=crews.slow(0.1)
        )
        died += count
        fake.assert_complete(destination, reference)
    assert died > 80


@pytest.mark.slow
def test_drivers_killed_at_random_moments_again_and_again_get_there(head, source, reference, tmp_path):
    destination = tmp_path / "dst"
    options = ("engine=ray", f"ray_address={head}", "workers=2", "batch_size=16", "shard_size=64")
    chance = np.random.default_rng(0)
    for _ in range(10):
        process = fake.start_script("slow:0.1", source, destination, *options)
        time.sleep(chance.uniform(2, 6))
        process.kill()
        process.communicate()
    ray_encode(source, destination, workers=2)
    fake.assert_complete(destination, reference)
