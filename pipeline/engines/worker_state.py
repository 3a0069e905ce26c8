"""What a worker in another process says of itself: one small file each in `DST/.gvit/workers/`.

The driver reads these files and nothing else to know how far its workers are, so that progress takes no way
of its own and a worker that can be seen here is known to write where the driver reads.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from ..place.private_files import local_folder, private_files
from ..progress import Tally

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "ShardProgress",
    "WorkerState",
    "forget_workers",
    "log_path",
    "parse_state",
    "read_state",
    "write_state",
]


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """Images of a shard that are finished: ok, failed, the PSNR of the former added up (dB).

    `fresh` counts those among them that this run has finished, and no earlier one; `cost_sum` is what its
    fits took, `fitted` their number.
    """

    ok: int = 0
    failed: int = 0
    psnr_sum: float = 0.0
    fresh: int = 0
    cost_sum: float = 0.0
    fitted: int = 0

    @property
    def images(self) -> int:
        """All that are finished."""
        return self.ok + self.failed

    def plus(self, tally: Tally) -> ShardProgress:
        """Return what it is after a tally."""
        fresh = tally.images if tally.fresh else 0
        return ShardProgress(
            self.ok + tally.ok,
            self.failed + tally.failed,
            self.psnr_sum + tally.psnr_sum,
            self.fresh + fresh,
            self.cost_sum + tally.cost_sum,
            self.fitted + tally.fitted,
        )

    def since(self, before: ShardProgress) -> tuple[Tally, ...]:
        """Return the difference as tallies; numbers are negative where work was lost."""
        fresh = self.fresh - before.fresh
        whole = Tally(
            self.ok - before.ok,
            self.failed - before.failed,
            self.psnr_sum - before.psnr_sum,
            cost_sum=self.cost_sum - before.cost_sum,
            fitted=self.fitted - before.fitted,
        )
        if fresh == whole.images:
            return (whole,)
        return Tally(fresh, 0, 0.0), replace(whole, ok=whole.ok - fresh, fresh=False)


@dataclass(frozen=True, slots=True)
class WorkerState:
    """Where a worker runs and what it does.

    `shard` is empty between shards, `images` the number in it; `beat` grows with every sign of life; `doing`
    is "starting", "waiting", "encoding" or "bisecting".
    """

    name: str
    host: str
    pid: int
    doing: str
    shard: str = ""
    images: int = 0
    progress: ShardProgress = ShardProgress()
    beat: int = 0

    def describe(self) -> str:
        """Say it in a few words."""
        if not self.shard:
            return f"{self.doing} ({self.host}, pid {self.pid})"
        return f"{self.doing} {self.shard} {self.progress.images}/{self.images} ({self.host}, pid {self.pid})"

    def next(self, **changes: Any) -> WorkerState:  # noqa: ANN401  (fields of this class)
        """Return the state after a sign of life."""
        return replace(self, beat=self.beat + 1, **changes)


def write_state(destination: Path, state: WorkerState) -> None:
    """Show a state to whoever looks; not made durable, for it is of no use after the run.

    Raises:
        OSError: The folder cannot be written.
        GvitError: The place behind the URL cannot be written.
    """
    data = (json.dumps(asdict(state)) + "\n").encode()
    private_files(destination).write(_name(state.name), data, durable=False)


def read_state(destination: Path, name: str) -> WorkerState | None:
    """Return the state of a worker, None where it has shown none yet."""
    data = private_files(destination).read(_name(name))
    try:
        return None if data is None else parse_state(json.loads(data))
    except (ValueError, KeyError, TypeError):
        return None


def parse_state(content: object) -> WorkerState:
    """Read a state from JSON.

    Raises:
        KeyError: A field is missing.
        TypeError: A field is unknown, or it is no object.
    """
    fields = dict(cast("dict[str, Any]", content))
    progress = ShardProgress(**fields.pop("progress"))
    return WorkerState(**fields, progress=progress)


def forget_workers(destination: Path) -> None:
    """Remove the states that earlier runs left; their logs stay."""
    private_files(destination).remove("workers")


def log_path(destination: Path, name: str) -> Path:
    """Return where the log of a worker lies, on its machine."""
    return local_folder(destination) / "logs" / f"{name}.log"


def _name(worker: str) -> str:
    return f"workers/{worker}.json"
