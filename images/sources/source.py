"""What all sources have in common: images with their splits and classes, and what names say."""

from __future__ import annotations

import contextlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Self, cast

from ...schemas.errors import GvitError
from ...schemas.limits import Choice, check_limits
from ..more_formats import readable_suffixes
from .layout import ClassLevel  # noqa: TC001 - the fields' types are read

if TYPE_CHECKING:
    from ..references import Reference
    from .extras import Extras
    from .images import Entry, Images

__all__ = [
    "IMAGE_SUFFIXES",
    "LABEL_NAMES",
    "Hints",
    "Listing",
    "SharedFiles",
    "Source",
    "as_text",
    "check_unicode",
    "is_image_name",
    "name_labels",
    "suffix_of",
]

IMAGE_SUFFIXES = readable_suffixes() | {
    "jpg", "jpeg", "jpe", "jfif", "png", "bmp", "gif", "webp", "avif", "tif", "tiff", "ppm", "pgm"
}  # fmt: skip
"""What a file must end with, in any case, to count as an image."""

LABEL_NAMES = (
    "label", "labels", "fine_label", "class", "class_name", "label_name", "cls", "target", "category",
    "category_name", "label_id", "class_id", "category_id",
)  # fmt: skip
"""What the label of an image is called, in columns, fields of JSON, and ends of the names in tar files."""

MAX_NUMBERED_CLASSES = 100_000
"""Classes that labels without names may stand for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What a person says of a source, where it does not say so itself.

    Attributes:
        labels: A file of labels, see `labels.read_labels`, that overrides the classes of the images which it
            names.
        label_column: Which column of a table, or field of a JSON member, is the label.
        class_level: Which folder below the split is the class, the first or the last.
        split: The split of all images.
        keep: Suffixes of what is kept with each image, as `txt` and `json`.
    """

    labels: Path | None = None
    label_column: str | None = None
    class_level: Annotated[ClassLevel | None, Choice(("first", "last"))] = None
    split: Annotated[str | None, Choice(("train", "val", "test"))] = None
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_limits(self)
        wrong = next((suffix for suffix in self.keep if not re.fullmatch("[a-z0-9_]+", suffix)), None)
        if wrong is not None or len(set(self.keep)) < len(self.keep):
            raise GvitError("--keep takes suffixes, each once, with commas between, as in --keep txt,json")


NO_HINTS = Hints()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All images of a source, and what was understood of them.

    Attributes:
        entries: The images, in order of their paths.
        passed: Files that were passed over, by their suffixes: suffix in lower case, or "", to number.
        lost: Pictures of formats that are not read, by the class that they would be of.
        beside: What holds images that are left out, as folders beside the splits, to their number.
        unlisted: How many images are left out since the lists do not name them.
        labels_from: In words, where classes come from; "" where nothing has one.
        labels_file: A file of labels that lies beside the images.
        labels_hint: In words, where they might be found.
        lists: In words, what was read beside the images to know their classes and splits.
        extras: What is known of each image beyond its row; None for nothing.
    """

    entries: Images
    passed: Mapping[str, int] = field(default_factory=dict[str, int])
    lost: Mapping[str, int] = field(default_factory=dict[str, int])
    beside: Mapping[str, int] = field(default_factory=dict[str, int])
    unlisted: int = 0
    labels_from: str = ""
    labels_file: Path | None = None
    labels_hint: str = ""
    lists: str = ""
    extras: Extras | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The sorted classes."""
        return self.entries.classes

    @property
    def ignored(self) -> int:
        """How many files were passed over."""
        return sum(self.passed.values())

    @property
    def splits(self) -> dict[str, int]:
        """The number of images in each split, by name."""
        return self.entries.split_counts()


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
    def scan(self, hints: Hints = NO_HINTS) -> Listing:
        """List the images, and read none of them; labels of a file of their own are not applied yet.

        Raises:
            GvitError: The source is missing, unreadable, damaged or without an image.
        """

    def prepare(self, entries: Iterable[Entry]) -> None:  # noqa: B027
        """Begin to make ready what holds some images."""

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
        url: Of that folder, ending with `/`, where it is not on this machine; else "".
    """

    files: tuple[str, ...]
    url: str = ""

    @property
    def shown(self) -> Path:
        """What to call it in a sentence: its only file, or its folder."""
        return self.root / self.files[0] if len(self.files) == 1 else self.root

    def local(self, number: int) -> Path:
        """Return a file by its number, on this machine; one behind a URL is fetched.

        Raises:
            GvitError: It cannot be fetched.
        """
        if not self.url:
            return self.root / self.files[number]
        from .remote import fetched  # fsspec, which a folder does not need

        return fetched(self.url + self.files[number])

    def path_of(self, entry: Entry) -> Path:
        """Return the file that holds the entry's image: the first number of its place says which."""
        return self.local(entry.place[0])

    def is_there(self) -> bool:
        """Tell it of a folder; what is behind a URL says so itself when it is fetched."""
        return bool(self.url) or Source.is_there(self)

    def absolute(self) -> Self:
        """Return a source that means the same in another working directory."""
        return self if self.url else replace(self, root=self.root.absolute())

    def prepare(self, entries: Iterable[Entry]) -> None:
        """Begin to fetch what holds some images, in their order, while others are worked on."""
        if self.url:
            numbers = list(dict.fromkeys(entry.place[0] for entry in entries))
            Thread(target=self._fetch, args=(numbers,), daemon=True).start()

    def _fetch(self, numbers: Sequence[int]) -> None:
        with contextlib.suppress(GvitError):  # who needs it asks for it again, and says so
            for number in numbers:
                self.local(number)


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


def suffix_of(name: str) -> str:
    """Return what stands after the last dot of a file's name, in lower case; "" without any."""
    stem, _, suffix = name.rpartition(".")
    return suffix.lower() if stem else ""


def is_image_name(name: str) -> bool:
    """Tell whether a file is an image, by its name."""
    return suffix_of(name) in IMAGE_SUFFIXES


def name_labels(
    labels: Sequence[int | str | None], names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], list[str | None]]:
    """Return all classes, sorted, and the class of each label.

    Labels are text, or numbers: of `names`, or else named by themselves from 0 to the largest, with zeros
    before, so that sorting keeps their order.

    Raises:
        GvitError: There are numbers and text, or a number has no name, or would be one of more than 100,000.
    """
    given = {label for label in labels if label is not None}
    numbers = {label for label in given if isinstance(label, int)}
    if not given:
        return (), [None] * len(labels)
    if not numbers:
        return tuple(sorted(cast("set[str]", given))), cast("list[str | None]", list(labels))
    if numbers != given:
        raise GvitError("labels are numbers in some files and text in others; encode them one by one")
    names = names or _numbered_classes(max(numbers))
    if min(numbers) < 0 or max(numbers) >= len(names):
        wrong = min(numbers) if min(numbers) < 0 else max(numbers)
        raise GvitError(f"a label is {wrong} where there are {len(names)} classes; correct the labels")
    return tuple(sorted(names)), [None if label is None else names[int(label)] for label in labels]


def _numbered_classes(largest: int) -> tuple[str, ...]:
    if largest >= MAX_NUMBERED_CLASSES:
        raise GvitError(f"a label is {largest}; labels are whole numbers below {MAX_NUMBERED_CLASSES}")
    digits = len(str(largest))
    return tuple(f"{number:0{digits}d}" for number in range(largest + 1))
