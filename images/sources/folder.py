"""Sources: what images there are, and which split and class each belongs to; folders of image files.

Looking at the disk and understanding the layout are apart: `scan` collects relative paths, everything after
that is a pure function of them.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol, Self

from ...schemas.errors import GvitError
from ..keys import make_keys
from ..labels import read_labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ..references import Reference

__all__ = [
    "DEFAULT_SPLIT",
    "IMAGE_SUFFIXES",
    "Entry",
    "FolderSource",
    "Listing",
    "Source",
    "check_unicode",
    "is_image_name",
    "numbered_classes",
    "shown",
    "split_of",
    "walk",
]

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm"})
"""What a file must end with, in any case, to count as an image."""

DEFAULT_SPLIT = "train"
"""The split of images that lie in no split folder."""

MAX_NUMBERED_CLASSES = 100_000
"""Classes that labels without names may stand for."""

_SPLIT_OF_FOLDER = {"train": "train", "val": "val", "validation": "val", "test": "test"}


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
    """All images of a source, sorted by path; the sorted classes; how many other files were passed over."""

    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    ignored: int

    @property
    def splits(self) -> dict[str, int]:
        """The number of images in each split, by name."""
        return dict(sorted(Counter(entry.split for entry in self.entries).items()))


class Source(Protocol):
    """Where images come from; a plain value that can be sent to another process or machine."""

    @property
    def root(self) -> Path:
        """The folder or file that was given."""
        ...

    @property
    def reading_bytes(self) -> int:
        """Memory that reading one image may take, beside its own bytes."""
        ...

    def scan(self) -> Listing:
        """List the images, and read none of them.

        Raises:
            GvitError: The source is missing, unreadable, damaged or without an image.
        """
        ...

    def path_of(self, entry: Entry) -> Path:
        """Return the file that holds the entry's image."""
        ...

    def reference(self, entry: Entry) -> Reference:
        """Return what a process of its own needs to read the entry's image."""
        ...

    def absolute(self) -> Self:
        """Return a source that means the same in another working directory."""
        ...


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder tree of images: flat or with class folders, and optionally split folders above those.

    Where the top folders that hold images are all called train, val, validation or test (in any case), they
    are splits, and "validation" means "val"; otherwise everything is in the split "train". The class of an
    image is the first folder below its split; an image that lies in none has no class.

    Attributes:
        root: The folder.
        labels: A file of labels, see `labels.read_labels`, that overrides the classes of the images which it
            names.
    """

    root: Path
    labels: Path | None = None

    @property
    def reading_bytes(self) -> int:
        """Nothing: a file is an image."""
        return 0

    def scan(self) -> Listing:
        """List the images, without opening or even stat-ing any of them.

        Links to folders are followed; a link that leads back to a folder which it lies in is not. Hidden
        files and folders are passed over. A broken link named like an image is listed: it is an input too.

        Raises:
            GvitError: The folder is missing, no folder, unreadable or without an image, a name is not valid
                UTF-8, or the labels file is unreadable, malformed or names an unknown image or one twice.
        """
        _check_folder(self.root)
        found = list(walk(self.root))
        sources = sorted(name for name in found if is_image_name(name))
        if not sources:
            raise GvitError(f"{self.root} holds no image; known are files that end with {_known_suffixes()}")
        check_unicode(sources)
        return _understand(sources, self.labels, ignored=len(found) - len(sources))

    def path_of(self, entry: Entry) -> Path:
        """Return where the entry's file lies on this machine."""
        return self.root / entry.source

    def reference(self, entry: Entry) -> Reference:
        """Return that path."""
        return self.path_of(entry)

    def absolute(self) -> FolderSource:
        """Return the same folder by its absolute path."""
        return replace(self, root=self.root.absolute())


def _known_suffixes() -> str:
    return ", ".join(f".{suffix}" for suffix in sorted(IMAGE_SUFFIXES))


def _check_folder(root: Path) -> None:
    try:
        root.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GvitError(f"{root} does not exist; give the folder that holds the images") from error
    except OSError as error:
        raise GvitError(f"{root} cannot be read: {error.strerror}") from error
    if not root.is_dir():
        raise GvitError(
            f"{root} is not a folder; give the folder that holds the images, or a .tar or .parquet file"
        )


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


# ---------------------------------------------------------------- the disk


def walk(root: Path) -> Iterator[str]:
    """Yield the relative path of each file that is not hidden; 1.28 million of them must take seconds.

    Raises:
        GvitError: A folder cannot be read.
    """
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        prefix, ancestors = pending.pop()
        folder = root / prefix
        try:
            identity = (status := folder.stat()).st_dev, status.st_ino
            if identity in ancestors:
                continue
            with os.scandir(folder) as children:
                for child in children:
                    if child.name.startswith("."):
                        continue
                    if _is_folder(child):
                        pending.append((f"{prefix}{child.name}/", ancestors | {identity}))
                    else:
                        yield prefix + child.name
        except OSError as error:
            raise GvitError(f"the folder {folder} cannot be read: {error.strerror}") from error


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a link that leads to itself, or to where nobody may look
        return False


def is_image_name(source: str) -> bool:
    """Tell whether a file is an image, by its name."""
    stem, _, suffix = source.rpartition(".")
    return stem != "" and suffix.lower() in IMAGE_SUFFIXES


# ---------------------------------------------------------------- the layout


def _understand(sources: Sequence[str], labels: Path | None, *, ignored: int) -> Listing:
    split_folders = _split_folders(sources)
    splits = [split_folders.get(source.partition("/")[0], DEFAULT_SPLIT) for source in sources]
    folders = [_class_folder(source, has_splits=bool(split_folders)) for source in sources]
    overrides: Mapping[str, str] = {}
    if labels is not None:
        known = frozenset(c for c, split in zip(folders, splits, strict=True) if c and split == "train")
        overrides = read_labels(labels, dict(zip(sources, splits, strict=True)), known)
    class_names = [overrides.get(s) or folder for s, folder in zip(sources, folders, strict=True)]
    classes = tuple(sorted({name for name in class_names if name is not None}))
    index: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    index[None] = -1
    entries = tuple(
        Entry(key, source, split, index[name], name)
        for key, source, split, name in zip(make_keys(sources), sources, splits, class_names, strict=True)
    )
    return Listing(entries, classes, ignored)


def _split_folders(sources: Sequence[str]) -> dict[str, str]:
    """Return top folder -> split; empty where the top folders are not splits."""
    tops = {top for top, slash, _ in (source.partition("/") for source in sources) if slash}
    splits = {top: _SPLIT_OF_FOLDER.get(top.lower()) for top in tops}
    named = {top: split for top, split in splits.items() if split is not None}
    return named if len(named) == len(tops) else {}


def _class_folder(source: str, *, has_splits: bool) -> str | None:
    parts = source.split("/", 2)
    depth = 1 if has_splits else 0
    return parts[depth] if len(parts) > depth + 1 else None


def split_of(path: str) -> str:
    """Return the split of a file of many images: of the first word of its name, or of a folder, that is one.

    `train-000.tar`, `imagenet1k-validation-00.tar`, `data/test-00000-of-00001.parquet` and `val/0000.tar` say
    what they hold; everything else is of the split "train".
    """
    parts = PurePosixPath(path).parts
    for part in (parts[-1].rpartition(".")[0], *reversed(parts[:-1])):
        for word in re.findall("[a-z]+", part.lower()):
            if word in _SPLIT_OF_FOLDER:
                return _SPLIT_OF_FOLDER[word]
    return DEFAULT_SPLIT


def shown(root: Path, files: Sequence[str]) -> Path:
    """Return what to call a source of files in a sentence: its only file, or its folder."""
    return root / files[0] if len(files) == 1 else root


def numbered_classes(largest: int) -> tuple[str, ...]:
    """Name the classes 0 to `largest` by their numbers, with zeros before, so that sorting keeps the order.

    Raises:
        GvitError: There would be more than 100,000 of them.
    """
    if largest >= MAX_NUMBERED_CLASSES:
        raise GvitError(f"a label is {largest}; labels are whole numbers below {MAX_NUMBERED_CLASSES}")
    digits = len(str(largest))  # none, and no name, for -1
    return tuple(f"{number:0{digits}d}" for number in range(largest + 1))
