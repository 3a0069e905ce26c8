"""Where a training run stands, in a line."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...pictures.progress import Pace, plain_duration

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Standing"]


@dataclass(slots=True)
class Standing:
    """Where a run stands.

    Attributes:
        epochs: Of the whole run.
        steps: Of the whole run.
        epoch: Counted from 0.
        step: Updates made.
        loss: Of training, lately.
        top1: Of training, lately.
        rate: The learning rate.
        val_top1: Of the last evaluation.
        psnr_loss: Of the guided sets of the last epoch against the stored ones, dB; None without guidance.
        samples_per_second: Lately.
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

    def describe(self) -> str:
        """Say all of it in one line."""
        words = [f"epoch {min(self.epoch + 1, self.epochs)}/{self.epochs}", f"step {self.step}/{self.steps}"]
        if self.loss is not None and self.top1 is not None:
            words += [f"loss {self.loss:.3f}", f"top-1 {self.top1:.1%}"]
        if self.val_top1 is not None:
            words.append(f"val {self.val_top1:.1%}")
        if self.psnr_loss is not None:
            words.append(f"guided {0.0 - round(self.psnr_loss, 2):+.2f} dB")
        words.append(f"lr {self.rate:.1e}")
        if self.samples_per_second is not None:
            words.append(f"{self.samples_per_second:.0f} samples/s")
        seconds = self._pace.seconds_for(self.steps - self.step)
        if seconds is not None:
            words.append(f"{plain_duration(seconds)} to go")
        return ", ".join(words)
