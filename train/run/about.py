"""`about.json` of a checkpoint and `config.json` of a shared model: what a model is, and how well it does."""

from __future__ import annotations

from dataclasses import dataclass

from ...schemas.documents import Count, Integer, Sha256  # noqa: TC001 - the fields' types are read
from ...schemas.encoding import get_encoding
from ...schemas.errors import DatasetError
from ...schemas.manifest import FitInfo  # noqa: TC001
from ..data.augment import AugmentConfig  # noqa: TC001
from ..model.classifier import ModelConfig  # noqa: TC001
from ..model.refiner import RefinerConfig  # noqa: TC001

__all__ = ["FORMAT", "MODEL_TYPE", "About", "DataAbout", "Scores", "SharedAbout"]

FORMAT = 1
"""Raised when older checkpoints can no longer be read."""

MODEL_TYPE = "gvit"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataAbout:
    """What a model needs to be given the same kind of sets, and digests of those that it was given.

    Attributes:
        classes: Names of the classes; a label is an index of this.
        gaussians: Gaussians per set.
        size: Side of the canvas that they were fitted on, in pixels.
        encoding: Storage encoding that rounded them.
        fit: How they were fitted.
        train: SHA-256 over shards and keys of the training sets.
        val: Of the sets that were evaluated on.
    """

    classes: tuple[str, ...]
    gaussians: Count
    size: Count
    encoding: str
    fit: FitInfo
    train: Sha256
    val: Sha256

    def __post_init__(self) -> None:
        get_encoding(self.encoding)
        if not (self.classes and self.gaussians and self.size):
            raise DatasetError("the field data names no classes, Gaussians or pixels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What an evaluation found: top-1 and top-5 in 0..1, mean cross-entropy, number of samples."""

    top1: float
    top5: float
    loss: float
    samples: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a checkpoint is: `step` updates and `epoch` epochs of training; scores of its last evaluation."""

    format: Integer = FORMAT
    step: Count
    model: ModelConfig
    augment: AugmentConfig
    refiner: RefinerConfig | None
    data: DataAbout
    epoch: Count
    evaluation: Scores | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedAbout(About):
    """The same of a model that was made to be shared, and its labels as the hub's tools read them.

    Attributes:
        class_names: What people call the classes, where it is known.
    """

    model_type: str = MODEL_TYPE
    num_labels: Count
    id2label: dict[str, str]
    class_names: dict[str, str]
