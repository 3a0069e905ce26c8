"""Where the sets of a run come from: this process's memory, or the files through the operating system."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...schemas import NUM_FIELDS, GvitError, get_encoding

if TYPE_CHECKING:
    from ...dataset.reader import Dataset
    from ...schemas import Encoding

__all__ = ["CacheKind", "MappedSets", "MemorySets", "open_sets"]

CacheKind: TypeAlias = Literal["auto", "memory", "mmap"]

MEMORY_SHARE = 0.25  # of the free memory that "auto" takes for the sets, over all ranks
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


class _Decoder:
    """Turns what was read into floats: of the storage type where it is one, for the device to widen."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._is_float = encoding.dtype.kind == "f" and encoding.columns == NUM_FIELDS

    def __call__(self, stored: npt.NDArray[Any]) -> Tensor:
        if self._is_float:
            return torch.from_numpy(stored)
        sets = np.empty((*stored.shape[:-1], NUM_FIELDS), dtype=np.float32)
        self._encoding.decode(stored, sets)
        return torch.from_numpy(sets)


class MemorySets:
    """All sets in this process's memory, as they are stored."""

    def __init__(self, dataset: Dataset) -> None:
        """Read the dataset, in the order of its files: faster from a cold disk than at random."""
        encoding = get_encoding(dataset.manifest.encoding)
        self._sets = np.empty((len(dataset), dataset.manifest.gaussians, encoding.columns), encoding.dtype)
        for start, stored, _ in dataset.blocks():
            self._sets[start : start + len(stored)] = stored
        self._decode = _Decoder(encoding)
        self._buffer = _Buffer(self._sets.shape[1:], encoding.dtype)

    def read(self, samples: npt.NDArray[np.int64]) -> Tensor:
        """Return sets, floats ``[b, N, 9]``, by index, int64 ``[b]``; good until the next call."""
        out = self._buffer.first(len(samples))
        # "clip" skips a second copy that "raise" makes to leave ``out`` alone on an error
        return self._decode(np.take(self._sets, samples, axis=0, out=out, mode="clip"))


class MappedSets:
    """All sets in their files, which the operating system keeps in memory as it sees fit."""

    def __init__(self, dataset: Dataset) -> None:
        """Read nothing yet."""
        encoding = get_encoding(dataset.manifest.encoding)
        self._dataset = dataset
        self._decode = _Decoder(encoding)
        self._buffer = _Buffer((dataset.manifest.gaussians, encoding.columns), encoding.dtype)

    def read(self, samples: npt.NDArray[np.int64]) -> Tensor:
        """Return sets, floats ``[b, N, 9]``, by index, int64 ``[b]``; good until the next call.

        Raises:
            DatasetError: a shard is damaged.
        """
        return self._decode(self._dataset.stored(samples, out=self._buffer.first(len(samples))))


class _Buffer:
    """Memory that is used again: fresh memory for every batch costs more than the copy into it."""

    def __init__(self, set_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._array = np.empty((0, *set_shape), dtype=dtype)

    def first(self, count: int) -> npt.NDArray[Any]:
        if len(self._array) < count:
            self._array = np.empty((count, *self._array.shape[1:]), dtype=self._array.dtype)
        return self._array[:count]


def open_sets(dataset: Dataset, cache: CacheKind, *, ranks: int = 1) -> MemorySets | MappedSets:
    """Open the sets of a dataset for reading in random order.

    Args:
        dataset: the dataset, or a split of it.
        cache: "memory", "mmap", or "auto": in memory where ``ranks`` copies take at most a quarter of what is
            free.
        ranks: processes of this machine that do the same at once.

    Raises:
        GvitError: another ``cache``.
        DatasetError: a shard is damaged.
    """
    if cache not in ("auto", "memory", "mmap"):
        raise GvitError(f"cache must be auto, memory or mmap, not {cache!r}")
    if cache == "auto":
        wanted = ranks * stored_bytes(dataset)
        cache = "memory" if wanted <= MEMORY_SHARE * free_memory() else "mmap"
    return MemorySets(dataset) if cache == "memory" else MappedSets(dataset)


def stored_bytes(dataset: Dataset) -> int:
    """Return the bytes of all sets of a dataset, as they are stored."""
    encoding = get_encoding(dataset.manifest.encoding)
    return len(dataset) * dataset.manifest.gaussians * encoding.columns * encoding.dtype.itemsize


def free_memory() -> float:
    """Return the bytes that may still be used: of the machine, or of the container where that is less."""
    return max(0, min(_machine_free(), _container_free()))


def _machine_free() -> int:
    for line in MEMINFO.read_text().splitlines() if MEMINFO.exists() else []:
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # no Linux: a guess on the safe side


def _container_free() -> float:
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if not limit.exists() or limit.read_text().strip() == "max":
        return float("inf")
    return int(limit.read_text()) - int(used.read_text())
