"""The record of a run: metrics.jsonl, and TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, Any

from ...dataset.commit import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

    from torch.utils.tensorboard import SummaryWriter

__all__ = ["METRICS", "MetricLog", "read_metrics", "tensorboard_installed"]

METRICS = "metrics.jsonl"

Point = dict[str, Any]
"""One line: "kind" ("train" or "evaluation"), "step", "epoch", and numbers by name."""


def read_metrics(run: Path) -> list[Point]:
    """Read the points of a run, in order; a line that a crash cut off is left out."""
    path = run / METRICS
    if not path.exists():
        return []
    points: list[Point] = []
    for line in path.read_text().splitlines():
        try:
            points.append(json.loads(line))
        except ValueError:
            continue
    return points


def tensorboard_installed() -> bool:
    """Whether TensorBoard can be written."""
    return importlib.util.find_spec("tensorboard") is not None


class MetricLog:
    """Appends points to a run's files.

    Args:
        run: Folder of the run.
        resumed_at: Step that the run goes on from; points after it will be made again, and are dropped.
        epochs_done: Epochs that are over at that step, evaluation included.
        tensorboard: Also write for TensorBoard, if it is installed.
    """

    def __init__(
        self, run: Path, *, resumed_at: int = 0, epochs_done: int = 0, tensorboard: bool = False
    ) -> None:
        kept = [
            point
            for point in read_metrics(run)
            if point["step"] <= resumed_at and (point["kind"] == "train" or point["epoch"] <= epochs_done)
        ]
        atomic_write(run / METRICS, "".join(json.dumps(point) + "\n" for point in kept).encode())
        self._file = (run / METRICS).open("a")
        self._board: SummaryWriter | None = None
        if tensorboard and tensorboard_installed():
            from torch.utils.tensorboard import SummaryWriter  # slow, and not everyone's

            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=resumed_at + 1)

    def write(self, point: Point) -> None:
        """Append a point."""
        self._file.write(json.dumps(point) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in point.items():
                if isinstance(value, float):
                    self._board.add_scalar(f"{point['kind']}/{name}", value, point["step"])

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()
