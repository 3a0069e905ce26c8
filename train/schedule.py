"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from ..schemas.limits import Choice, Range, Share, check_limits

__all__ = ["SCHEDULES", "ScheduleConfig", "learning_rate"]

SCHEDULES = ("cosine", "linear", "constant")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate rises and falls.

    Attributes:
        lr: The highest rate, above 0, for the batch size of the run: it is not scaled.
        shape: "cosine", "linear" or "constant" after the warm-up.
        warmup_epochs: Of linear rise, 0 or more; cut to half the run where it is longer.
        final: Share of the highest rate that is left at the end, 0 to 1.

    Raises:
        GvitError: A value is out of range.
    """

    lr: Annotated[float, Range(0.0, above=True)] = 1e-3
    shape: Annotated[str, Choice(SCHEDULES)] = "cosine"
    warmup_epochs: Annotated[float, Range(0.0)] = 5.0
    final: Share = 0.0

    def __post_init__(self) -> None:
        check_limits(self, "schedule.")


def learning_rate(config: ScheduleConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return the rate of a step, counted from 0.

    The first step of a warm-up already moves (rate lr / warm-up steps), and the last step of a run has a rate
    above the final one.
    """
    total = steps_per_epoch * epochs
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total // 2)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    if config.shape == "cosine":
        remaining = 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        remaining = 1.0 - progress if config.shape == "linear" else 1.0
    return config.lr * (config.final + (1.0 - config.final) * remaining)
