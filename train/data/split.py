"""Which sets are trained on, which are evaluated on, and whether they go together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from ...dataset.reader import Dataset, open_dataset
from ...schemas.errors import GvitError
from ...schemas.limits import Choice, Range, check_limits
from .order import epoch_order
from .overlap import Overlap, digests_of, first_images, overlap_of

__all__ = ["DataConfig", "TrainingData", "check_same_kind", "open_training_data"]

CACHES = ("auto", "memory", "mmap")

_HELD_OUT = 0.1
_VALIDATION_SPLIT = "val"
_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which sets are trained and evaluated on.

    Attributes:
        shards: A dataset that gvit encode wrote; its split "train" where it has one, else all of it.
        val_shards: Another dataset to evaluate on; None takes the split "val" of the first.
        val_fraction: Share of the training sets to hold out in place of either, above 0 to 0.9; None holds
            out a tenth where there is nothing else to evaluate on.
        cache: "memory", "mmap" or "auto".
        allow_empty_classes: Train although a class has no sample.
        allow_overlap: Evaluate although more than 5 % of the images to evaluate on are trained on.
        check: Read all sets before training: checksums and ranges.
    """

    shards: Path
    val_shards: Path | None = None
    val_fraction: Annotated[float | None, Range(0.0, 0.9, above=True)] = None
    cache: Annotated[str, Choice(CACHES)] = "auto"
    allow_empty_classes: bool = False
    allow_overlap: bool = False
    check: bool = True

    def __post_init__(self) -> None:
        check_limits(self, "data.")
        if self.val_fraction is not None and self.val_shards is not None:
            raise GvitError("give either a dataset to evaluate on or a fraction to hold out, not both")


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The sets of a run; both parts share one class list, and sets of one size."""

    train: Dataset
    val: Dataset
    overlap: Overlap = Overlap((), 0)  # noqa: RUF009 - a constant

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label is an index of this."""
        return tuple(self.train.manifest.classes)


def open_training_data(config: DataConfig, seed: int) -> TrainingData:
    """Open what a run trains and evaluates on.

    Raises:
        GvitError: A dataset is missing, incomplete or of another version; it has no classes, or a class
            without a sample to train on; the two do not go together.
    """
    dataset = open_dataset(config.shards)
    held_out = config.val_fraction is not None or _VALIDATION_SPLIT not in dataset.manifest.splits
    if config.val_shards is None and (held_out or not _unseen(dataset)) and dataset.manifest.label_informed:
        raise GvitError(
            f"{dataset.path} was tuned with the help of its labels, and a score on a part of it would mean "
            "nothing: give the dataset that it was made from with --val-shards"
        )
    train = dataset.split("train") if "train" in dataset.manifest.splits else dataset
    if config.val_fraction is not None:
        data = _hold_out(train, config.val_fraction, seed)
    elif config.val_shards is not None:
        other = open_dataset(config.val_shards)
        check_same_kind(dataset, other)
        data = TrainingData(train, evaluation_split(other))
    elif train is not dataset and _VALIDATION_SPLIT in dataset.manifest.splits:
        data = TrainingData(train, dataset.split(_VALIDATION_SPLIT))
    else:
        data = _hold_out(train, _HELD_OUT, seed)
    _check_labels(data, allow_empty=config.allow_empty_classes)
    overlap = overlap_of(data.val, digests_of(data.train))
    overlap.check(
        allowed=config.allow_overlap,
        way_out="give other images with --val-shards, or accept it with --set data.allow_overlap=true",
    )
    return replace(data, overlap=overlap)


def evaluation_split(dataset: Dataset) -> Dataset:
    """Return the split "val" of a dataset, or all of one that has no such split.

    Raises:
        GvitError: The sets were tuned with the help of their labels, or there are none.
    """
    if dataset.manifest.label_informed and not _unseen(dataset):
        raise _tuned(dataset)
    found = dataset.split(_VALIDATION_SPLIT) if _VALIDATION_SPLIT in dataset.manifest.splits else dataset
    if not len(found):
        raise GvitError(f"{dataset.path} has no sets to evaluate on: give another dataset")
    return found


def scored_split(dataset: Dataset, wanted: str | None) -> Dataset:
    """Return the split that a model is scored on: the one asked for, or "val", or else "test".

    Raises:
        GvitError: There is none of these, or it has no sets; or labels had a part in them.
    """
    splits = dataset.manifest.splits
    found = wanted or next((name for name in (_VALIDATION_SPLIT, "test") if name in splits), None)
    tuning = dataset.manifest.tuning
    if dataset.manifest.label_informed and found not in ((tuning and tuning.unseen_splits) or ()):
        raise _tuned(dataset)
    there = ", ".join(splits) or "none"
    if found is None:
        raise GvitError(f"{dataset.path} has no split val or test ({there}): say with --split which to score")
    if not splits.get(found):
        raise GvitError(f"{dataset.path} has no sets in the split {found!r}; it has {there}")
    return dataset.split(found)


def _tuned(dataset: Dataset) -> GvitError:
    return GvitError(
        f"{dataset.path} was tuned with the help of its labels; a score on it would mean nothing: "
        "evaluate on the dataset that it was made from"
    )


def _unseen(dataset: Dataset) -> bool:
    """Tell whether the labels of the split "val" had no part in how sets were tuned."""
    tuning = dataset.manifest.tuning
    return tuning is not None and _VALIDATION_SPLIT in (tuning.unseen_splits or ())


def check_same_kind(train: Dataset, val: Dataset) -> None:
    """Check that what was trained on one dataset can be evaluated on another.

    Raises:
        GvitError: Another class list, number of Gaussians or canvas size.
    """
    check_kind(val, train.manifest.classes, train.manifest.gaussians, train.manifest.size, str(train.path))


def check_kind(
    dataset: Dataset,
    classes: tuple[str, ...] | list[str],
    gaussians: int,
    size: int,
    of: str,
    *,
    some: bool = False,
) -> None:
    """Check a dataset's class list, number of Gaussians and canvas size against those of something else.

    With `some`, the dataset may have some of the classes.

    Raises:
        GvitError: They differ; the sentence says in what.
    """
    manifest = dataset.manifest
    if manifest.gaussians != gaussians:
        raise GvitError(
            f"{dataset.path} has {manifest.gaussians} Gaussians per set and {of} has {gaussians}: "
            "encode both with the same --num-gaussians"
        )
    if manifest.size != size:
        raise GvitError(
            f"{dataset.path} was fitted at size {manifest.size} and {of} at {size}: "
            "encode both with the same --size"
        )
    given, known = set(manifest.classes), set(classes)
    if not (some and given and given <= known) and list(manifest.classes) != list(classes):
        odd = sorted(given - known if some and given else given ^ known)[:_NAMES_SHOWN]
        raise GvitError(
            f"{dataset.path} and {of} have other classes (such as {', '.join(odd) or 'another order'}): "
            "encode both from folders with the same class names"
        )


def _hold_out(train: Dataset, fraction: float, seed: int) -> TrainingData:
    """Hold some training sets out, chosen by the seed, each with all others of the same image."""
    count = round(len(train) * fraction)
    if not 0 < count < len(train):
        raise GvitError(
            f"{train.path} has {len(train)} training sets, too few to hold out {fraction:g} of them: "
            "give --val-shards or another --val-fraction"
        )
    held = first_images(train, epoch_order(seed, -1, len(train)), count)
    kept = np.setdiff1d(np.arange(len(train)), held)
    if not len(kept):
        raise GvitError(f"{train.path} has one image many times: there is nothing to hold out")
    return TrainingData(train.select(kept), train.select(held))


def _check_labels(data: TrainingData, *, allow_empty: bool) -> None:
    path, classes = data.train.path, data.classes
    if not classes:
        raise GvitError(f"{path} has no classes to learn: encode folders named by class, or give --labels")
    for part in (data.train, data.val):
        unlabelled = int((part.labels < 0).sum())
        if unlabelled:
            raise GvitError(
                f"{part.path} has {unlabelled} sets without a class: encode it with a class for each"
            )
    counts = np.bincount(data.train.labels, minlength=len(classes))
    empty = [classes[i] for i in np.flatnonzero(counts == 0)]
    if empty and not allow_empty:
        shown = ", ".join(empty[:_NAMES_SHOWN]) + (", ..." if len(empty) > _NAMES_SHOWN else "")
        raise GvitError(
            f"{path} has no training set of {len(empty)} of {len(classes)} classes ({shown}): encode "
            "images of them, or accept it with --set data.allow_empty_classes=true"
        )
