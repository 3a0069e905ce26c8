"""WebDataset tar files of images, and tar files of folders or of one class each, as a source.

A sample is the members that share a path up to the first dot of the file name: an image, and beside it
perhaps its label. Everything is looked up by offset; nothing is extracted.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np

from ...schemas.errors import GvitError
from ..references import FilePart
from .extras import KeptMembers
from .images import Entry, ImagesBuilder
from .layout import Layout, understand
from .source import IMAGE_SUFFIXES, NO_HINTS, Hints, Listing, SharedFiles, as_text, name_labels
from .split_names import DEFAULT_SPLIT, split_named_by_file
from .tar_index import Label, TarContents, TarWishes, folder_of, read_tar
from .tar_list import read_tars

__all__ = ["TarSource", "find_in_tar"]

_FETCHES = 8  # at once
_CLASS_FILE = re.compile(r"n\d{8}|[^\d]+")  # a WordNet id; other numbers are those of shards


@dataclass(frozen=True, slots=True)
class TarSource(SharedFiles):
    """Tar files.

    The label of an image is its `.cls`, `.class.txt` or the like, or a field of its `.json`: numbers become
    classes named by these numbers (with zeros before, so that sorting keeps their order), text is a class
    itself. Where nothing in any file has a label, the folders within the files are read as a folder of images
    would be; and a file whose name all of its images begin with, one of several, is a class, as ImageNet is
    distributed. An image's place is (number of its file, offset, length), and offset and length of each
    member that is kept with it.
    """

    def scan(self, hints: Hints = NO_HINTS) -> Listing:
        """List the images by reading the headers of all members, and the labels.

        Raises:
            GvitError: A file cannot be used, see `read_tar`; labels are numbers and text; or there is none.
        """
        contents = self._contents(TarWishes(hints.label_column, hints.keep))
        if not any(len(content.names) for content in contents):
            raise GvitError(
                f"{self.shown} holds no image: no member of a tar file ends with "
                f"{', '.join(f'.{suffix}' for suffix in sorted(IMAGE_SUFFIXES))}"
            )
        layout = understand(sum((c.folders for c in contents), Counter[str]()), hints.class_level)
        classes, names, told = _classes(self.files, contents, layout)
        self._check_split(hints, layout)
        builder, first = ImagesBuilder(), 0
        for number, (file, content) in enumerate(zip(self.files, contents, strict=True)):
            if not (count := len(content.names)):
                continue
            builder.add(
                as_text(f"{file}/"),
                content.names,
                split=hints.split or split_named_by_file(file) or _splits(content, layout),
                classes=names[first : first + count],
                places=np.column_stack([np.full(count, number), content.spans]),
            )
            first += count
        fields = next((content.fields for content in contents if content.fields), ())
        return Listing(
            entries=builder.build(classes, grouped=("folder",) if self.url else ()),
            passed=sum((content.passed for content in contents), Counter[str]()),
            labels_from=told,
            labels_hint=f"the fields of .json are {', '.join(fields)}" if fields else "",
            extras=KeptMembers(self.absolute().path_of, hints.keep) if hints.keep else None,
        )

    def _contents(self, wishes: TarWishes) -> list[TarContents]:
        if not self.url:
            return read_tars([self.root / file for file in self.files], wishes)

        def read(number: int) -> TarContents:
            return read_tar(self.local(number), wishes)

        with ThreadPoolExecutor(_FETCHES) as pool:  # it is the fetching that takes time
            return list(pool.map(read, range(len(self.files))))

    def _check_split(self, hints: Hints, layout: Layout) -> None:
        if hints.split is not None and (layout.splits or any(map(split_named_by_file, self.files))):
            raise GvitError(f"--split is given, and {self.shown} has splits of its own; leave it out")

    def reference(self, entry: Entry) -> FilePart:
        """Return file, offset and length of the image."""
        _, offset, length, *_ = entry.place
        return FilePart(os.fspath(self.path_of(entry)), offset, length)


def find_in_tar(path: Path, name: str) -> FilePart | None:
    """Return where an image is in a tar file, by its path in it; None where it is not.

    Raises:
        GvitError: The tar file cannot be used.
    """
    return _index(path).get(name)


@lru_cache(maxsize=4)  # a look at a dataset asks for many images of few files
def _index(path: Path) -> dict[str, FilePart]:
    content = read_tar(path, TarWishes())
    return {
        name: FilePart(os.fspath(path), offset, length)
        for name, (offset, length) in zip(content.names.to_pylist(), content.spans.tolist(), strict=True)
    }


# ---------------------------------------------------------------- classes


def _classes(
    files: Sequence[str], contents: Sequence[TarContents], layout: Layout
) -> tuple[tuple[str, ...], list[str | None], str]:
    """Return all classes, that of each image, and in words where they are from."""
    labels = [label for content in contents for label in content.labels]
    told = sorted({words for content in contents for words in content.told})
    if not all(label is None for label in labels):
        return *name_labels(labels), " and ".join(told)
    if not told:
        layout.check_depth()
        labels = [layout.class_of(folder) for content in contents for folder in _folders(content)]
        if not all(label is None for label in labels):
            return *name_labels(labels), "the folders within the tar files"
        labels = _classes_of_files(files, contents)
        if not all(label is None for label in labels):
            return *name_labels(labels), "the names of the tar files"
    return (), [None] * len(labels), ""


def _classes_of_files(files: Sequence[str], contents: Sequence[TarContents]) -> list[Label]:
    stems = [PurePosixPath(file).stem for file in files]
    named = [
        stem if content.beginning.startswith(stem) and _CLASS_FILE.fullmatch(stem) else None
        for stem, content in zip(stems, contents, strict=True)
    ]
    if len({stem for stem in named if stem is not None}) < 2:
        named = [None] * len(named)
    return [stem for stem, content in zip(named, contents, strict=True) for _ in content.names]


def _splits(content: TarContents, layout: Layout) -> str | list[str]:
    return [layout.split_of(folder) for folder in _folders(content)] if layout.splits else DEFAULT_SPLIT


def _folders(content: TarContents) -> Iterator[str]:
    """Yield the folder of each image."""
    if len(content.folders) == 1:
        return itertools.repeat(next(iter(content.folders)), len(content.names))
    return map(folder_of, cast("list[str]", content.names.to_pylist()))
