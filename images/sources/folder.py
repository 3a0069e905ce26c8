"""A folder of image files as a source.

Looking at the disk and understanding the layout are apart: `scan` collects relative paths, everything after
that is a pure function of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...schemas.errors import GvitError
from ..labels import read_labels
from ..references import Nameless
from .layout import understand
from .source import (
    IMAGE_SUFFIXES,
    Entry,
    Listing,
    Source,
    as_text,
    is_image_name,
    make_keys,
)

if TYPE_CHECKING:
    from ..references import Reference

__all__ = ["FolderSource", "walk"]


@dataclass(frozen=True, slots=True)
class FolderSource(Source):
    """A folder tree of images: flat or with class folders, and optionally split folders above those.

    A folder that holds all images, and none directly, only contains. Where the folders below it are named
    like splits (`split_names`), they are; a folder beside "train" and another split is left out. Otherwise
    everything is in the split "train". The class of an image is the first folder below its split; an image
    that lies in none has no class.

    Attributes:
        root: The folder.
        labels: A file of labels, see `labels.read_labels`, that overrides the classes of the images which it
            names.
    """

    labels: Path | None = None

    def scan(self) -> Listing:
        """List the images, without opening or even stat-ing any of them.

        Links to folders are followed; a link that leads back to a folder which it lies in is not. Hidden
        files and folders are passed over. A broken link named like an image is listed: it is an input too.

        Raises:
            GvitError: The folder is missing, no folder, unreadable or without an image, or the labels file is
                unreadable, malformed or names an unknown image or one twice.
        """
        _check_folder(self.root)
        found = list(walk(self.root))
        images = [name for name in found if is_image_name(name)]
        sources = sorted(map(as_text, images))
        if not sources:
            raise GvitError(f"{self.root} holds no image; known are files that end with {_known_suffixes()}")
        listing = _listing(sources, self.labels, ignored=len(found) - len(sources))
        nameless = {as_text(name) for name in images} - set(images)
        if not nameless:
            return listing
        entries = (replace(e, place=_NAMELESS) if e.source in nameless else e for e in listing.entries)
        return replace(listing, entries=tuple(entries))

    def path_of(self, entry: Entry) -> Path:
        """Return where the entry's file lies on this machine."""
        return self.root / entry.source

    def reference(self, entry: Entry) -> Reference:
        """Return that path; of a file whose name is no text there is none."""
        return Nameless() if entry.place == _NAMELESS else self.path_of(entry)


_NAMELESS = (0,)
"""The place of an entry whose file has a name that is no text."""


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


# ---------------------------------------------------------------- the layout


def _listing(sources: Sequence[str], labels: Path | None, *, ignored: int) -> Listing:
    layout = understand(sources)
    if layout.beside:
        sources = [source for source in sources if not layout.is_beside(source)]
    splits = [layout.split_of(source) for source in sources]
    folders = [layout.class_of(source) for source in sources]
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
    return Listing(entries, classes, ignored, layout.beside)
