"""What looks like a mistake in a source is refused, unless it is said to be meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..schemas.errors import GvitError
from .more_formats import PICTURE_SUFFIXES, extras_for
from .sources.split_names import is_split_word

if TYPE_CHECKING:
    from .sources.source import Listing

__all__ = ["KINDS", "check_listing"]

_NAMED = 3
_LOSABLE = 0.05  # share of the pictures of a class, or of all images


def check_listing(root: Path | str, listing: Listing, accepted: Sequence[str]) -> None:
    """Refuse a listing whose labels can hardly be meant so.

    Args:
        root: The source, for the sentence.
        listing: Of the source.
        accepted: Some of `KINDS`.

    Raises:
        GvitError: A class is named like a split; all images are of one class, above further folders; a class
            of "val" is not in "train"; a part of "train" or "val" has labels; a class loses more than 5 % of
            its pictures; or so many images are in no list.
    """
    for kind, doubt in _DOUBTS.items():
        sentence = None if kind in accepted else doubt(listing)
        if sentence is not None:
            raise GvitError(f"{root}: {sentence}, or accept it with --accept {kind}")


def _split_class(listing: Listing) -> str | None:
    names = [name for name in listing.classes if is_split_word(name)]
    if not names:
        return None
    return (
        f"{_several(names)} would be a class, and is named like a split: lay the images out as "
        "train/<class>/ and val/<class>/, with nothing that is no split beside them"
    )


def _one_class(listing: Listing) -> str | None:
    images = listing.entries
    if len(images.classes) != 1:
        return None
    (name,) = images.classes
    folders = [images.folders[number] for number in np.unique(images.folder)]
    if len(folders) == 1 or not all(f"/{name}/" in f"/{folder}" for folder in folders):
        return None
    return (
        f"all images would be of the class {name!r}, which holds further folders: give the folder whose "
        "folders are the classes, or say --class-level last"
    )


def _new_class(listing: Listing) -> str | None:
    train, val = (set(listing.entries.label_counts(split)) - {None} for split in ("train", "val"))
    if not train or val <= train or all(map(str.isdigit, listing.classes)):  # numbers say nothing wrong
        return None
    return (
        f"{_several(sorted(map(str, val - train)))} is a class of the split val and not of train: give both "
        "splits the same class names, as with --labels"
    )


def _part_labelled(listing: Listing) -> str | None:
    images = listing.entries
    for split in ("train", "val"):
        inside = images.of_split(split)
        bare = inside[images.label[inside] < 0]
        if 0 < len(bare) < len(inside):
            return (
                f"{len(bare)} of the {len(inside)} images of the split {split} have no class, such as "
                f"{images[int(bare[0])].source!r}: give them one, or take them out"
            )
    return None


def _lost_pictures(listing: Listing) -> str | None:
    kept = listing.entries.label_counts()
    for name, lost in sorted(listing.lost.items()):
        total = lost + kept.get(name, 0)
        if lost > _LOSABLE * total:
            ways = extras_for(listing.passed)
            kinds = ", ".join(f".{suffix}" for suffix in sorted(listing.passed) if suffix in PICTURE_SUFFIXES)
            return (
                f"{lost} of the {total} pictures of the class {name!r} would be passed over, as their "
                f"formats are not read ({kinds}): convert them{f', or {ways}' if ways else ''}"
            )
    return None


def _unlisted(listing: Listing) -> str | None:
    total = len(listing.entries) + listing.unlisted
    if listing.unlisted <= _LOSABLE * total:
        return None
    return f"{listing.unlisted} of the {total} images are not in {listing.lists}: take those lists away"


_DOUBTS: dict[str, Callable[[Listing], str | None]] = {
    "split-class": _split_class,
    "one-class": _one_class,
    "new-class": _new_class,
    "part-labelled": _part_labelled,
    "lost-pictures": _lost_pictures,
    "unlisted": _unlisted,
}
KINDS = tuple(_DOUBTS)
"""What can be accepted."""


def _several(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more
