"""The shape of a cluster in plain numbers: how many workers it holds, and whether its machines will do."""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...schemas.errors import GvitError

if TYPE_CHECKING:
    from ..config import RunConfig

__all__ = ["Layout", "Node", "check_answers", "check_versions", "choose_device", "lay_out"]

ANSWER_SECONDS = 10.0
"""How long an address may take to answer."""

_CPUS_PER_WORKER = 4  # on a CPU, where nobody says otherwise: few processes, and any machine holds some
_MAX_CPUS_PER_GPU_WORKER = 16
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # with empty settings
_HTTP2_SETTINGS = 4


@dataclass(frozen=True, slots=True)
class Node:
    """One machine: its name, CPU cores and GPUs."""

    name: str
    cpus: int
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Layout:
    """So many workers, each with so many CPU cores and GPUs (a share of one, or whole ones)."""

    workers: int
    cpus: int
    gpus: float


def choose_device(nodes: Sequence[Node], run: RunConfig, here: str) -> str:
    """Return the device of the workers: on a cluster by address GPUs where it has any, else that of `here`.

    The machine of the driver need not have one: workers make sure themselves that they can use theirs.
    """
    if run.device != "auto" or run.ray_address is None:
        return here
    return "cuda" if any(node.gpus for node in nodes) else "cpu"


def lay_out(nodes: Sequence[Node], run: RunConfig, device: str) -> Layout:
    """Work out how many workers of which size run on these machines.

    Raises:
        GvitError: No machine holds even one, or fewer fit than were asked for.
    """
    if run.gpus_per_worker is not None and device != "cuda":
        raise GvitError("--gpus-per-worker shares out GPUs, and these workers have none: leave it out")
    gpus = (run.gpus_per_worker or 1.0) if device == "cuda" else 0.0
    cpus = run.cpus_per_worker or _cpus_per_worker(nodes, run, gpus)
    room = sum(_room(node, cpus, gpus) for node in nodes)
    size = f"{cpus} CPU cores" + (f" and {gpus:g} GPUs" if gpus else "")
    if not room:
        largest = max(nodes, key=lambda node: (node.gpus, node.cpus), default=Node("none", 0))
        raise GvitError(
            f"no machine of the cluster has room for a worker with {size} (the largest, {largest.name}, has "
            f"{largest.cpus} and {largest.gpus:g}); give less with --cpus-per-worker or --gpus-per-worker"
        )
    if run.workers is not None and run.workers > room:
        raise GvitError(
            f"the cluster has room for {room} workers with {size} each, not {run.workers}; "
            "give fewer with --workers, or smaller ones"
        )
    return Layout(run.workers or room, cpus, gpus)


def _cpus_per_worker(nodes: Sequence[Node], run: RunConfig, gpus: float) -> int:
    if gpus:
        shares = [int(node.cpus * gpus / node.gpus) for node in nodes if node.gpus >= gpus]
        return max(1, min([*shares, _MAX_CPUS_PER_GPU_WORKER]))
    smallest = min((node.cpus for node in nodes if node.cpus), default=1)
    share = sum(node.cpus for node in nodes) // run.workers if run.workers else _CPUS_PER_WORKER
    return max(1, min(smallest, share, _CPUS_PER_WORKER))


def _room(node: Node, cpus: int, gpus: float) -> int:
    by_cpus = node.cpus // cpus
    if not gpus:
        return by_cpus
    if gpus >= 1:
        return min(by_cpus, int(node.gpus / gpus))
    return min(by_cpus, int(node.gpus) * math.floor(1 / gpus + 1e-9))  # a share lies on one GPU


def check_versions(here: str, there: Mapping[str, str | None]) -> None:
    """Compare the version of gvit on this machine with those by machine, None where it has none.

    Raises:
        GvitError: They are not all the same; it says which machine has what.
    """
    wrong = {name: version for name, version in there.items() if version != here}
    if wrong:
        have = ", ".join(
            f"{name} has {'no gvit' if version is None else f'gvit {version}'}"
            for name, version in wrong.items()
        )
        raise GvitError(f"this machine has gvit {here}, but {have}; install the same version everywhere")


def check_answers(address: str, *, encrypted: bool = False) -> None:
    """Make sure that something which may be Ray answers at `[ray://]host:port`.

    Ray itself would wait for minutes and then end the process.

    Raises:
        GvitError: Nothing answers in time, or something else, or it is no such address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise GvitError(
            f"{address!r} is no address of a Ray cluster; give auto, host:port or ray://host:port"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS) as connection:
            if encrypted:
                return
            connection.settimeout(ANSWER_SECONDS)
            connection.sendall(_HTTP2_HELLO)
            head = connection.recv(9)
    except (OSError, OverflowError) as error:
        raise GvitError(_no_ray(address, str(error))) from error
    if len(head) < 4 or head[3] != _HTTP2_SETTINGS:
        raise GvitError(_no_ray(address, "something else answers there"))


def _no_ray(address: str, reason: str) -> str:
    return (
        f"no Ray cluster answers at {address} ({reason}); "
        "check the address, or start one with: ray start --head"
    )
