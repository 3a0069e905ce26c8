"""What a training run is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from ..schemas.errors import GvitError
from ..schemas.limits import Choice, Range, Share, check_limits
from .data.augment import AugmentConfig
from .data.mix import MixConfig
from .data.split import DataConfig  # noqa: TC001 - the settings read the types of the fields
from .guidance.config import GuidanceConfig
from .model.classifier import ModelConfig

__all__ = [
    "SCHEDULES",
    "OptimConfig",
    "Restart",
    "RunConfig",
    "ScheduleConfig",
    "TrainConfig",
    "learning_rate",
]

SCHEDULES = ("cosine", "linear", "constant")
_DECAY = Range(0.0, 1.0, below=True)


_Rate = Annotated[float, Range(0.0, above=True, below=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """A warm restart: from this epoch on, counted from 0, the rate falls anew from `lr`, with no warm-up."""

    epoch: Annotated[int, Range(1)]
    lr: _Rate

    def __post_init__(self) -> None:
        check_limits(self, "schedule.restarts.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate rises and falls.

    Attributes:
        lr: The highest rate, above 0, for the batch size of the run: it is not scaled.
        shape: "cosine", "linear" or "constant" after the warm-up.
        warmup_epochs: Of linear rise, 0 or more; cut to half the run where it is longer.
        final: Share of the highest rate that is left at the end, 0 to 1.
        restarts: Epochs that were added to a finished run, each part with a schedule of its own.

    Raises:
        GvitError: A value is out of range.
    """

    lr: _Rate = 1e-3
    shape: Annotated[str, Choice(SCHEDULES)] = "cosine"
    warmup_epochs: Annotated[float, Range(0.0, below=True)] = 5.0
    final: Share = 0.0
    restarts: tuple[Restart, ...] = ()

    def __post_init__(self) -> None:
        check_limits(self, "schedule.")
        starts = [restart.epoch for restart in self.restarts]
        if starts != sorted(set(starts)):
            raise GvitError(f"schedule.restarts must be in the order of their epochs, not {starts}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """How a gradient becomes an update.

    Attributes:
        name: An optimiser of timm, such as adamw.
        weight_decay: Of matrices; biases and norms are spared. 0 or more.
        betas: Of the running means, each 0 to below 1.
        clip: Highest norm of the gradient, above 0; None does not clip.
        label_smoothing: 0 to 0.9.
        ema: Decay per step of the averaged weights that are evaluated, 0 to below 1; None keeps none. It is
            lower early on, so that the average forgets the start.
        layer_decay: Factor of the learning rate from each layer to the one below it, above 0 to 1; None is 1,
            and 0.75 in a run that begins from another model.
        accumulate: Parts that a rank's share of a batch is cut into, 1 or more; saves memory.
    """

    name: str = "adamw"
    weight_decay: Annotated[float, Range(0.0)] = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    clip: Annotated[float | None, Range(0.0, above=True)] = 1.0
    label_smoothing: Annotated[float, Range(0.0, 0.9)] = 0.0
    ema: Annotated[float | None, _DECAY] = None
    layer_decay: Annotated[float | None, Range(0.0, 1.0, above=True)] = None
    accumulate: Annotated[int, Range(1, 65536)] = 1

    def __post_init__(self) -> None:
        check_limits(self, "optim.")
        if not all(beta in _DECAY for beta in self.betas):
            raise GvitError(f"optim.betas must be {_DECAY}, not {self.betas}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """How to run; of this, only the precision changes the result by more than rounding.

    Attributes:
        out: Folder of the run.
        device: "auto", "cpu" or "cuda".
        precision: Of the network: "float32", "bfloat16" or "float16"; "auto" is bfloat16 on a GPU that has
            it, else float32. Gaussians are float32 always.
        compile: Compile augmentation and network with torch.compile; None does so on a GPU, in runs of 2,000
            updates or more, where the machine has the C compiler that this takes.
        log_every: Steps between two lines of metrics.jsonl, 1 or more; None about ten lines an epoch.
        evaluate_every: Epochs between two evaluations, 1 or more; the last is always evaluated.
        checkpoint_minutes: Minutes between two checkpoints within an epoch, above 0.
        keep: Checkpoints that are kept beside the best, 1 or more; of two, one may be damaged.
        resume: "auto" goes on from the last checkpoint of `out`, "never" wants a fresh folder.
        tensorboard: Also log for TensorBoard, where it is installed.
    """

    out: Path
    device: Annotated[str, Choice(("auto", "cpu", "cuda"))] = "auto"
    precision: Annotated[str, Choice(("auto", "float32", "bfloat16", "float16"))] = "auto"
    compile: bool | None = None
    log_every: Annotated[int | None, Range(1)] = None
    evaluate_every: Annotated[int, Range(1)] = 1
    checkpoint_minutes: Annotated[float, Range(0.0, above=True)] = 10.0
    keep: Annotated[int, Range(1)] = 2
    resume: Annotated[str, Choice(("auto", "never"))] = "auto"
    tensorboard: bool = True

    def __post_init__(self) -> None:
        check_limits(self, "run.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        recipe: Name of the recipe that the other settings started from; a note, it changes nothing here.
        epochs: Passes over the training sets, at least 1.
        batch_size: Samples per update, over all ranks and accumulated parts, at least 1.
        seed: Of weights, order and every random choice, 0 to 2^63 - 1.
        init: Run, checkpoint, shared model or hf://USER/NAME whose weights it begins from; None for random
            ones.
    """

    recipe: str = "none"
    epochs: Annotated[int, Range(1, 1_000_000)] = 90
    batch_size: Annotated[int, Range(1, 2**24)] = 1024
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    init: str | None = None
    data: DataConfig
    run: RunConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)

    def __post_init__(self) -> None:
        check_limits(self)
        if any(restart.epoch >= self.epochs for restart in self.schedule.restarts):
            raise GvitError(f"schedule.restarts must begin before the run ends, after {self.epochs} epochs")


def learning_rate(config: ScheduleConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return the rate of a step, counted from 0; after a restart, that of a run which begins there.

    The first step of a warm-up already moves (rate lr / warm-up steps), and the last step of a run has a rate
    above the final one.
    """
    begun = [restart for restart in config.restarts if step >= restart.epoch * steps_per_epoch]
    if begun:
        later = config.restarts[len(begun) :]
        anew = replace(config, lr=begun[-1].lr, warmup_epochs=0.0, restarts=())
        until, skipped = later[0].epoch if later else epochs, begun[-1].epoch
        return learning_rate(anew, step - skipped * steps_per_epoch, steps_per_epoch, until - skipped)
    total = steps_per_epoch * (config.restarts[0].epoch if config.restarts else epochs)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total // 2)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    if config.shape == "cosine":
        remaining = 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        remaining = 1.0 - progress if config.shape == "linear" else 1.0
    return config.lr * (config.final + (1.0 - config.final) * remaining)
