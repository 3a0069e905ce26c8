"""What the folders of images mean: which only contain, which are splits, which classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ...schemas.errors import GvitError
from .split_names import DEFAULT_SPLIT, is_split_word, split_of_folder

__all__ = ["ClassLevel", "Layout", "understand"]

ClassLevel = Literal["first", "last"]
"""Which folder below the split is the class."""

_CONTAINING = frozenset(
    {"images", "image", "imgs", "img", "jpegimages", "jpegs", "jpg", "png", "photos", "pictures"}
)
_SEVERITIES = frozenset("12345")  # of ImageNet-C: corruption/severity/class/


@dataclass(frozen=True, slots=True)
class Layout:
    """How to read the folders of images, each "" or a path that ends with `/`.

    Attributes:
        container: Folders that all images lie in and that mean nothing, as `Data/CLS-LOC/`; or "".
        splits: Folder below it to split; without any, all images are of one split.
        beside: Folders beside the splits, whose images are left out, to their number.
        plain: Prefixes below which no folder is a class, as `val/images/`.
        level: Which folder below the split is the class.
        corrupted: Whether the folders are those of ImageNet-C.
        nested: Where each image lies in two folders below its split, and either could be the class: examples
            of the first and of the last.
    """

    container: str
    splits: Mapping[str, str]
    beside: Mapping[str, int]
    plain: frozenset[str]
    level: ClassLevel = "first"
    corrupted: bool = False
    nested: tuple[str, str] | None = None

    def check_depth(self) -> None:
        """Refuse a layout where it is not known which folder is the class.

        Raises:
            GvitError: So it is.
        """
        if self.nested is not None:
            first, last = self.nested
            raise GvitError(
                "images lie in folders within folders, and either could be the class: "
                f"say --class-level first (as {first!r}) or --class-level last (as {last!r})"
            )

    def is_beside(self, folder: str) -> bool:
        """Tell whether a folder lies beside the splits."""
        return self._parts(folder)[0] in self.beside

    def split_of(self, folder: str) -> str:
        """Return the split of the images in a folder."""
        return self.splits.get(self._parts(folder)[0], DEFAULT_SPLIT)

    def class_of(self, folder: str) -> str | None:
        """Return the class of the images in a folder; None where they have none."""
        parts = self._parts(folder)[1 if self.splits else 0 : -1]
        if not parts or any(folder.startswith(prefix) for prefix in self.plain):
            return None
        return parts[0 if self.level == "first" else -1]

    def corruption_of(self, folder: str) -> tuple[str | None, int] | None:
        """Return corruption and severity of the images in a folder of ImageNet-C, None elsewhere."""
        if not self.corrupted:
            return None
        *above, severity, _ = self._parts(folder)[:-1]
        return (above[-1] if above else None), int(severity)

    def _parts(self, folder: str) -> list[str]:
        return folder[len(self.container) :].split("/")


def understand(folders: Mapping[str, int], level: ClassLevel | None = None) -> Layout:
    """Find the layout of the folders that hold images, each with how many it holds.

    Raises:
        GvitError: A level is asked for, and there are no folders to be classes.
    """
    container = _container(folders)
    splits, beside = _splits(folders, container)
    below = [folder[len(container) :] for folder in folders]
    corrupted = not splits and level is None and _is_corrupted(below)
    layout = Layout(
        container,
        splits,
        beside,
        frozenset() if level == "first" else _plain(folders, container, splits),
        "last" if corrupted else level or "first",
        corrupted,
        None if corrupted or level is not None else _nested(below, bool(splits)),
    )
    if level is not None and all(layout.class_of(folder) is None for folder in folders):
        raise GvitError(
            "--class-level is given, and there are no folders that could be classes; leave it out"
        )
    return layout


def _splits(folders: Mapping[str, int], container: str) -> tuple[dict[str, str], dict[str, int]]:
    tops: dict[str, int] = {}
    for folder, count in folders.items():
        top, slash, _ = folder[len(container) :].partition("/")
        if slash:
            tops[top] = tops.get(top, 0) + count
    named = {top: split_of_folder(top) for top in tops}
    splits = {top: split for top, split in named.items() if split is not None}
    words = {splits[top] for top in splits if is_split_word(top)}
    if len(splits) == len(tops) and (words or len(set(splits.values())) > 1):
        return splits, {}
    if DEFAULT_SPLIT in words and len(words) > 1:
        return splits, {top: tops[top] for top in sorted(tops.keys() - splits.keys())}
    return {}, {}


def _container(folders: Mapping[str, int]) -> str:
    """Go down while one folder, which is no split, holds all images, and none of them directly."""
    container = ""
    while True:
        tops = {folder[len(container) :].partition("/")[0] for folder in folders}
        if len(tops) != 1 or "" in tops:
            return container
        (top,) = tops
        if split_of_folder(top) or f"{container}{top}/" in folders:
            return container
        container += f"{top}/"


def _plain(folders: Mapping[str, int], container: str, splits: Mapping[str, str]) -> frozenset[str]:
    """Return, of each split, the one folder that is called so and holds all of its images directly."""
    found: set[str] = set()
    for prefix in [f"{container}{split}/" for split in splits] or [container]:
        inside = [folder for folder in folders if folder.startswith(prefix)]
        if len(inside) == 1 and inside[0][len(prefix) : -1].lower() in _CONTAINING:
            found.add(inside[0])
    return frozenset(found)


def _nested(below: list[str], splits: bool) -> tuple[str, str] | None:
    parts = [folder.split("/")[splits:-1] for folder in below]
    if any(len(each) < 2 or is_split_word(each[0]) for each in parts):
        return None
    inner: dict[str, set[str]] = {}
    for first, second, *_ in parts:
        inner.setdefault(first, set()).add(second)
    return next(((first, min(found)) for first, found in inner.items() if len(found) > 1), None)


def _is_corrupted(below: list[str]) -> bool:
    parts = [folder.split("/")[:-1] for folder in below]
    return (
        all(len(each) >= 2 and each[-2] in _SEVERITIES for each in parts)
        and any(not each[-1].isdecimal() for each in parts)
        and (len({each[-2] for each in parts}) > 1 or all(len(each) > 2 for each in parts))
    )
