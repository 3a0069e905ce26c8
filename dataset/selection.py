"""Choosing a part of a dataset: by split, class, key, quality and number."""
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated

import numpy as np

from ..schemas.errors import GvitError
from ..schemas.limits import Range, check_limits

if TYPE_CHECKING:
    from .reader import Dataset

__all__ = ["Selection", "require_sets", "select"]


@dataclass(frozen=True, slots=True)
class Selection:
    """What to choose; of everything that is given, all must hold.

    Attributes:
        splits: Names of splits, None for all.
        classes: Names of classes, None for all.
        keys: Keys, None for all.
        min_psnr: Lowest PSNR in dB, None for any.
        max_images: How many at most, at least 1, evenly spread over the order of the rest; None for all.
    """

    splits: frozenset[str] | None = None
    classes: frozenset[str] | None = None
    keys: frozenset[str] | None = None
    min_psnr: float | None = None
    max_images: Annotated[int | None, Range(1)] = None

    def __post_init__(self) -> None:
        check_limits(self)


def select(dataset: Dataset, selection: Selection) -> Dataset:
    """Return the chosen sets, at least one, in their order; the dataset itself where nothing is left out.

    Raises:
        GvitError: A split, a class or a key is not in the dataset, or nothing is chosen.
    """
    if selection == Selection():
        return dataset
    manifest = dataset.manifest
    _require_known("split", selection.splits, list(manifest.splits))
    _require_known("class", selection.classes, list(manifest.classes))
    _require_known("key", selection.keys, dataset.keys)
    chosen = np.ones(len(dataset), dtype=bool)
    for column, wanted in (
        ("split", selection.splits),
        ("class", selection.classes),
        ("key", selection.keys),
    ):
        if wanted is not None:
            chosen &= np.array(
                [value in wanted for value in dataset.set_rows[column].to_pylist()], dtype=bool
            )
    if selection.min_psnr is not None:
        chosen &= dataset.psnr >= selection.min_psnr
    indices = np.flatnonzero(chosen)
    require_sets(dataset, len(indices))
    if selection.max_images is not None and selection.max_images < len(indices):
        indices = indices[np.linspace(0, len(indices) - 1, selection.max_images).round().astype(np.int64)]
    return dataset.select(indices)


def require_sets(dataset: Dataset, chosen: int) -> None:
    """Make sure that of a dataset any sets are chosen.

    Raises:
        GvitError: None is.
    """
    if not chosen:
        raise GvitError(f"no image of {dataset.path} is chosen; ask for more")


def _require_known(kind: str, wanted: frozenset[str] | None, known: list[str]) -> None:
    unknown = sorted((wanted or frozenset()).difference(known))
    if unknown:
        near = get_close_matches(unknown[0], known, n=3) or known[:3]
        others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise GvitError(f"the dataset has no {kind} {unknown[0]!r}{others}; it has {', '.join(near)}")
