"""What a worker in another process says of itself: one small file each in `DST/.gvit/workers/`.

The driver reads these files and nothing else to know how far its workers are, so that progress takes no way
of its own and a worker that can be seen here is known to write where the driver reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...schemas.documents import Count, Integer, from_json, to_json
from ...schemas.errors import DatasetError
from ..place.place import PRIVATE
from ..progress import Progress

if TYPE_CHECKING:
    from ..place.place import Place

__all__ = ["WorkerState", "forget_workers", "log_path", "read_worker", "write_worker"]

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
