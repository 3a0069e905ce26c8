"""Batches of sets, in an order that is a pure function, on the device that trains on them."""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice, starmap
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...schemas import GvitError
from .order import epoch_order, evaluation_batches, partners_of, training_batches, training_steps
from .set_cache import CacheKind, open_sets, stored_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ...dataset.reader import Dataset

__all__ = ["Batch", "CacheKind", "SetLoader"]

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
    def global_batch_size(self) -> int:
        """Samples per step over all ranks."""
        return self.batch_size * self.world_size

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
        way_out = f"choose --batch-size {n // world_size} or less" if n >= world_size else "start fewer ranks"
        raise GvitError(
            f"{n} samples are fewer than one batch of {batch_size} on each of {world_size} ranks: {way_out}"
        )
