"""Which sample comes when, and on which rank: pure functions, so that a resume needs two numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from .keyed_random import hashes

__all__ = ["epoch_order", "evaluation_batches", "partners_of", "training_batches", "training_steps"]

Indices = npt.NDArray[np.int64]


def epoch_order(seed: int, epoch: int, n: int) -> Indices:
    """Return the order of an epoch: int64 ``[n]``, the numbers 0 to n - 1 sorted by a keyed hash."""
    keys = hashes(seed, epoch, torch.arange(n), "order").squeeze(1)
    return np.argsort(keys.numpy())


def partners_of(seed: int, epoch: int, samples: Indices, n: int) -> Indices:
    """Return the sample of the n in a dataset that each of ``samples``, int64 ``[B]``, is mixed with.

    It is never the sample itself where n > 1, and each of the others equally likely, whatever the batch.
    """
    words = hashes(seed, epoch, torch.from_numpy(samples), "partner").squeeze(1).numpy().view(np.uint64)
    steps = 1 + (words % np.uint64(max(n - 1, 1))).astype(np.int64)
    return (samples + steps) % n


def training_steps(n: int, batch_size: int, world_size: int, *, samples_seen: int = 0) -> int:
    """Return how many whole global batches of ``world_size * batch_size`` are left of an epoch."""
    return (n - samples_seen) // (batch_size * world_size)


def training_batches(
    n: int, batch_size: int, rank: int, world_size: int, *, samples_seen: int = 0
) -> Iterator[slice]:
    """Cut an epoch's order into this rank's batches, each of ``batch_size`` places.

    A step takes the next global batch of ``world_size * batch_size`` places; the ranks share it in equal,
    consecutive parts. What is left at the end is dropped, so that all ranks take as many steps. The same
    global batch on another number of ranks is the same steps. ``samples_seen`` places, 0 to n, all ranks
    together are through with.
    """
    for step in range(training_steps(n, batch_size, world_size, samples_seen=samples_seen)):
        start = samples_seen + (step * world_size + rank) * batch_size
        yield slice(start, start + batch_size)


def evaluation_batches(n: int, batch_size: int, rank: int, world_size: int) -> Iterator[slice]:
    """Cut 0 to n - 1 into this rank's batches: over all ranks each place once, shares equal to within one.

    The last batch of a rank may be smaller, and a rank may have one batch less than another.
    """
    start, end = n * rank // world_size, n * (rank + 1) // world_size
    for begin in range(start, end, batch_size):
        yield slice(begin, min(begin + batch_size, end))
