"""The record of a run: metrics.jsonl, and TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...dataset.commit import atomic_write
from ...pictures.progress import Pace, plain_duration, three_digits

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["METRICS", "MetricLog", "Standing", "read_metrics", "tensorboard_installed"]

METRICS = "metrics.jsonl"

Point = dict[str, Any]
"""One line: "kind" ("train" or "evaluation"), "step", "epoch", and numbers by name."""


def read_metrics(run: Path) -> list[Point]:
    """Read the points of a run, in order; a line that a crash cut off is left out."""
    path = run / METRICS
    if not path.exists():
        return []
    points: list[Point] = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            point = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if _is_point(point):
            points.append(point)
    return points


def _is_point(point: Any) -> bool:  # noqa: ANN401
    if not isinstance(point, dict) or not isinstance(point.get("kind"), str):
        return False
    return all(type(point.get(name)) is int and 0 <= point[name] < 2**53 for name in ("step", "epoch"))


def tensorboard_installed() -> bool:
    """Whether TensorBoard can be written."""
    return importlib.util.find_spec("tensorboard") is not None


class MetricLog:
    """Appends points to a run's files, for TensorBoard too if asked to and if it is installed.

    Points after the step ``resumed_at`` that the run goes on from will be made again, and are dropped, as are
    those of evaluations after ``epochs_done``.
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


@dataclass(slots=True)
class Standing:
    """Where a run of so many epochs and steps stands; loss, top-1 and speed are those of training, lately.

    Attributes:
        rate: The learning rate.
        val_top1: Of the last evaluation.
        psnr_loss: Of the guided sets of the last epoch against the stored ones, dB; None without guidance.
        clock: Counts seconds.
    """

    epochs: int
    steps: int
    epoch: int = 0
    step: int = 0
    loss: float | None = None
    top1: float | None = None
    rate: float = 0.0
    val_top1: float | None = None
    psnr_loss: float | None = None
    samples_per_second: float | None = None
    clock: Callable[[], float] = time.monotonic
    _pace: Pace = field(init=False)

    def __post_init__(self) -> None:
        self._pace = Pace(self.clock)

    def advance(self, epoch: int, step: int) -> None:
        """Note how far the run has come."""
        self._pace.note(step)
        self.epoch, self.step = epoch, step

    def facts(self) -> list[str]:
        """Return all of it, what matters most first."""
        words = [f"epoch {min(self.epoch + 1, self.epochs)}/{self.epochs}"]
        seconds = self._pace.seconds_for(self.steps - self.step)
        if seconds is not None:
            words.insert(0, f"{plain_duration(seconds)} to go")
        if self.loss is not None and self.top1 is not None:
            words.append(f"loss {self.loss:.3f}")
            if self.val_top1 is not None:
                words.append(f"val {self.val_top1:.1%}")
            words.append(f"top-1 {self.top1:.1%}")
        if self.psnr_loss is not None:
            words.append(f"guided {0.0 - round(self.psnr_loss, 2):+.2f} dB")
        words.append(f"step {self.step}/{self.steps}")
        if self.samples_per_second is not None:
            words.append(f"{three_digits(self.samples_per_second)} samples/s")
        return [*words, f"lr {self.rate:.1e}"]
