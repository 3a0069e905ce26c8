"""A look at a folder tree: its images by folder, what else there is, and no file opened."""
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.errors import GvitError
from .source import as_text, is_image_name, suffix_of

__all__ = ["Tree", "look", "walk"]

_CHUNK = 2**16  # names that are text objects at once
_LISTS = re.compile(
    r"val_annotations\.txt|images\.txt|train_test_split\.txt|trainval\.txt|test\.txt|metadata\.(?:csv|jsonl)"
    r"|LOC_val_solution\.csv|(?:train|test)\.json|(?:train|val)\d{4}\.json|\d+_stats\.json"
)
"""Files that may say something of images: what `lists` reads."""


@dataclass(slots=True)
class Tree:
    """What lies below a folder; paths of folders are "" or end with `/`.

    Attributes:
        root: The folder.
        images: Folder to the sorted names of its images.
        nameless: Paths of images whose names are no text.
        passed: Folder to how many files of each suffix in it are no images.
        others: Paths of those that may be lists of images.
    """

    root: Path
    images: dict[str, pa.Array] = field(default_factory=dict[str, pa.Array])
    nameless: set[str] = field(default_factory=set[str])
    passed: dict[str, Counter[str]] = field(default_factory=dict[str, "Counter[str]"])
    others: list[str] = field(default_factory=list[str])

    def named(self, *names: str) -> Iterator[tuple[str, str]]:
        """Yield folder and name of each list with one of these names."""
        for path in self.others:
            folder, name = _cut(path)
            if name in names:
                yield folder, name

    def names(self, folder: str) -> list[str]:
        """Return the names of the images in a folder."""
        return cast("list[str]", self.images[folder].to_pylist()) if folder in self.images else []

    def drop(self, folder: str) -> int:
        """Forget the images in a folder; returns how many there were."""
        return len(self.images.pop(folder))


def look(root: Path, found: Iterable[tuple[str, list[str]]] | None = None) -> Tree:
    """Look at all that lies below a folder, as `walk` finds it.

    Args:
        root: The folder.
        found: What is taken in place of what `walk` finds.

    Raises:
        GvitError: A folder cannot be read.
    """
    tree = Tree(root)
    chunks: dict[str, list[pa.Array]] = {}
    for raw_folder, names in walk(root) if found is None else found:
        folder = as_text(raw_folder)
        images = [name for name in names if is_image_name(name)]
        if len(images) < len(names):
            others = [name for name in names if not is_image_name(name)]
            tree.passed.setdefault(folder, Counter()).update(map(suffix_of, map(as_text, others)))
            tree.others += [folder + name for name in others if _LISTS.fullmatch(name)]
        if images:
            chunks.setdefault(folder, []).append(_texts(tree, raw_folder, folder, images))
    tree.images = {folder: _sorted(parts) for folder, parts in chunks.items()}
    tree.others.sort()
    return tree


def walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield folders and names of the files in them, of large folders in parts; hidden ones are passed over.

    Links to folders are followed; a link that leads back to a folder which it lies in is not.

    Raises:
        GvitError: A folder cannot be read.
    """
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        prefix, ancestors = pending.pop()
        folder = root / prefix
        names: list[str] = []
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
                        continue
                    names.append(child.name)
                    if len(names) == _CHUNK:
                        yield prefix, names
                        names = []
        except OSError as error:
            raise GvitError(f"the folder {folder} cannot be read: {error.strerror}") from error
        if names:
            yield prefix, names


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a link that leads to itself, or to where nobody may look
        return False


def _texts(tree: Tree, raw_folder: str, folder: str, names: Sequence[str]) -> pa.Array:
    try:
        raw_folder.encode()
        return pa.array(names, pa.large_string())
    except UnicodeEncodeError:  # bytes that are no text
        texts = [as_text(name) for name in names]
        tree.nameless.update(
            folder + text
            for name, text in zip(names, texts, strict=True)
            if as_text(raw_folder + name) != raw_folder + name
        )
        return pa.array(texts, pa.large_string())


def _sorted(parts: Sequence[pa.Array]) -> pa.Array:
    names = pa.concat_arrays(parts)
    return names.take(pc.array_sort_indices(names))


def _cut(path: str) -> tuple[str, str]:
    folder, slash, name = path.rpartition("/")
    return folder + slash, name
