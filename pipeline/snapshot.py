"""`DST/.gvit/progress.json`: how far the run is, for whoever looks from outside."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast

from ..dataset.remote.urls import as_url
from ..schemas.errors import GvitError
from .place.private_files import private_files

if TYPE_CHECKING:
    from pathlib import Path

    from .progress import Standing

__all__ = ["Snapshot", "SnapshotWriter", "read_snapshot"]

SNAPSHOT_SECONDS = 2.0
"""How old the newest snapshot of a live run is at most, between two reports."""

URL_SNAPSHOT_SECONDS = 10.0
"""The same where each costs a request to an object store."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at `time` (seconds since 1970): of `total` images `done` are finished, `failed` of them in vain.

    The rate is in images per second over the last minute; `eta_seconds` and `psnr_mean` (dB) are None where
    they cannot be told; `workers` says what each worker does, by name.
    """

    time: float
    engine: str
    total: int
    done: int
    failed: int
    images_per_second: float
    eta_seconds: float | None
    psnr_mean: float | None
    workers: dict[str, str] = field(default_factory=dict)


class SnapshotWriter:
    """Writes snapshots of a run, not more often than anybody would look."""

    def __init__(self, destination: Path, engine: str, standing: Standing) -> None:
        self._files = private_files(destination)
        self._interval = SNAPSHOT_SECONDS if as_url(destination) is None else URL_SNAPSHOT_SECONDS
        self._engine = engine
        self._standing = standing
        self._last = -self._interval

    def watch(self) -> None:
        """Write a snapshot if it is time for one."""
        if time.monotonic() - self._last >= self._interval:
            self.write()

    def write(self) -> None:
        """Write a snapshot; one that cannot be written is lost, since it is worth less than the run."""
        self._last = time.monotonic()
        standing = self._standing
        snapshot = Snapshot(
            time=round(time.time(), 3),
            engine=self._engine,
            total=standing.total,
            done=standing.done,
            failed=standing.failed,
            images_per_second=round(standing.rate, 3),
            eta_seconds=standing.eta_seconds,
            psnr_mean=standing.psnr_sum / standing.ok if standing.ok else None,
            workers=standing.workers,
        )
        data = (json.dumps(asdict(snapshot)) + "\n").encode()
        with contextlib.suppress(OSError, GvitError):
            self._files.write("progress.json", data, durable=False)


def read_snapshot(destination: Path) -> Snapshot | None:
    """Return the newest snapshot, None where there is none."""
    data = private_files(destination).read("progress.json")
    try:
        return None if data is None else Snapshot(**cast("dict[str, Any]", json.loads(data)))
    except (ValueError, TypeError):
        return None
