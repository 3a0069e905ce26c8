"""Batches of sets, in an order that is a pure function, on the device that trains on them."""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, starmap
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...schemas import NUM_FIELDS, GvitError, get_encoding
from ...schemas.cores import free_memory
from .order import epoch_order, evaluation_batches, partners_of, training_batches, training_steps

if TYPE_CHECKING:
    from ...dataset.reader import Dataset
    from ...schemas import Encoding

__all__ = ["Batch", "CacheKind", "MappedSets", "MemorySets", "SetLoader", "open_sets"]

READ_BYTES = 2 << 20  # of stored sets at once: the cost of a read by its number of batches, not of sets


@dataclass(frozen=True, slots=True)
class Batch:
    """Sets of one step, on the device.

    Attributes:
        gaussians: float32 ``[b, N, 9]``, as stored, in the fields and units of ``gvit.schemas.FIELDS``.
        labels: int64 ``[b]``, -1 without classes.
        indices: int64 ``[b]``, of the samples in the dataset (the split) that is loaded; they key every
            random choice about a sample.
        aspect: float32 ``[b]``, true width / height of what the canvas shows.
        host_indices: the same as ``indices``, on the host: who looks something up there need not wait for
            the device.
        partner: what each sample may be mixed with, where the loader was asked for partners.
    """

    gaussians: Tensor
    labels: Tensor
    indices: Tensor
    aspect: Tensor
    host_indices: Tensor
    partner: Batch | None = None

    def __len__(self) -> int:
        """Return the number of samples, b."""
        return len(self.labels)


class SetLoader:
    """Reads a dataset, or one split of it, in batches for one rank.

    Training (``shuffle=True``): every epoch has its own order, every rank equal batches; the last, partial
    global batch is dropped. Evaluation (``shuffle=False``): every sample once over all ranks, in order.

    Nothing is kept between batches: the same arguments give the same batches, on any machine.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        seed: int = 0,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        cache: CacheKind = "auto",
        partners: bool = False,
    ) -> None:
        """Prepare to load; with ``cache="memory"`` this reads the dataset.

        Args:
            dataset: what ``open_dataset`` returned, or a split of it.
            batch_size: samples per rank and step, at least 1.
            seed: of the order and the partners.
            device: where the batches go, in their storage type; there they become float32.
            rank: of this process, 0 to world_size - 1.
            world_size: number of processes that share the epoch.
            shuffle: for training; False for evaluation.
            cache: "memory" holds the stored sets, "mmap" leaves them to the operating system; "auto" holds
                them where they fit easily.
            partners: also load a partner per sample, for cutmix and mixup.

        Raises:
            GvitError: an argument is out of its range, the dataset is empty, or training has fewer samples
                than one global batch.
        """
        _check_arguments(len(dataset), batch_size, rank, world_size, shuffle=shuffle, path=str(dataset.path))
        self.batch_size = batch_size
        self.seed = seed
        self.device = torch.device(device)
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.partners = partners
        self._sets = open_sets(dataset, cache, ranks=world_size)
        self._labels = dataset.labels
        self._aspects = dataset.aspects
        set_bytes = stored_bytes(dataset) // len(dataset)
        self._batches_per_read = max(1, READ_BYTES // (set_bytes * batch_size))

    def __len__(self) -> int:
        """Return the number of samples in the dataset that is loaded."""
        return len(self._labels)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of a whole epoch: in training the same on every rank, in evaluation this rank's."""
        if self.shuffle:
            return training_steps(len(self), self.batch_size, self.world_size)
        return sum(1 for _ in evaluation_batches(len(self), self.batch_size, self.rank, self.world_size))

    def epoch(self, epoch: int, samples_seen: int = 0) -> Iterator[Batch]:
        """Load an epoch, or the rest of one that was interrupted.

        Args:
            epoch: from 0 on; evaluation is the same in each.
            samples_seen: samples of this epoch that all ranks together are through with; the batches that
                follow are those that would have followed, also where the number of ranks has changed and
                the global batch has not.

        Raises:
            GvitError: ``samples_seen`` is out of its range, or not 0 in evaluation.
            DatasetError: a shard is damaged.
        """
        if not 0 <= samples_seen <= (len(self) if self.shuffle else 0):
            raise GvitError(f"samples_seen cannot be {samples_seen} in an epoch of {len(self)} samples")
        return self._training(epoch, samples_seen) if self.shuffle else self._evaluation(epoch)

    def _training(self, epoch: int, samples_seen: int) -> Iterator[Batch]:
        order = epoch_order(self.seed, epoch, len(self))
        places = training_batches(
            len(self), self.batch_size, self.rank, self.world_size, samples_seen=samples_seen
        )
        return self._load(epoch, (order[place] for place in places))

    def _evaluation(self, epoch: int) -> Iterator[Batch]:
        places = evaluation_batches(len(self), self.batch_size, self.rank, self.world_size)
        return self._load(epoch, (np.arange(place.start, place.stop) for place in places))

    def _load(self, epoch: int, batches: Iterator[npt.NDArray[np.int64]]) -> Iterator[Batch]:
        while group := list(islice(batches, self._batches_per_read)):
            samples = np.concatenate(group)
            lengths = [len(batch) for batch in group]
            loaded: Iterable[Batch] = self._read(samples, lengths)
            if self.partners:
                partners = partners_of(self.seed, epoch, samples, len(self))
                loaded = map(_pair, loaded, self._read(partners, lengths))
            yield from loaded

    def _read(self, samples: npt.NDArray[np.int64], lengths: list[int]) -> Iterator[Batch]:
        """Read the samples of some batches at once, and part them on the device."""
        gaussians = self._send(self._sets.read(samples)).to(torch.float32, copy=True)
        columns = (self._labels[samples], samples, self._aspects[samples])
        rest = [self._send(torch.from_numpy(column)) for column in columns]
        fields = (gaussians, *rest, torch.from_numpy(samples))
        return starmap(Batch, zip(*(field.split(lengths) for field in fields), strict=True))

    def _send(self, values: Tensor) -> Tensor:
        """Copy to the device, a GPU without waiting for it: torch keeps pinned memory until it is read."""
        if self.device.type != "cuda":
            return values.to(self.device)
        return values.pin_memory().to(self.device, non_blocking=True)


def _pair(batch: Batch, partner: Batch) -> Batch:
    return replace(batch, partner=partner)


def _check_arguments(
    n: int, batch_size: int, rank: int, world_size: int, *, shuffle: bool, path: str
) -> None:
    if batch_size < 1:
        raise GvitError(f"batch-size must be at least 1, not {batch_size}")
    if world_size < 1 or not 0 <= rank < world_size:
        raise GvitError(f"rank must be from 0 to world_size - 1, not {rank} of {world_size}")
    if n == 0:
        raise GvitError(f"{path} has no sets to load: give a dataset, or a split, with at least one")
    if shuffle and n < batch_size * world_size:
        most = n - n % world_size
        way_out = f"choose --batch-size {most} or less" if most else "start fewer ranks"
        raise GvitError(
            f"{n} training samples are fewer than one batch of {batch_size * world_size}: {way_out}"
        )


CacheKind: TypeAlias = Literal["auto", "memory", "mmap"]

MEMORY_SHARE = 0.25  # of the free memory that "auto" takes for the sets, over all ranks


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
    """Open the sets of a dataset for reading in random order; arguments as of ``SetLoader``.

    "auto" holds them in memory where the copies of all ``ranks`` of this machine take at most a quarter of
    what is free.

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
