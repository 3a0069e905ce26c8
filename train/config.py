"""What a training run is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - the settings read the types of the fields

from ..schemas.errors import GvitError
from .data.augment import AugmentConfig
from .data.mix import MixConfig
from .data.split import DataConfig  # noqa: TC001 - the settings read the types of the fields
from .guidance.config import GuidanceConfig
from .model.classifier import ModelConfig
from .schedule import ScheduleConfig

__all__ = ["DEVICES", "PRECISIONS", "OptimConfig", "RunConfig", "TrainConfig"]

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
RESUMES = ("auto", "never")


def _within(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise GvitError(f"{name} must be {bounds}, not {value}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise GvitError(f"{name} must be one of {', '.join(known)}, not {value!r}")


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
        accumulate: Parts that a rank's share of a batch is cut into, 1 or more; saves memory.
    """

    name: str = "adamw"
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = 1.0
    label_smoothing: float = 0.0
    ema: float | None = None
    accumulate: int = 1

    def __post_init__(self) -> None:
        _within("optim.weight_decay", self.weight_decay, 0.0, math.inf)
        _within("optim.label_smoothing", self.label_smoothing, 0.0, 0.9)
        _within("optim.accumulate", self.accumulate, 1, 65536)
        for name, value in (("betas", self.betas[0]), ("betas", self.betas[1]), ("ema", self.ema)):
            if value is not None and not 0.0 <= value < 1.0:
                raise GvitError(f"optim.{name} must be from 0 to below 1, not {value}")
        if self.clip is not None and not self.clip > 0.0:
            raise GvitError(f"optim.clip must be above 0, not {self.clip}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """How to run; of this, only the precision changes the result by more than rounding.

    Attributes:
        out: Folder of the run.
        device: "auto", "cpu" or "cuda".
        precision: Of the network: "float32", "bfloat16" or "float16"; "auto" is bfloat16 on a GPU that has
            it, else float32. Gaussians are float32 always.
        compile: Compile the network with torch.compile.
        log_every: Steps between two lines of metrics.jsonl, 1 or more; None about ten lines an epoch.
        evaluate_every: Epochs between two evaluations, 1 or more; the last is always evaluated.
        checkpoint_minutes: Minutes between two checkpoints within an epoch, above 0.
        keep: Checkpoints that are kept beside the best, 1 or more.
        resume: "auto" goes on from the last checkpoint of `out`, "never" wants a fresh folder.
        tensorboard: Also log for TensorBoard, where it is installed.
    """

    out: Path
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    log_every: int | None = None
    evaluate_every: int = 1
    checkpoint_minutes: float = 10.0
    keep: int = 1
    resume: str = "auto"
    tensorboard: bool = True

    def __post_init__(self) -> None:
        _one_of("run.device", self.device, DEVICES)
        _one_of("run.precision", self.precision, PRECISIONS)
        _one_of("run.resume", self.resume, RESUMES)
        _within("run.log_every", self.log_every, 1, math.inf)
        _within("run.evaluate_every", self.evaluate_every, 1, math.inf)
        _within("run.keep", self.keep, 1, math.inf)
        if not self.checkpoint_minutes > 0.0:
            raise GvitError(f"run.checkpoint_minutes must be above 0, not {self.checkpoint_minutes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        recipe: Name of the recipe that the other settings started from; a note, it changes nothing here.
        epochs: Passes over the training sets, at least 1.
        batch_size: Samples per update, over all ranks and accumulated parts, at least 1.
        seed: Of weights, order and every random choice, 0 to 2^63 - 1.
    """

    recipe: str = "none"
    epochs: int = 90
    batch_size: int = 1024
    seed: int = 0
    data: DataConfig
    run: RunConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)

    def __post_init__(self) -> None:
        _within("epochs", self.epochs, 1, 1_000_000)
        _within("batch_size", self.batch_size, 1, 2**24)
        _within("seed", self.seed, 0, 2**63 - 1)
