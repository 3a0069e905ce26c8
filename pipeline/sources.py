"""Sources: find the images below a folder and say which split and class each belongs to.

Looking at the disk and understanding the layout are apart: `scan` collects relative paths, everything after
that is a pure function of them.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..schemas.errors import GvitError
from .keys import make_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["DEFAULT_SPLIT", "IMAGE_SUFFIXES", "Entry", "FolderSource", "Listing"]

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm"})
"""What a file must end with, in any case, to count as an image."""

DEFAULT_SPLIT = "train"
"""The split of images that lie in no split folder."""

_SPLIT_OF_FOLDER = {"train": "train", "val": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One input image.

    `source` is its path below the source folder with `/` between the parts; `label` is the index of
    `class_name` in the sorted list of classes, -1 where `class_name` is None.
    """

    key: str
    source: str
    split: str
    label: int
    class_name: str | None


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


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder tree of images: flat or with class folders, and optionally split folders above those.

    Where the top folders that hold images are all called train, val, validation or test (in any case), they
    are splits, and "validation" means "val"; otherwise everything is in the split "train". The class of an
    image is the first folder below its split; an image that lies in none has no class.

    Attributes:
        root: The folder.
        labels: A CSV file `path,label` (header optional, paths below `root`, label = class name) that
            overrides the classes of the images which it names.
    """

    root: Path
    labels: Path | None = None

    def scan(self) -> Listing:
        """List the images, without opening or even stat-ing any of them.

        Links to folders are followed; a link that leads back to a folder which it lies in is not. Hidden
        files and folders are passed over. A broken link named like an image is listed: it is an input too.

        Raises:
            GvitError: The folder is missing, no folder, unreadable or without an image, a name is not valid
                UTF-8, or the labels file is unreadable, malformed or names an unknown image or one twice.
        """
        _check_folder(self.root)
        found = list(_walk(self.root))
        sources = sorted(name for name in found if _is_image(name))
        if not sources:
            raise GvitError(f"{self.root} holds no image; known are files that end with {_known_suffixes()}")
        _check_unicode(sources)
        overrides = {} if self.labels is None else _read_labels(self.labels, frozenset(sources))
        return _understand(sources, overrides, ignored=len(found) - len(sources))

    def path_of(self, entry: Entry) -> Path:
        """Return where the entry's file lies on this machine."""
        return self.root / entry.source


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
        raise GvitError(f"{root} is not a folder; give the folder that holds the images")


def _check_unicode(sources: Sequence[str]) -> None:
    for source in sources:
        try:
            source.encode()
        except UnicodeEncodeError as error:
            raw = os.fsencode(source)
            raise GvitError(f"the file name {raw!r} is not valid UTF-8; rename the file") from error


# ---------------------------------------------------------------- the disk


def _walk(root: Path) -> Iterator[str]:
    """Yield the relative path of each file that is not hidden; 1.28 million of them must take seconds."""
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


def _is_image(source: str) -> bool:
    stem, _, suffix = source.rpartition(".")
    return stem != "" and suffix.lower() in IMAGE_SUFFIXES


# ---------------------------------------------------------------- the layout


def _understand(sources: Sequence[str], overrides: Mapping[str, str], *, ignored: int) -> Listing:
    split_folders = _split_folders(sources)
    class_names = [overrides.get(s) or _class_folder(s, has_splits=bool(split_folders)) for s in sources]
    classes = tuple(sorted({name for name in class_names if name is not None}))
    index: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    index[None] = -1
    entries = tuple(
        Entry(key, source, split_folders.get(source.partition("/")[0], DEFAULT_SPLIT), index[name], name)
        for key, source, name in zip(make_keys(sources), sources, class_names, strict=True)
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


def _read_labels(path: Path, sources: frozenset[str]) -> dict[str, str]:
    """Read a CSV `path,label` into source -> class name."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parse_labels(path, csv.reader(file, strict=True), sources)
    except OSError as error:
        raise GvitError(f"the labels file {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise GvitError(f"the labels file {path} is not a CSV file in UTF-8: {error}") from error


def _parse_labels(path: Path, lines: Iterator[list[str]], sources: frozenset[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for number, cells in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        if not cells or (number == 1 and [cell.strip().lower() for cell in cells] == ["path", "label"]):
            continue
        if len(cells) != 2 or not cells[1].strip():
            raise GvitError(f"{where}: expected a path and a label with a comma between, found {cells}")
        source = PurePosixPath(cells[0]).as_posix()
        if source not in sources:
            raise GvitError(f"{where}: {cells[0]} is no image of the source; give paths relative to it")
        if source in labels:
            raise GvitError(f"{where}: {cells[0]} has a label already; remove one of the two lines")
        labels[source] = cells[1].strip()
    return labels
