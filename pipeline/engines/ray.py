"""The Ray engine: workers on many cores, GPUs or machines.

The only module that knows ray. Each actor runs the plain `RemoteWorker`; its results go straight to storage.
What is done about them is the business of the `Driver`. When the process of the driver dies, Ray ends its
actors, and the next driver goes on.
"""
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportPrivateUsage=false

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import ray
import ray._private.worker
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...schemas.cores import usable_cores
from ...schemas.errors import GvitError
from ...schemas.version import __version__
from .cluster import Layout, Node, check_answers, check_versions, choose_device, lay_out
from .driver import Driver, Handle, Job, WorkerDied
from .remote_worker import Order, RemoteWorker, forget_workers

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..plan import ShardPlan

__all__ = ["run_ray"]

OBJECT_STORE_BYTES = 150 * 2**20  # plans of shards travel through it, results never do

_ANSWER_SECONDS = 60.0  # for a node that is asked for its version


def run_ray(job: Job, shards: Sequence[ShardPlan]) -> str:
    """Encode the shards on a Ray cluster, or on one that is started for this on this machine.

    Returns:
        The device that its workers have used.

    Raises:
        GvitError: The cluster does not answer, its machines do not fit the job, workers keep dying, or the
            lease is lost.
        OSError: The destination cannot be written.
    """
    job = replace(job, spec=job.spec.absolute())
    if not shards:
        return job.spec.device
    forget_workers(job.spec.place)
    with _connected(job.run):
        nodes = _nodes()
        check_versions(__version__, _versions(nodes))
        machines = [node for _, node in nodes]
        device = choose_device(machines, job.run, job.spec.device)
        job = replace(job, spec=replace(job.spec, device=device))
        layout = lay_out(machines, job.run, device)
        try:
            Driver(job, _Actors(layout), layout, shards).work()
        finally:
            forget_workers(job.spec.place)
    return device


# ---------------------------------------------------------------- the cluster


@contextlib.contextmanager
def _connected(run: RunConfig) -> Generator[None]:
    """Be part of a cluster for the body of a `with`; one that this program is part of already is kept."""
    if ray.is_initialized():
        yield
        return
    with _local(run) if run.ray_address is None else _remote(run.ray_address):
        # News of dying workers would go to standard output otherwise, which may be read by a program.
        ray._private.worker._worker_logs_enabled = False
        yield


@contextlib.contextmanager
def _local(run: RunConfig) -> Generator[None]:
    """Start Ray on this machine, as large as was asked for, and leave nothing of it behind.

    Its token goes from process to process and needs no writable home; its session lies in a short path (it
    holds sockets, and their paths have 107 bytes at most), not below a destination on a network disk.
    """
    cpus = max(usable_cores(), (run.workers or 1) * (run.cpus_per_worker or 1))
    session = tempfile.mkdtemp(prefix="gvit-ray-", dir="/tmp" if Path("/tmp").is_dir() else None)  # noqa: S108
    try:
        with _environment(RAY_AUTH_TOKEN=_token(), RAY_USAGE_STATS_ENABLED="0"):
            _init(
                address="local",
                num_cpus=cpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                _temp_dir=session,
            )
            yield
    finally:
        ray.shutdown()
        shutil.rmtree(session, ignore_errors=True)


@cache
def _token() -> str:
    """The token of the clusters that this process starts; Ray remembers the first that a process has."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _remote(address: str) -> Generator[None]:
    if address != "auto":
        check_answers(address, encrypted=os.environ.get("RAY_USE_TLS", "0") != "0")
    try:
        _init(address=address)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        first = str(error).strip().partition("\n")[0]
        raise GvitError(
            f"the Ray cluster at {address} cannot be used ({first}); "
            "check the address, or start one with: ray start --head"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _environment(**variables: str) -> Generator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _init(**options: Any) -> None:  # noqa: ANN401  (of ray.init)
    """Call ray.init, and undo what it does to SIGTERM: this program has its own way to end."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _nodes() -> list[tuple[str, Node]]:
    """Return the machines that are alive and have any core to lend, by Ray's id."""
    found: list[tuple[str, Node]] = []
    for node in ray.nodes():
        has: dict[str, float] = node["Resources"]
        if node["Alive"] and has.get("CPU", 0):
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            found.append((node["NodeID"], Node(name, int(has["CPU"]), has.get("GPU", 0.0))))
    return found


def version_there() -> str | None:
    """Return the version of gvit of the machine that runs this, None where it has none."""
    import importlib

    try:
        return importlib.import_module("gvit").__version__
    except (ImportError, AttributeError):
        return None


def _by_value(function: Callable[[], str | None]) -> Callable[[], str | None]:
    """Return a copy that travels by its code; the original would by the name of its module."""
    return FunctionType(function.__code__, {"__name__": "__main__", "__builtins__": __builtins__})


def _versions(nodes: Sequence[tuple[str, Node]]) -> dict[str, str | None]:
    """Ask every machine for its version of gvit; this needs no gvit there."""
    ask: Any = ray.remote(_by_value(version_there))
    asked: dict[str, Any] = {
        node.name: ask.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
        ).remote()
        for node_id, node in nodes
    }
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=_ANSWER_SECONDS)
    silent = [name for name, ref in asked.items() if ref not in ready]
    if silent:
        raise GvitError(f"{', '.join(silent)} of the Ray cluster does not answer; check it, or take it out")
    try:
        return {name: ray.get(ref) for name, ref in asked.items()}
    except RayError as error:
        raise GvitError(f"a machine of the Ray cluster cannot run anything: {_short(error)}") from error


# ---------------------------------------------------------------- the actors


class _Actors:
    """The driver's workers: actors of one size, none of which Ray may start again by itself."""

    def __init__(self, layout: Layout) -> None:
        self._actor: Any = ray.remote(RemoteWorker).options(
            num_cpus=layout.cpus, num_gpus=layout.gpus or None, max_restarts=0, max_task_retries=0
        )

    def hire(self, order: Order) -> Handle:
        return self._actor.remote(order)

    def call(self, worker: Handle, method: str, *arguments: object) -> Handle:
        return getattr(worker, method).remote(*arguments)

    def wait(self, calls: Sequence[Handle], seconds: float) -> bool:
        ready, _ = ray.wait(list(calls), num_returns=1, timeout=seconds)
        return bool(ready)

    def answer(self, call: Handle) -> Handle:
        try:
            return ray.get(call)
        except RayError as error:
            raise WorkerDied(_short(error)) from error

    def end(self, worker: Handle) -> None:
        with contextlib.suppress(RayError, ValueError):  # dead already
            ray.kill(worker)


def _short(error: RayError) -> str:
    """Say in few words what Ray says in many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
