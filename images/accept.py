"""What looks like a mistake in a source is refused, unless it is said to be meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..schemas.errors import GvitError
from .sources.split_names import is_split_word

if TYPE_CHECKING:
    from .sources.source import Entry, Listing

__all__ = ["KINDS", "check_listing"]

_NAMED = 3


def check_listing(root: Path, listing: Listing, accepted: Sequence[str]) -> None:
    """Refuse a listing whose labels can hardly be meant so.

    Args:
        root: The source, for the sentence.
        listing: Of the source.
        accepted: Some of `KINDS`.

    Raises:
        GvitError: A class is named like a split; all images are of one class, above further folders; a class
            of "val" is not in "train"; or a part of "train" or "val" has labels.
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
    if len(listing.classes) != 1:
        return None
    (name,) = listing.classes
    folders = {PurePosixPath(entry.source).parent for entry in listing.entries}
    if len(folders) == 1 or not all(f"/{name}/" in f"/{entry.source}" for entry in listing.entries):
        return None
    return (
        f"all images would be of the class {name!r}, which holds further folders: give the folder whose "
        "folders are the classes"
    )


def _new_class(listing: Listing) -> str | None:
    train, val = (
        {entry.class_name for entry in _of(listing, split) if entry.class_name is not None}
        for split in ("train", "val")
    )
    if not train or val <= train or all(map(str.isdigit, listing.classes)):  # numbers say nothing wrong
        return None
    return (
        f"{_several(sorted(val - train))} is a class of the split val and not of train: give both splits the "
        "same class names, as with --labels"
    )


def _part_labelled(listing: Listing) -> str | None:
    for split in ("train", "val"):
        entries = _of(listing, split)
        bare = [entry.source for entry in entries if entry.label < 0]
        if 0 < len(bare) < len(entries):
            return (
                f"{len(bare)} of the {len(entries)} images of the split {split} have no class, such as "
                f"{bare[0]!r}: give them one, or take them out"
            )
    return None


_DOUBTS: dict[str, Callable[[Listing], str | None]] = {
    "split-class": _split_class,
    "one-class": _one_class,
    "new-class": _new_class,
    "part-labelled": _part_labelled,
}
KINDS = tuple(_DOUBTS)
"""What can be accepted."""


def _of(listing: Listing, split: str) -> list[Entry]:
    return [entry for entry in listing.entries if entry.split == split]


def _several(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more
