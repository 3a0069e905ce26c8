"""What a checkpoint says of itself in `about.json`, and a model to be shared in `config.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ...schemas.documents import OPTIONAL, Count, Integer, Sha256, to_json
from ...schemas.encoding import get_encoding
from ...schemas.errors import DatasetError
from ...schemas.manifest import FitInfo  # noqa: TC001
from ..config import Restart  # noqa: TC001
from ..data.augment import AugmentConfig  # noqa: TC001
from ..model.classifier import ModelConfig  # noqa: TC001
from ..model.evaluate import Scores  # noqa: TC001
from ..model.refiner import RefinerConfig  # noqa: TC001

__all__ = ["FORMAT", "MODEL_TYPE", "About", "DataAbout", "InitAbout", "SharedAbout", "with_sums"]

_SELF = "about"

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
class InitAbout:
    """The model that a run began from.

    Attributes:
        source: As it was given.
        step: Updates that it had had.
        train: SHA-256 over shards and keys of what it was trained on.
        head: Whether its head was kept.
    """

    source: str
    step: Count
    train: Sha256
    head: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a checkpoint is: `step` updates and `epoch` epochs of training; scores of its last evaluation.

    `init` is the model that it began from, `restarts` are where epochs were added to a finished run.
    `files` has the SHA-256 of each of its other files while it lies on a disk, and as `about` of all that
    is said here; None of those of gvit 0.1.
    """

    format: Integer = FORMAT
    step: Count
    model: ModelConfig
    augment: AugmentConfig
    refiner: RefinerConfig | None = None
    data: DataAbout
    epoch: Count
    evaluation: Scores | None
    init: InitAbout | None = field(default=None, metadata={OPTIONAL: True})
    restarts: list[Restart] | None = field(default=None, metadata={OPTIONAL: True})
    files: dict[str, Sha256] | None = field(default=None, metadata={OPTIONAL: True})


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


AboutKind = TypeVar("AboutKind", bound=About)


def with_sums(about: AboutKind, sums: Mapping[str, str]) -> AboutKind:
    """Return the same with the checksums of the other files, and of what it says itself but for those."""
    bare = to_json(replace(about, files=None))
    return replace(about, files={**sums, _SELF: hashlib.sha256(bare).hexdigest()})
