"""What all sources have in common: images with their splits and classes, and what names say."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ...schemas.errors import GvitError

if TYPE_CHECKING:
    from ..references import Reference

__all__ = [
    "IMAGE_SUFFIXES",
    "Entry",
    "Listing",
    "SharedFiles",
    "Source",
    "as_text",
    "check_unicode",
    "is_image_name",
    "make_keys",
    "numbered_classes",
]

IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "png", "bmp", "gif", "webp", "avif", "tif", "tiff", "ppm", "pgm"}
)
"""What a file must end with, in any case, to count as an image."""

MAX_NUMBERED_CLASSES = 100_000
"""Classes that labels without names may stand for."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One input image.

    `source` is its path below the source folder with `/` between the parts, through the file that holds it
    where several images share a file; `label` is the index of `class_name` in the sorted list of classes, -1
    where `class_name` is None. `place` says in which shared file and where, in numbers of its source's own.
    Entries of one `group` are cheap to read together, so a plan keeps them together.
    """

    key: str
    source: str
    split: str
    label: int
    class_name: str | None
    place: tuple[int, ...] = ()
    group: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """All images of a source, sorted by path; the sorted classes; how many other files were passed over.

    `beside` has the folders beside the splits and how many images, which are not listed, lie in each.
    """

    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    ignored: int
    beside: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def splits(self) -> dict[str, int]:
        """The number of images in each split, by name."""
        return dict(sorted(Counter(entry.split for entry in self.entries).items()))


@dataclass(frozen=True, slots=True)
class Source(ABC):
    """Where images come from; a plain value that can be sent to another process or machine.

    Attributes:
        root: The folder or file that was given.
    """

    root: Path

    @property
    def reading_bytes(self) -> int:
        """Memory that reading one image may take, beside its own bytes."""
        return 0

    def is_there(self) -> bool:
        """Tell whether what was scanned is still there, and no empty place where it was mounted."""
        try:
            return any(self.root.iterdir())
        except OSError:
            return False

    @abstractmethod
    def scan(self) -> Listing:
        """List the images, and read none of them.

        Raises:
            GvitError: The source is missing, unreadable, damaged or without an image.
        """

    @abstractmethod
    def path_of(self, entry: Entry) -> Path:
        """Return the file that holds the entry's image."""

    @abstractmethod
    def reference(self, entry: Entry) -> Reference:
        """Return what a process of its own needs to read the entry's image."""

    def absolute(self) -> Self:
        """Return a source that means the same in another working directory."""
        return replace(self, root=self.root.absolute())


@dataclass(frozen=True, slots=True)
class SharedFiles(Source):
    """Files of many images, each file in the split that its name says.

    Attributes:
        root: The folder of the files.
        files: Their paths below it, sorted.
    """

    files: tuple[str, ...]

    @property
    def shown(self) -> Path:
        """What to call it in a sentence: its only file, or its folder."""
        return self.root / self.files[0] if len(self.files) == 1 else self.root

    def path_of(self, entry: Entry) -> Path:
        """Return the file that holds the entry's image: the first number of its place says which."""
        return self.root / self.files[entry.place[0]]


def check_unicode(sources: Iterable[str]) -> None:
    """Refuse names that are no text.

    Raises:
        GvitError: A name is not valid UTF-8.
    """
    for source in sources:
        try:
            source.encode()
        except UnicodeEncodeError as error:
            raw = os.fsencode(source)
            raise GvitError(f"the file name {raw!r} is not valid UTF-8; rename the file") from error


def as_text(name: str) -> str:
    r"""Return the name of a file as text: bytes that are none stand as `\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_image_name(source: str) -> bool:
    """Tell whether a file is an image, by its name."""
    stem, _, suffix = source.rpartition(".")
    return stem != "" and suffix.lower() in IMAGE_SUFFIXES


def numbered_classes(largest: int) -> tuple[str, ...]:
    """Name the classes 0 to `largest` by their numbers, with zeros before, so that sorting keeps the order.

    Raises:
        GvitError: There would be more than 100,000 of them.
    """
    if largest >= MAX_NUMBERED_CLASSES:
        raise GvitError(f"a label is {largest}; labels are whole numbers below {MAX_NUMBERED_CLASSES}")
    digits = len(str(largest))  # none, and no name, for -1
    return tuple(f"{number:0{digits}d}" for number in range(largest + 1))


_FORBIDDEN = re.compile(r"[^a-z0-9_/-]")
_HEX_DIGITS = 8  # of the path's sha256, added each time that a key is still taken


def make_keys(sources: Sequence[str]) -> list[str]:
    """Make one unique key for each path; a path's key depends on the set of paths, never on their order.

    The extension is dropped and every character that a key may not hold becomes `_`. Where several paths
    arrive at the same key, each of them gets `-` and the first 8 hex digits of the sha256 of its path.

    Args:
        sources: Distinct relative posix paths.

    Returns:
        The keys, in the order of `sources`.

    Raises:
        ValueError: A path is given twice.
    """
    if len(set(sources)) != len(sources):
        raise ValueError("make_keys needs distinct paths")
    bases = [_plain_key(source) for source in sources]
    keys = list(bases)
    hex_digits = [0] * len(keys)
    # More than one round only where a suffixed key meets a file that is really called so.
    while clashing := _clashing(keys):
        for i in clashing:
            hex_digits[i] += _HEX_DIGITS
            digest = hashlib.sha256(sources[i].encode()).hexdigest()
            keys[i] = f"{bases[i]}-{digest[: hex_digits[i]]}"
    return keys


def _plain_key(source: str) -> str:
    return _FORBIDDEN.sub("_", posixpath.splitext(source)[0].lower())


def _clashing(keys: Sequence[str]) -> list[int]:
    if len(set(keys)) == len(keys):
        return []
    counts = Counter(keys)
    return [i for i, key in enumerate(keys) if counts[key] > 1]
