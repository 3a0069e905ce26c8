"""Reading a dataset back: every set by index, by key, in blocks or many at once."""
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.checksums import PRIVATE, ZARR_NAME
from ..schemas.encoding import ENCODINGS, decode
from ..schemas.errors import DatasetError, GvitError
from ..schemas.gaussians import NUM_FIELDS
from ..schemas.manifest import BLOCK_ROWS, MANIFEST_NAME, Manifest, read_manifest
from ..schemas.rows import ROW_SCHEMA
from ..schemas.urls import as_url
from .open_shard import Shard, open_shard
from .zarr.sets import is_zarr_only, open_zarr

__all__ = ["Dataset", "Sample", "StoredBlock", "open_dataset", "open_shards"]

GATHER_SETS = 64  # copied per call: larger temporaries cost fresh memory each time
Indices = slice | Sequence[int] | npt.NDArray[np.integer[Any]]


class Sample(NamedTuple):
    """One image: its key, its set float32 ``[N, 9]``, and its label (-1 without classes)."""

    key: str
    gaussians: npt.NDArray[np.float32]
    label: int

    def __repr__(self) -> str:
        return f"<Sample {self.key!r}: {len(self.gaussians)} Gaussians, label {self.label}>"


class StoredBlock(NamedTuple):
    """Consecutive sets as they are stored.

    ``start`` is the index of the first, ``gaussians`` a read-only view ``[n, N, columns]`` in the storage
    type, ``labels`` int64 ``[n]``.
    """

    start: int
    gaussians: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset that ``gvit encode`` has finished, in a folder or behind a URL as ``s3://bucket/name``.

    What is behind a URL is copied into the cache first (``GVIT_CACHE``, else ``~/.cache/gvit``); later calls
    copy what has changed there, which mostly is nothing.

    Reads manifest, done marks and rows; the sets stay on the disk until they are asked for, and are then
    read through memory maps. ``gvit verify --deep`` compares the data itself with its checksums.

    Raises:
        DatasetError: it is missing, incomplete, damaged, or of another version.
        GvitError: the URL cannot be read.
    """
    url = None if Path(path).exists() else as_url(path)
    dst = Path(path) if url is None else _copy_of(url)
    _require_complete(dst)
    return open_shards(dst, read_manifest(dst))


def _copy_of(url: str) -> Path:
    from .remote.cache import cached  # fsspec, which a folder does not need

    return cached(url)


def open_shards(dst: Path, manifest: Manifest) -> Dataset:
    """Open the dataset that a manifest describes, whether or not it is on the disk yet.

    Raises:
        DatasetError: as `open_dataset`.
    """
    sets = open_zarr(dst, manifest) if is_zarr_only(dst, manifest) else None
    firsts = accumulate((shard.images for shard in manifest.shards), initial=0)
    shards = [
        open_shard(dst, manifest, shard, sets, first)
        for shard, first in zip(manifest.shards, firsts, strict=False)
    ]
    return Dataset(dst, manifest, shards)


def _require_complete(dst: Path) -> None:
    if not dst.is_dir():
        raise DatasetError(f"{dst} is not a folder: give the folder that gvit encode wrote")
    if (dst / MANIFEST_NAME).exists():
        return
    if (dst / PRIVATE).exists() or any(dst.glob("shard-*")):
        raise DatasetError(
            f"{dst} is not complete: run gvit encode again with the same arguments to finish it"
        )
    raise DatasetError(f"{dst} holds no gvit dataset: make one with gvit encode SRC {dst}")


class Dataset:
    """A dataset, or a part of it: a sequence of samples, in the order of shards, then rows, or as selected.

    ``manifest`` always describes the whole dataset; keys, labels, rows and all else are those of the part.
    Inputs that failed have a row but no set, and so no index. It can be pickled (it is opened again on
    arrival), so data loaders may send it to their workers.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        shards: Sequence[Shard],
        split: str | None = None,
        chosen: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Use ``open_dataset``."""
        self.path = path
        self.manifest = manifest
        self._split = split
        self._shards = tuple(shards)
        self._chosen = chosen  # of the sets in these shards, int64 [n]; None for all of them
        blocks = [
            (s, b, block.rows, element)
            for s, shard in enumerate(shards)
            for b, (block, element) in enumerate(
                zip(shard.mark.blocks, shard.reader.block_elements.tolist(), strict=True)
            )
        ]
        columns = np.array(blocks, dtype=np.int64).reshape(-1, 4).T.copy()
        self._block_shards, self._block_numbers, counts, self._block_elements = columns
        self._block_starts = np.cumsum(counts) - counts
        self._block_checked = np.zeros(len(blocks), dtype=bool)
        self._length = int(counts.sum()) if chosen is None else len(chosen)

    def __repr__(self) -> str:
        part = f", split={self._split!r}" if self._split else ""
        part += "" if self._chosen is None else ", selected"
        return f"<Dataset {str(self.path)!r}{part}: {len(self)} sets of {self.manifest.gaussians} Gaussians>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self._split, self._chosen)

    def __len__(self) -> int:
        return self._length

    @property
    def is_whole(self) -> bool:
        """Whether it is no part of a dataset."""
        return self._split is None and self._chosen is None

    def by_shard(self) -> Iterator[tuple[Shard, npt.NDArray[np.int64]]]:
        """Yield each shard with the index in this part of each of its sets, -1 of those not in it."""
        places = np.full(sum(shard.mark.images for shard in self._shards), -1, dtype=np.int64)
        places[slice(None) if self._chosen is None else self._chosen] = np.arange(len(self))
        ends = accumulate(shard.mark.images for shard in self._shards)
        for shard, end in zip(self._shards, ends, strict=True):
            yield shard, places[end - shard.mark.images : end]

    @property
    def format(self) -> str:
        """`zarr` where there is a `gaussians.zarr`, else `webdataset`."""
        return "zarr" if (self.path / ZARR_NAME).is_dir() else "webdataset"

    @overload
    def __getitem__(self, index: SupportsIndex) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Sample | list[Sample]:
        """Return a sample, counted from the end where negative, or a list of samples for a slice."""
        if isinstance(index, slice):
            places = range(*index.indices(len(self)))
            sets, labels, keys = self.gaussians(index), self.labels, self.keys
            return [Sample(keys[i], sets[n], int(labels[i])) for n, i in enumerate(places)]
        place = operator.index(index)
        (gaussians,) = self.gaussians([place])
        return Sample(self.keys[place], gaussians, int(self.labels[place]))

    def __iter__(self) -> Iterator[Sample]:
        for start, stored, labels in self.blocks():
            for n, gaussians in enumerate(decode(stored, self.manifest.encoding)):
                yield Sample(self.keys[start + n], gaussians, int(labels[n]))

    def by_key(self, key: str) -> Sample:
        """Return the sample with a key.

        Raises:
            GvitError: there is none; the sentence gives the reason where the input failed.
        """
        place = self._places.get(key)
        if place is not None:
            return self[place]
        reasons = self.failures.filter(pc.equal(self.failures["key"], key))["error"].to_pylist()
        why = f"it could not be encoded ({reasons[0]})" if reasons else "list the keys with ds.keys"
        raise GvitError(f"{self.path} has no set with the key {key!r}: {why}")

    def gaussians(
        self, indices: Indices, *, out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return decoded sets float32 ``[n, N, 9]``, a copy.

        Args:
            indices: a slice, or n integers in any order, repeated or negative as one likes.
            out: where to write them, contiguous; saves a loop the cost of fresh memory for every batch.

        Raises:
            IndexError: an index out of range.
            TypeError: indices that are no integers.
            ValueError: ``out`` has another shape or type.
            DatasetError: a shard is damaged.
        """
        wanted = self._stored_places(indices)
        encoding = ENCODINGS[self.manifest.encoding]
        sets = self._output(out, (len(wanted), self.manifest.gaussians, NUM_FIELDS), np.dtype(np.float32))
        shape = (min(len(wanted), BLOCK_ROWS), self.manifest.gaussians, encoding.columns)
        buffer = np.empty(shape, dtype=encoding.dtype)
        for begin in range(0, len(wanted), BLOCK_ROWS):
            part = wanted[begin : begin + BLOCK_ROWS]
            self._gather(part, buffer[: len(part)])
            encoding.decode(buffer[: len(part)], sets[begin : begin + BLOCK_ROWS])
        return sets

    def _output(
        self, out: npt.NDArray[Any] | None, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> npt.NDArray[Any]:
        if out is None:
            return np.empty(shape, dtype=dtype)
        if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
            found = f"{out.dtype} {list(out.shape)}"
            raise ValueError(f"out must be contiguous {dtype} {list(shape)}, not {found}")
        return out

    def stored(self, indices: Indices, *, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Return sets ``[n, N, columns]`` in their storage type; else as ``gaussians``."""
        wanted = self._stored_places(indices)
        encoding = ENCODINGS[self.manifest.encoding]
        sets = self._output(out, (len(wanted), self.manifest.gaussians, encoding.columns), encoding.dtype)
        self._gather(wanted, sets)
        return sets

    def _gather(self, wanted: npt.NDArray[np.int64], sets: npt.NDArray[Any]) -> None:
        """Copy stored sets, one call per shard and ``GATHER_SETS``, into ``sets [n, N, columns]``."""
        block = np.searchsorted(self._block_starts, wanted, side="right") - 1
        for number in np.unique(block[~self._block_checked[block]]).tolist():
            self._shards[self._block_shards[number]].reader.check_block(int(self._block_numbers[number]))
            self._block_checked[number] = True
        set_elements = sets.shape[1] * sets.shape[2]
        starts = self._block_elements[block] + (wanted - self._block_starts[block]) * set_elements
        shard = self._block_shards[block]
        order = np.argsort(shard, kind="stable")
        shard, starts = shard[order], starts[order]
        flat = sets.reshape(len(sets), set_elements)
        bounds = np.flatnonzero(np.diff(shard, prepend=-1, append=-1)).tolist()
        for first, last in pairwise(bounds):
            windows = self._shards[shard[first]].reader.windows
            for begin in range(first, last, GATHER_SETS):
                end = min(begin + GATHER_SETS, last)
                flat[order[begin:end]] = windows[starts[begin:end]]

    def blocks(self) -> Iterator[StoredBlock]:
        """Read the stored sets in order, block by block; without a copy, unless they were selected.

        Raises:
            DatasetError: a shard is damaged.
        """
        if self._chosen is not None:
            for start in range(0, len(self), BLOCK_ROWS):
                part = slice(start, start + BLOCK_ROWS)
                yield StoredBlock(start, self.stored(part), self.labels[part])
            return
        columns = (self._block_starts, self._block_shards, self._block_numbers)
        for start, shard, number in zip(*(column.tolist() for column in columns), strict=True):
            yield StoredBlock(start, *self._shards[shard].reader.read_block(number))

    def split(self, name: str) -> Dataset:
        """Return the sets of one split as a dataset that shares the memory maps of this one.

        Raises:
            GvitError: there is no such split; the sentence lists those that there are.
        """
        if name not in self.manifest.splits:
            raise GvitError(
                f"{self.path} has no split {name!r}: it has {', '.join(self.manifest.splits) or 'none'}"
            )
        if self._chosen is not None:
            return self.select(np.flatnonzero(np.array(self.set_rows["split"].to_pylist()) == name))
        return Dataset(self.path, self.manifest, [s for s in self._shards if s.mark.split == name], name)

    def select(self, indices: Indices) -> Dataset:
        """Return some of the sets, in the order given, as a dataset that shares the memory maps of this one.

        Its rows are those of the selected sets; inputs that failed are not among them.

        Args:
            indices: As of ``gaussians``.

        Raises:
            IndexError: an index out of range.
            TypeError: indices that are no integers.
        """
        chosen = self._stored_places(indices)
        return Dataset(self.path, self.manifest, self._shards, self._split, chosen)

    @cached_property
    def rows(self) -> pa.Table:
        """Every input's row, those that failed too: a table of ``ROW_SCHEMA``."""
        if self._chosen is not None:
            return self.set_rows
        return pa.concat_tables([ROW_SCHEMA.empty_table(), *(shard.table for shard in self._shards)])

    @cached_property
    def set_rows(self) -> pa.Table:
        """The row of each set, in the order of the sets: a table of ``ROW_SCHEMA``."""
        if self._chosen is None:
            return self.rows.filter(pc.equal(self.rows["status"], "ok"))
        whole = Dataset(self.path, self.manifest, self._shards, self._split)
        return whole.set_rows.take(self._chosen)

    @cached_property
    def failures(self) -> pa.Table:
        """The rows of the inputs that failed."""
        return self.rows.filter(pc.equal(self.rows["status"], "failed"))

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """Label of each set: int64 ``[n]``, read-only, -1 without classes."""
        labels = np.array(self.set_rows["label"].to_numpy(), dtype=np.int64)
        labels.flags.writeable = False
        return labels

    @cached_property
    def keys(self) -> list[str]:
        """Key of each set."""
        return self.set_rows["key"].to_pylist()

    @property
    def psnr(self) -> npt.NDArray[np.float64]:
        """PSNR of each set in dB: float64 ``[n]``."""
        return self.set_rows["psnr"].to_numpy()

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """True width and height of each set's image in pixels: int32 ``[n, 2]``."""
        return np.stack([self.set_rows[side].to_numpy() for side in ("width", "height")], axis=1)

    @property
    def aspects(self) -> npt.NDArray[np.float32]:
        """True width / height of what each canvas shows: float32 ``[n]``, 1 where a square was cut out."""
        if self.manifest.fit.crop == "center":
            return np.ones(len(self), dtype=np.float32)
        width, height = self.sizes.astype(np.float64).T
        return (width / height).astype(np.float32)

    @cached_property
    def _places(self) -> dict[str, int]:
        places = {key: place for place, key in enumerate(self.keys)}
        if len(places) != len(self) and self._chosen is None:
            raise DatasetError(
                f"{self.path} has two sets with the same key: encode it again with --overwrite"
            )
        return places

    def _stored_places(self, indices: Indices) -> npt.NDArray[np.int64]:
        """Return where sets are among those of the shards, int64 ``[n]``, by their indices in this part."""
        wanted = self._resolve(indices)
        return wanted if self._chosen is None else self._chosen[wanted]

    def _resolve(self, indices: Indices) -> npt.NDArray[np.int64]:
        """Return indices as int64 ``[n]`` from 0 on."""
        if isinstance(indices, slice):
            return np.arange(*indices.indices(len(self)), dtype=np.int64)
        wanted = np.asarray(indices)
        if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
            raise TypeError(
                f"indices are a slice or a list of integers, not {wanted.dtype} {list(wanted.shape)}"
            )
        outside = (wanted < -len(self)) | (wanted >= len(self))
        if outside.any():
            raise IndexError(f"index {wanted[outside][0]} is out of range for {len(self)} sets")
        wanted = wanted.astype(np.int64)
        return np.where(wanted < 0, wanted + len(self), wanted)


def _reopen(path: Path, split: str | None, chosen: npt.NDArray[np.int64] | None) -> Dataset:
    dataset = open_dataset(path)
    part = dataset if split is None else dataset.split(split)
    return part if chosen is None else part.select(chosen)
