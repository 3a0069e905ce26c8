"""Workers of a cluster with GPUs use them, whatever the driver's machine has: seen without a GPU."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest

import fake_encode as fake
from gvit.pipeline.config import RunConfig
from gvit.pipeline.engines import ray as engine_ray
from gvit.pipeline.engines import remote_worker
from gvit.pipeline.engines.cluster import Node, choose_device
from gvit.pipeline.engines.driver import Job
from gvit.pipeline.engines.remote_worker import Order, RemoteWorker, this_version
from gvit.pipeline.place.folder import Folder
from gvit.pipeline.place.lease import Claim
from gvit.pipeline.run import worker_spec

CPU_NODE = Node("head", 8)
GPU_NODE = Node("gpu", 32, 4.0)


class NoImages:
    def absolute(self):
        return self


def spec_of(folder):
    config = fake.fake_config(folder / "src", folder / "dst", device="cpu")
    return worker_spec(config, NoImages(), Claim(Folder(folder), "token"))


@pytest.mark.parametrize(
    ("device", "address", "nodes", "here", "chosen"),
    [
        ("auto", "auto", [CPU_NODE, GPU_NODE], "cpu", "cuda"),
        ("auto", "head:6379", [CPU_NODE], "cuda", "cpu"),
        ("cpu", "auto", [GPU_NODE], "cpu", "cpu"),
        ("cuda", "auto", [CPU_NODE], "cuda", "cuda"),
        ("auto", None, [GPU_NODE], "cpu", "cpu"),  # this machine, whose torch cannot use its GPUs
        ("auto", None, [GPU_NODE], "cuda", "cuda"),
    ],
)
def test_auto_is_the_gpu_where_the_cluster_has_any(device, address, nodes, here, chosen):
    run = RunConfig(engine="ray", device=device, ray_address=address)
    assert choose_device(nodes, run, here) == chosen


@pytest.mark.parametrize(
    ("share", "workers", "gpus"), [(None, 4, 1.0), (0.5, 8, 0.5), (0.25, 16, 0.25), (2.0, 2, 2.0)]
)
def test_each_actor_is_lent_its_share_of_a_gpu(tmp_path, monkeypatch, share, workers, gpus):
    """`run_ray` with a cluster that is made up: what it asks Ray for, and what it tells the workers."""
    asked = {}

    class Remote:
        def options(self, **options):
            asked.update(options)
            return self

    class Driver:
        def __init__(self, job, _crew, layout, _shards):
            asked.update(device=job.spec.device, workers=layout.workers)

        def work(self):
            pass

    monkeypatch.setattr(engine_ray, "_connected", lambda _run: contextlib.nullcontext())
    monkeypatch.setattr(engine_ray, "_nodes", lambda: [("1", CPU_NODE), ("2", GPU_NODE)])
    monkeypatch.setattr(engine_ray, "_versions", lambda _nodes: {})
    monkeypatch.setattr(engine_ray, "forget_workers", lambda _destination: None)
    monkeypatch.setattr(engine_ray.ray, "remote", lambda _worker: Remote())
    monkeypatch.setattr(engine_ray, "Driver", Driver)
    run = RunConfig(engine="ray", ray_address="auto", gpus_per_worker=share, cpus_per_worker=1)
    job = Job(
        spec=spec_of(tmp_path),
        run=run,
        fitter_factory=fake.FakeFitter,
        report=print,
        committed=print,
        workers=print,
        notice=print,
    )
    assert engine_ray.run_ray(job, [SimpleNamespace()]) == "cuda"
    assert asked == {
        "num_cpus": 1,
        "num_gpus": gpus,
        "max_restarts": 0,
        "max_task_retries": 0,
        "device": "cuda",
        "workers": workers,
    }


@pytest.mark.parametrize(("found", "problem"), [("cpu", True), ("cuda", False)])
def test_a_worker_makes_sure_of_its_gpu_before_work(tmp_path, monkeypatch, found, problem):
    monkeypatch.setattr(remote_worker, "resolve_device", lambda _device: found)
    (tmp_path / ".gvit").mkdir()
    order = Order(
        name="worker-000",
        version=this_version(),
        spec=replace(spec_of(tmp_path), device="cuda"),
        fitter_factory=fake.FakeFitter,
        witness=None,
        own_log=False,
    )
    words = RemoteWorker(order).greet().problem
    assert ("has no GPU that torch can use; check its driver and torch" in words) == problem
