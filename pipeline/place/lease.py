"""The lease: at most one live run writes into a dataset.

`DST/.gvit/lease` names its holder by host, process id and the start of that process. On the holder's own
machine a dead process is recognised for certain and its lease is taken over at once; from another machine,
another container or after a restart only the age of the last heartbeat tells.

Behind a URL it is best effort, since an object store has no locks and no times to rely on: the heartbeat is
written into the lease, so clocks must agree to a minute, and of two runs that start within a second, which
may both take it, the one that it does not name a moment later gives way.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...dataset.commit import require_lease
from ...schemas.checksums import PRIVATE
from ...schemas.documents import Integer, from_json, to_json
from ...schemas.errors import DatasetError, GvitError

if TYPE_CHECKING:
    from .place import Place

__all__ = ["HEARTBEAT_SECONDS", "STALE_SECONDS", "Claim", "Holder", "Lease", "live_holder"]

HEARTBEAT_SECONDS = 20.0
"""How often a live holder renews its lease."""

STALE_SECONDS = 120.0
"""How old the last heartbeat of a holder on another host must be before its lease may be taken over."""

SETTLE_SECONDS = 1.0
"""How long after taking a lease without a lock it is read again."""

_LEASE, _LOCK = f"{PRIVATE}/lease", f"{PRIVATE}/lease.lock"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PROCESSES = Path("/proc/self/ns/pid")
_START_TICKS = 19  # index of `starttime` in /proc/PID/stat, counted after the parenthesised command


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease: `start` tells apart processes of the same `pid`; `token` is unique per lease.

    `beat` is the time of the last heartbeat (seconds since 1970), where the lease's file has no time of its
    own.
    """

    host: str
    pid: Integer
    start: str
    token: str
    beat: float = 0.0


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker carries to check the lease under which it works; it can be sent to another process."""

    place: Place
    token: str

    def still_ours(self) -> bool:
        """Tell whether the lease that is there is the one that this claim was handed out under.

        Raises:
            FileNotFoundError: The whole place is gone.
            GvitError: It cannot be read.
        """
        holder = _read(self.place)
        if holder is None:
            self.place.require_there()
        return holder is not None and holder.token == self.token

    def require(self) -> None:
        """Make sure that the lease is still ours.

        Raises:
            GvitError: It is not.
            FileNotFoundError: The whole place is gone.
        """
        require_lease(self.place.name, self.still_ours)


class Lease:
    """The right to write into one dataset, held from `acquire` to `release` or for the body of a `with`."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._holder = _this_process()
        self._released = threading.Event()
        self._heart: threading.Thread | None = None

    @property
    def claim(self) -> Claim:
        """The claim for workers; its token also names this run's attempts at writing files."""
        return Claim(self._place, self._holder.token)

    def acquire(self) -> None:
        """Take the lease, at once where its holder is dead.

        Raises:
            GvitError: Another run holds it, or the place cannot be written.
            OSError: The folder cannot be written.
        """
        with self._place.locked(_LOCK) as now:
            self._refuse_another(now)
            self._write()
        if self._place.folder is None:
            time.sleep(SETTLE_SECONDS)
            self._refuse_another(time.time())
        self._heart = threading.Thread(target=self._beat, name="gvit-lease", daemon=True)
        self._heart.start()

    def release(self) -> None:
        """Give the lease back; does nothing where it is not ours any more."""
        self._released.set()
        if self._heart is not None:
            self._heart.join()
        with contextlib.suppress(OSError, GvitError), self._place.locked(_LOCK):  # or it will be stale soon
            if self.claim.still_ours():
                self._place.remove(_LEASE)

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _refuse_another(self, now: float) -> None:
        holder = live_holder(self._place, now)
        if holder is None or holder.token == self._holder.token:
            return
        where = f"host {holder.host}" if _lives_here(holder) is None else "this machine"
        raise GvitError(
            f"{self._place.name} is being encoded by process {holder.pid} on {where}; "
            "wait for it, stop it, or choose another folder"
        )

    def _write(self) -> None:
        self._place.write(_LEASE, to_json(replace(self._holder, beat=time.time())), durable=False)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            # a missed beat is no reason to stop; the commit checks the lease
            with contextlib.suppress(OSError, GvitError):
                if self.claim.still_ours() and not self._place.touch(_LEASE):
                    self._write()


def live_holder(place: Place, now: float | None = None) -> Holder | None:
    """Return who holds the lease of a place and is alive, as far as can be told without writing there.

    Args:
        place: Of the dataset.
        now: The place's own time; None for this machine's.

    Raises:
        GvitError: The place cannot be read.
    """
    holder = _read(place)
    if holder is None:
        return None
    here = _lives_here(holder)
    if here is None:
        try:
            renewed = place.touched(_LEASE)
        except FileNotFoundError:  # released in between
            return None
        age = (time.time() if now is None else now) - (holder.beat if renewed is None else renewed)
        here = age < STALE_SECONDS
    return holder if here else None


def _read(place: Place) -> Holder | None:
    """Read a lease; none, or a damaged one (a disk that was full, a power cut), has no holder."""
    data = place.read(_LEASE)
    try:
        return None if data is None else from_json(Holder, data)
    except DatasetError:
        return None


def _lives_here(holder: Holder) -> bool | None:
    """Tell whether a holder is alive, None where only its heartbeat can say.

    That is on another host, and under our own name in another boot or another container: cloned machines
    share a name, as do containers on the host's network, and a pod keeps its own when it moves.
    """
    if holder.host != socket.gethostname() or _boot_of(holder.start) != _boot_of(_this_process().start):
        return None
    return _start_of(holder.pid) == holder.start


def _boot_of(start: str) -> str:
    """The part of a start that names the boot; empty on systems that have no name for it."""
    boot, _, ticks = start.rpartition(":")
    return boot if ticks.isdigit() else ""


def _this_process() -> Holder:
    """Return this process as the holder of a new lease."""
    start = _start_of(os.getpid())
    return Holder(socket.gethostname(), os.getpid(), start or "", uuid.uuid4().hex)


def _start_of(pid: int) -> str | None:
    """Return what tells this process from a later one of the same id, or None where no such process lives."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] == "Z" else f"{_this_boot()}:{fields[_START_TICKS]}"
    except OSError:
        return None if Path("/proc/self/stat").exists() else _start_by_ps(pid)


def _this_boot() -> str:
    """Name the boot of this machine and the container: process ids mean something only there."""
    container = ""
    with contextlib.suppress(OSError):  # a sandbox that shows no namespaces
        container = str(_PROCESSES.readlink())
    return f"{_BOOT_ID.read_text().strip()} {container}"


def _start_by_ps(pid: int) -> str | None:
    """`_start_of` for systems without /proc."""
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return found.stdout.strip() or None
