"""A worker in a process of its own, perhaps on another machine: a plain class that knows no cluster.

Nothing that it raises crosses the wire as a stack trace: what a person can act on is part of a `Reply`, and
whatever else goes wrong stands in the worker's log and counts as its death.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...fitting.config import FIT_VERSION, resolve_device
from ...schemas.checksums import PRIVATE
from ...schemas.documents import Count, Integer, from_json, to_json
from ...schemas.errors import DatasetError, GvitError
from ...schemas.extras import require
from ...schemas.version import __version__
from ..progress import Progress
from ..worker import ShardEncoder

if TYPE_CHECKING:
    from ...images.sources.images import Entry
    from ...schemas.manifest import DoneMark
    from ..place.place import Place
    from ..plan import BlockPlan, ShardPlan
    from ..worker import FitterFactory, WorkerSpec

__all__ = [
    "Greeting",
    "Order",
    "RemoteWorker",
    "Reply",
    "WorkerState",
    "forget_workers",
    "log_path",
    "read_worker",
    "this_version",
    "write_worker",
]

_SHARED = "it must lie on a file system that all machines share"
_STATE_SECONDS = 0.5  # between two states of a shard, so that small images do not wear out a network disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a worker is hired for; `witness` is an image that it must be able to see.

    `own_log` sends standard output and error of its process into the worker's log.
    """

    name: str
    version: str
    spec: WorkerSpec
    fitter_factory: FitterFactory
    witness: Entry
    own_log: bool = True


@dataclass(frozen=True, slots=True)
class Greeting:
    """Where a worker runs, and in one sentence why it cannot work, None where it can."""

    host: str
    pid: int
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """How a task ended: with a committed shard, with a part journaled (no mark), or with what stopped it."""

    mark: DoneMark | None = None
    progress: Progress = field(default_factory=Progress)
    error: GvitError | OSError | None = None


def this_version() -> str:
    """Return what must be the same wherever one dataset is made."""
    return f"{__version__} (fit {FIT_VERSION})"


class RemoteWorker:
    """Encodes shards for a driver in another process. `greet` comes first."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._state = WorkerState(order.name, socket.gethostname(), os.getpid(), "starting")
        self._shown = 0.0
        self._interval = max(_STATE_SECONDS, order.spec.place.request_seconds)
        self._encoder: ShardEncoder | None = None

    def greet(self) -> Greeting:
        """See whether work is possible here, and make ready for it."""
        problem = self._problem()
        if problem is None:
            spec = self._order.spec
            self._encoder = ShardEncoder(spec, self._order.fitter_factory)
            self._mention(doing="waiting")
            print(f"{_now()} {self._order.name} on {self._state.host}: ready, {spec.threads} threads")
        return Greeting(self._state.host, self._state.pid, problem)

    def encode(self, shard: ShardPlan, following: ShardPlan | None) -> Reply:
        """Encode and commit a shard; the first batch of `following` is decoded meanwhile."""

        def work(encoder: ShardEncoder) -> DoneMark:
            return encoder.encode(shard, self._report, following)

        return self._attempt("encoding", shard, work)

    def try_part(self, shard: ShardPlan, part: BlockPlan) -> Reply:
        """Fit and journal a part of a block."""

        def work(encoder: ShardEncoder) -> None:
            encoder.encode_part(shard, part, self._report)

        return self._attempt("bisecting", shard, work)

    def close(self) -> None:
        """End the processes of this worker."""
        if self._encoder is not None:
            self._encoder.__exit__()

    def _problem(self) -> str | None:
        order, spec, host = self._order, self._order.spec, self._state.host
        if order.version != this_version():
            return (
                f"{host} has gvit {this_version()} and this machine {order.version}; install the same on both"
            )
        if spec.device == "cuda" and resolve_device("auto") != "cuda":
            return f"{host} has no GPU that torch can use; check its driver and torch, or give --device cpu"
        place = spec.place
        try:
            if spec.device == "cuda":
                require("encode", "torch")
            if not spec.claim.still_ours():
                return f"{host} sees another {place.name} than this machine; {place.advice}"
            self._show(doing="starting")
            if order.own_log:
                self._redirect_output()
        except FileNotFoundError:
            return f"{host} does not see {place.name}; {place.advice}"
        except OSError as error:
            own = place.folder is None  # then it is its own disk
            advice = "set GVIT_CACHE there to a folder that can be written" if own else place.advice
            return f"{host} cannot write {error.filename or place.name} ({error.strerror}); {advice}"
        except GvitError as error:
            return f"on {host}: {error}"
        if not os.path.lexists(spec.source.path_of(order.witness)):
            return f"{host} does not see {spec.source.path_of(order.witness)}; {_SHARED}"
        return None

    def _redirect_output(self) -> None:
        """Send what this process prints into its log, crashes of compiled code included."""
        place = self._order.spec.place
        path = log_path(place, self._order.name)
        path.parent.mkdir(parents=place.folder is None, exist_ok=True)  # a folder that was deleted stays so
        log = path.open("a", buffering=1)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        faulthandler.enable(log)

    def _attempt(
        self, doing: str, shard: ShardPlan, work: Callable[[ShardEncoder], DoneMark | None]
    ) -> Reply:
        if self._encoder is None:
            raise RuntimeError("a worker greets before it works")
        try:
            self._mention(doing=doing, shard=shard.name, images=len(shard.entries), progress=Progress())
            print(f"{_now()} {doing} {shard.name}")
            mark = work(self._encoder)
            progress = self._state.progress
            self._mention(doing="waiting", shard="", images=0, progress=Progress())
        except (GvitError, OSError) as error:
            traceback.print_exc()
            return Reply(error=error)
        except Exception:
            traceback.print_exc()
            raise
        return Reply(mark, progress)

    def _report(self, _shard: str, progress: Progress) -> None:
        self._state = self._state.next(progress=progress)
        if time.monotonic() - self._shown >= self._interval:
            self._mention()

    def _mention(self, **changes: object) -> None:
        """Show something that nobody depends on: where a request fails, the next one says it too."""
        with contextlib.suppress(GvitError, OSError):
            self._show(**changes)

    def _show(self, **changes: object) -> None:
        self._state = self._state.next(**changes)
        self._shown = time.monotonic()
        write_worker(self._order.spec.place, self._state)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")


_WORKERS = f"{PRIVATE}/workers"


@dataclass(frozen=True, slots=True)
class WorkerState:
    """Where a worker runs and what it does.

    `shard` is empty between shards, `images` the number in it; `beat` grows with every sign of life; `doing`
    is "starting", "waiting", "encoding" or "bisecting".
    """

    name: str
    host: str
    pid: Integer
    doing: str
    shard: str = ""
    images: Count = 0
    progress: Progress = field(default_factory=Progress)
    beat: Count = 0

    def describe(self) -> str:
        """Say it in a few words."""
        if not self.shard:
            return f"{self.doing} ({self.host}, pid {self.pid})"
        return f"{self.doing} {self.shard} {self.progress.images}/{self.images} ({self.host}, pid {self.pid})"

    def next(self, **changes: Any) -> WorkerState:  # noqa: ANN401  (fields of this class)
        """Return the state after a sign of life."""
        return replace(self, beat=self.beat + 1, **changes)


def write_worker(place: Place, state: WorkerState) -> None:
    """Show a state to whoever looks; not made durable, for it is of no use after the run.

    Raises:
        OSError: The folder cannot be written.
        GvitError: The place behind the URL cannot be written.
    """
    place.write(_name(state.name), to_json(state), durable=False)


def read_worker(place: Place, name: str) -> WorkerState | None:
    """Return the state of a worker, None where it has shown none yet that can be read."""
    data = place.read(_name(name))
    try:
        return None if data is None else from_json(WorkerState, data, closed=True)
    except DatasetError:
        return None


def forget_workers(place: Place) -> None:
    """Remove the states that earlier runs left; their logs stay."""
    place.remove_folder(_WORKERS)


def log_path(place: Place, name: str) -> Path:
    """Return where the log of a worker lies, on its machine."""
    return place.local / "logs" / f"{name}.log"


def _name(worker: str) -> str:
    return f"{_WORKERS}/{worker}.json"
