"""The lease of a dataset behind a URL: best effort, since an object store has no locks.

The lease is a small file, `.gvit/lease`, with the time of the last heartbeat in it. Two runs that start
within a second may both take it; each reads it again a moment later, and the one that it does not name gives
way. The clocks of the machines must agree to a minute.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from ...schemas.errors import GvitError
from . import lease as lease_module
from .lease import STALE_SECONDS, Claim, Holder, lives_here, parse_holder, refusal, this_process
from .private_files import PRIVATE, UrlFiles, private_files

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["UrlLease", "live_holder_at"]

_NAME = "lease"
_SETTLE_SECONDS = 1.0


class UrlLease:
    """The right to write into one dataset behind a URL, held for the body of a `with`."""

    def __init__(self, destination: Path, files: UrlFiles) -> None:
        self._destination = destination
        self._files = files
        self._holder = this_process()
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="gvit-lease", daemon=True)

    @property
    def claim(self) -> Claim:
        """The claim for workers; its token also names this run's attempts at writing files."""
        return Claim(self._destination / PRIVATE / _NAME, self._holder.token)

    def acquire(self) -> None:
        """Take the lease, at once where its holder is a dead process of this machine.

        Raises:
            GvitError: Another run holds it, or the place cannot be read or written.
        """
        current = live_holder_at(self._destination)
        if current is None:
            self._write()
            time.sleep(_SETTLE_SECONDS)
            current = live_holder_at(self._destination)
        if current is not None and current.token != self._holder.token:
            raise GvitError(refusal(self._destination, current))
        self._heart.start()

    def release(self) -> None:
        """Give the lease back; does nothing where it is not ours any more."""
        self._released.set()
        self._heart.join()
        with contextlib.suppress(GvitError):  # it will be stale soon
            if self.claim.still_ours():
                self._files.remote.remove(f"{PRIVATE}/{_NAME}")

    def __enter__(self) -> UrlLease:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _write(self) -> None:
        content = {**asdict(self._holder), "beat": time.time()}
        self._files.write(_NAME, (json.dumps(content) + "\n").encode())

    def _beat(self) -> None:
        while not self._released.wait(lease_module.HEARTBEAT_SECONDS):
            with contextlib.suppress(GvitError):  # no reason to stop; commits check the lease
                if self.claim.still_ours():
                    self._write()


def live_holder_at(destination: Path) -> Holder | None:
    """Return who holds the lease of a dataset behind a URL and is alive, as far as can be told.

    Raises:
        GvitError: The place cannot be read.
    """
    data = private_files(destination).read(_NAME)
    holder = parse_holder(data)
    if holder is None or data is None:
        return None
    here = lives_here(holder)
    if here is not None:
        return holder if here else None
    beat = json.loads(data).get("beat")
    fresh = isinstance(beat, (int, float)) and time.time() - beat < STALE_SECONDS
    return holder if fresh else None
