"""What a person sees of a run: a bar on a terminal, a plain line per interval elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, Progress, TextColumn

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

__all__ = ["INTERVAL_SECONDS", "RunDisplay", "Standing"]

INTERVAL_SECONDS = 10.0
"""How often a run that is not on a terminal prints a line."""


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
    _began: tuple[float, int] | None = field(default=None, init=False)

    def advance(self, epoch: int, step: int) -> None:
        """Note how far the run has come."""
        if self._began is None:
            self._began = (self.clock(), step)
        self.epoch, self.step = epoch, step

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to go at the average pace since the start, None before there is one."""
        if self._began is None or self.step <= self._began[1]:
            return None
        pace = (self.clock() - self._began[0]) / (self.step - self._began[1])
        return pace * (self.steps - self.step)

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
        if self.eta_seconds is not None:
            words.append(f"{_duration(self.eta_seconds)} to go")
        return ", ".join(words)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class RunDisplay:
    """Shows a standing while the body of a `with` runs.

    Args:
        standing: What to show; changed by whoever trains.
        console: Where to, or None to be silent (on all ranks but the first).
    """

    def __init__(self, standing: Standing, console: Console | None) -> None:
        self._standing = standing
        self._console = console
        self._last_line = standing.clock()
        self._bar = None
        if console is not None and console.is_terminal:
            columns = (TextColumn("train"), BarColumn(bar_width=20), TextColumn("{task.fields[words]}"))
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task("train", total=standing.steps, words="starting")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def refresh(self) -> None:
        """Show the standing, if it is time to."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._standing.step, words=self._standing.describe())
        elif self._console is not None and self._standing.clock() - self._last_line >= INTERVAL_SECONDS:
            self._last_line = self._standing.clock()
            self.say(f"train: {self._standing.describe()}")

    def say(self, line: str) -> None:
        """Print a line."""
        if self._console is not None:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
