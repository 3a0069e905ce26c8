"""The lease: at most one live run writes into a dataset.

`DST/.gvit/lease` names its holder by host, process id and the start of that process. On the holder's own
machine a dead process is recognised for certain and its lease is taken over at once; from another machine,
another container or after a restart only the age of the last heartbeat tells.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import subprocess
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...dataset.remote.urls import as_url, place_name
from ...schemas.errors import GvitError
from .private_files import private_files

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = [
    "HEARTBEAT_SECONDS",
    "STALE_SECONDS",
    "Claim",
    "Holder",
    "Lease",
    "live_holder",
    "lives_here",
    "parse_holder",
    "refusal",
    "this_process",
]

HEARTBEAT_SECONDS = 20.0
"""How often a live holder touches its lease."""

STALE_SECONDS = 120.0
"""How old the last heartbeat of a holder on another host must be before its lease may be taken over."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PROCESSES = Path("/proc/self/ns/pid")
_START_TICKS = 19  # index of `starttime` in /proc/PID/stat, counted after the parenthesised command


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease: `start` tells apart processes of the same `pid`; `token` is unique per lease."""

    host: str
    pid: int
    start: str
    token: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker carries to check the lease under which it works; it can be sent to another process.

    `path` is that of the lease, or a path made of its URL.
    """

    path: Path
    token: str

    def still_ours(self) -> bool:
        """Tell whether the lease that is there is the one that this claim was handed out under.

        Raises:
            FileNotFoundError: The whole folder is gone.
            GvitError: The place behind the URL cannot be read.
        """
        if as_url(self.path) is not None:
            holder = parse_holder(private_files(self.path.parent.parent).read(self.path.name))
            return holder is not None and holder.token == self.token
        holder = _read(self.path)
        if holder is None and not self.path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "it was removed", str(self.path))
        return holder is not None and holder.token == self.token

    def require(self, destination: Path) -> None:
        """Make sure that the lease is still ours.

        Raises:
            GvitError: It is not.
            FileNotFoundError: The whole folder is gone.
        """
        if not self.still_ours():
            raise GvitError(
                f"another gvit encode has taken over {place_name(destination)}: "
                "let it finish, or stop it and run this again"
            )


class Lease:
    """The right to write into one dataset, held from `acquire` to `release` or for the body of a `with`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lease"
        self._lock_path = folder / "lease.lock"
        self._holder = this_process()
        self._released = threading.Event()
        self._heart: threading.Thread | None = None

    @property
    def claim(self) -> Claim:
        """The claim for workers; its token also names this run's attempts at writing files."""
        return Claim(self._path, self._holder.token)

    def acquire(self) -> None:
        """Take the lease, at once where its holder is dead.

        Raises:
            GvitError: Another run holds it.
            OSError: The folder cannot be written.
        """
        with self._locked() as now:
            current = _read(self._path)
            if current is not None and _alive(self._path, current, now):
                raise GvitError(refusal(self._path.parent.parent, current))
            temporary = self._path.with_name(f".lease.{self._holder.token}.tmp")
            temporary.write_text(json.dumps(asdict(self._holder)) + "\n")
            temporary.replace(self._path)
        self._heart = threading.Thread(target=self._beat, name="gvit-lease", daemon=True)
        self._heart.start()

    def release(self) -> None:
        """Give the lease back; does nothing where it is not ours any more."""
        self._released.set()
        if self._heart is not None:
            self._heart.join()
        with contextlib.suppress(OSError), self._locked():
            if self.claim.still_ours():
                self._path.unlink()

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @contextlib.contextmanager
    def _locked(self) -> Generator[float]:
        """Keep two starting runs from taking over one dead lease both; yields the file system's own time."""
        with self._lock_path.open("w") as lock:
            with contextlib.suppress(OSError):  # a file system without locks: the race is all that is lost
                fcntl.flock(lock, fcntl.LOCK_EX)
            os.utime(self._lock_path)
            yield self._lock_path.stat().st_mtime

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(
                OSError
            ):  # a missed beat is no reason to stop; the commit checks the lease
                if self.claim.still_ours():
                    os.utime(self._path)


def live_holder(folder: Path) -> Holder | None:
    """Return who holds the lease in a folder and is alive, as far as can be told without writing there."""
    path = folder / "lease"
    holder = _read(path)
    try:
        return holder if holder is not None and _alive(path, holder, time.time()) else None
    except FileNotFoundError:  # released in between
        return None


def _alive(path: Path, holder: Holder, now: float) -> bool:
    here = lives_here(holder)
    if here is not None:
        return here
    return now - path.stat().st_mtime < STALE_SECONDS


def lives_here(holder: Holder) -> bool | None:
    """Tell whether a holder is alive, None where only its heartbeat can say.

    That is on another host, and under our own name in another boot or another container: cloned machines
    share a name, as do containers on the host's network, and a pod keeps its own when it moves.
    """
    if holder.host != socket.gethostname() or _boot_of(holder.start) != _boot_of(this_process().start):
        return None
    return _start_of(holder.pid) == holder.start


def _boot_of(start: str) -> str:
    """The part of a start that names the boot; empty on systems that have no name for it."""
    boot, _, ticks = start.rpartition(":")
    return boot if ticks.isdigit() else ""


def this_process() -> Holder:
    """Return this process as the holder of a new lease."""
    start = _start_of(os.getpid())
    return Holder(socket.gethostname(), os.getpid(), start or "", uuid.uuid4().hex)


def refusal(destination: Path, holder: Holder) -> str:
    """Say that somebody else is at work."""
    where = f"host {holder.host}" if lives_here(holder) is None else "this machine"
    return (
        f"{place_name(destination)} is being encoded by process {holder.pid} on {where}; "
        "wait for it, stop it, or choose another folder"
    )


def _read(path: Path) -> Holder | None:
    try:
        return parse_holder(path.read_bytes())
    except OSError:
        return None


def parse_holder(data: bytes | None) -> Holder | None:
    """Read a lease; none, or a damaged one (a disk that was full, a power cut), has no holder."""
    try:
        fields = json.loads(data or b"")
        return Holder(str(fields["host"]), int(fields["pid"]), str(fields["start"]), str(fields["token"]))
    except (ValueError, KeyError, TypeError):
        return None


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
