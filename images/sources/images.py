"""All images of a source, in columns: a hundred million of them fit in the memory of one machine."""
# pyright: reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, cast, overload

import numpy as np
import pyarrow as pa

from .keys import changed_keys, plain_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Entry", "Grouping", "Images", "ImagesBuilder", "View"]

Grouping = Literal["folder", "part"]

_T = TypeVar("_T")
_CHUNK = 2**16  # images that become objects at once


@dataclass(frozen=True, slots=True)
class Entry:
    """One input image.

    `source` is its path below the source folder with `/` between the parts, through the file that holds it
    where several images share a file; `label` is the index of `class_name` in the sorted list of classes, -1
    where `class_name` is None. `place` says in which shared file and where, in numbers of its source's own.
    """

    key: str
    source: str
    split: str
    label: int
    class_name: str | None
    place: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class View(Sequence[_T], Generic[_T]):
    """A sequence whose items are made when they are asked for; sent elsewhere, it is sent as a tuple.

    Attributes:
        make: Makes the items at some places of a table.
        places: int64 `[n]`.
    """

    make: Callable[[NDArray[np.int64]], Sequence[_T]]
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> _T: ...
    @overload
    def __getitem__(self, at: slice) -> View[_T]: ...
    def __getitem__(self, at: int | slice) -> _T | View[_T]:
        if isinstance(at, slice):
            return replace(self, places=self.places[at])
        return self.make(self.places[at, None])[0]

    def __iter__(self) -> Iterator[_T]:
        for start in range(0, len(self), _CHUNK):
            yield from self.make(self.places[start : start + _CHUNK])

    def __reduce__(self) -> tuple[type[tuple[_T, ...]], tuple[tuple[_T, ...]]]:
        return tuple, (tuple(self),)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Images(Sequence[Entry]):
    """Images in order of their folders and names; as a sequence, of entries that are made when asked for.

    Attributes:
        folders: Where images lie, sorted: "", or a path below the source that ends with `/`.
        folder: int32 `[n]`, an image's number among these.
        names: Of the files, or of the path within the file that holds it, `[n]`.
        splits: The names of splits.
        split: uint8 `[n]`, a number among these.
        classes: The sorted classes.
        label: int32 `[n]`, a number among these; -1 for none.
        places: int64 `[n, k]`, see `Entry.place`.
        grouped: What is cheap to read together, so that a plan keeps it together, the larger first: "folder",
            the images of one; "part", those that also have the same second number in their places.
        changed: Number of an image to its key, where that does not follow from its path alone.
    """

    folders: tuple[str, ...]
    folder: NDArray[np.int32]
    names: pa.Array
    splits: tuple[str, ...]
    split: NDArray[np.uint8]
    classes: tuple[str, ...]
    label: NDArray[np.int32]
    places: NDArray[np.int64]
    grouped: tuple[Grouping, ...] = ()
    changed: Mapping[int, str] = field(default_factory=dict[int, str])

    def __len__(self) -> int:
        return len(self.folder)

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> View[Entry]: ...
    def __getitem__(self, at: int | slice) -> Entry | View[Entry]:
        return self.at(np.arange(len(self)))[at]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.at(np.arange(len(self))))

    def at(self, places: NDArray[np.int64]) -> View[Entry]:
        """Return the entries at these places."""
        return View(self._entries, places)

    @property
    def sources(self) -> View[str]:
        """The path of each image below the source."""
        return View(self.sources_at, np.arange(len(self)))

    @property
    def keys(self) -> View[str]:
        """The key of each image."""
        return View(self.keys_at, np.arange(len(self)))

    def split_counts(self) -> dict[str, int]:
        """Return the number of images of each split that has any, by name."""
        counts = np.bincount(self.split, minlength=len(self.splits)).tolist()
        return dict(sorted((s, n) for s, n in zip(self.splits, counts, strict=True) if n))

    def label_counts(self, split: str | None = None) -> dict[str | None, int]:
        """Return the number of images of each class that has any, of one split or all; of none under None."""
        labels = self.label if split is None else self.label[self.of_split(split)]
        counts = np.bincount(labels + 1, minlength=len(self.classes) + 1).tolist()
        return {c: n for c, n in zip((None, *self.classes), counts, strict=True) if n}

    def of_split(self, split: str) -> NDArray[np.int64]:
        """Return the places of the images of a split."""
        number = self.splits.index(split) if split in self.splits else -1
        return np.flatnonzero(self.split == number)

    def relabelled(self, given: Mapping[str, str]) -> Images:
        """Return the images with the classes that are given for some paths; only classes in use remain."""
        names = [given.get(source) for source in self.sources]
        old = ((None if n < 0 else self.classes[n]) for n in self.label.tolist())
        classes, labels = number_names([new or name for new, name in zip(names, old, strict=True)])
        return replace(self, classes=classes, label=labels)

    # ------------------------------------------------------------ what is made when it is asked for

    def sources_at(self, places: NDArray[np.int64]) -> list[str]:
        """Return the paths of the images at these places."""
        names = cast("list[str]", self.names.take(pa.array(places)).to_pylist())
        folders = self.folders
        return [
            folders[number] + name for number, name in zip(self.folder[places].tolist(), names, strict=True)
        ]

    def keys_at(self, places: NDArray[np.int64]) -> list[str]:
        """Return the keys of the images at these places."""
        return self._keys_of(places, self.sources_at(places))

    def columns_at(self, places: NDArray[np.int64]) -> Iterator[tuple[str, str, str, int, str | None]]:
        """Return key, source, split, label and class name of the images at these places."""
        sources, labels = self.sources_at(places), self.label[places].tolist()
        splits = map(self.splits.__getitem__, self.split[places].tolist())
        names = map((*self.classes, None).__getitem__, labels)
        return zip(self._keys_of(places, sources), sources, splits, labels, names, strict=True)

    def groups_at(self, places: NDArray[np.int64], grouping: Grouping) -> tuple[list[str], NDArray[np.int64]]:
        """Return the names of the groups of the images at these places, and the number of each image's."""
        if grouping == "folder":
            return list(self.folders), self.folder[places].astype(np.int64)
        pairs = np.column_stack([self.folder[places].astype(np.int64), self.places[places, 1]])
        found, numbers = np.unique(pairs, axis=0, return_inverse=True)
        return [f"{self.folders[folder]}{part}" for folder, part in found.tolist()], numbers.reshape(-1)

    def _keys_of(self, places: NDArray[np.int64], sources: Sequence[str]) -> list[str]:
        keys = [plain_key(source) for source in sources]
        if self.changed:
            keys = [self.changed.get(at, key) for at, key in zip(places.tolist(), keys, strict=True)]
        return keys

    def _entries(self, places: NDArray[np.int64]) -> list[Entry]:
        inner = map(tuple[int, ...], self.places[places].tolist())
        return [Entry(*columns, place) for columns, place in zip(self.columns_at(places), inner, strict=True)]


def number_names(names: Sequence[str | None]) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Return the sorted names, and the number of each among them; -1 for None."""
    classes = tuple(sorted({name for name in names if name is not None}))
    index: dict[str | None, int] = {name: number for number, name in enumerate(classes)} | {None: -1}
    return classes, np.fromiter((index[name] for name in names), np.int32, len(names))


class ImagesBuilder:
    """Takes images folder by folder and puts them in order."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._codes: dict[str | None, int] = {None: -1}  # class to a number, in the order in which they come
        self._splits: dict[str, int] = {}

    def add(
        self,
        folder: str,
        names: pa.Array,
        *,
        split: str | Sequence[str],
        classes: str | Iterable[str | None] | None,
        places: NDArray[np.int64] | None = None,
    ) -> None:
        """Take the images of one folder, each folder once; a split or class for all, or one for each."""
        count = len(names)
        one_split, one_class = isinstance(split, str), classes is None or isinstance(classes, str)
        splits = self._splits
        self._parts.append(
            _Part(
                folder,
                names,
                np.full(count, splits.setdefault(cast("str", split), len(splits)), np.uint8)
                if one_split
                else np.fromiter((splits.setdefault(s, len(splits)) for s in split), np.uint8, count),
                np.full(count, self._code(cast("str | None", classes)), np.int32)
                if one_class
                else np.fromiter(map(self._code, cast("Iterable[str | None]", classes)), np.int32, count),
                np.empty((count, 0), np.int64) if places is None else places,
            )
        )

    def build(self, classes: Sequence[str] | None = None, *, grouped: tuple[Grouping, ...] = ()) -> Images:
        """Return all images; `classes`, sorted, may hold more than those in use."""
        parts = sorted(self._parts, key=lambda part: part.folder)
        self._parts = []
        found = tuple(sorted(name for name in self._codes if name is not None))
        final = tuple(found if classes is None else classes)
        rank = {name: number for number, name in enumerate(final)}
        ranks = np.array([-1 if name is None else rank[name] for name in self._codes], np.int32)
        images = Images(
            folders=tuple(part.folder for part in parts),
            folder=np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.names) for part in parts]),
            names=pa.concat_arrays([part.names for part in parts]),
            splits=tuple(self._splits),
            split=np.concatenate([part.split for part in parts]),
            classes=final,
            label=ranks[np.concatenate([part.code for part in parts]) + 1],
            places=np.concatenate([part.places for part in parts]),
            grouped=grouped,
        )
        return replace(images, changed=changed_keys(images.sources))

    def __len__(self) -> int:
        return len(self._parts)

    def _code(self, name: str | None) -> int:
        return self._codes.setdefault(name, len(self._codes) - 1)


@dataclass(frozen=True, slots=True)
class _Part:
    folder: str
    names: pa.Array
    split: NDArray[np.uint8]
    code: NDArray[np.int32]
    places: NDArray[np.int64]
