"""The plan: which image goes into which shard, in which order. A pure function of the images and the seed.

Everything downstream (shards, blocks, resume) counts in rows of this plan, so it never depends on workers,
devices, batch sizes or the order in which a file system lists its files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..images.sources.images import View
from ..schemas.manifest import BLOCK_ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..images.sources.images import Entry, Images

__all__ = ["BLOCK_SIZE", "BlockPlan", "Plan", "ShardPlan", "auto_shard_size", "make_plan"]

BLOCK_SIZE = BLOCK_ROWS
"""Plan rows in a block, 256: the unit of fitting, journaling and storage."""

_AUTO_SHARDS = 32  # about so many shards when nobody says otherwise
_MAX_AUTO_SHARD_SIZE = 8192
_CHUNK = 2**16  # images looked at at once


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """Up to 256 consecutive entries of one shard; `first` is the plan row of the first of them."""

    first: int
    entries: tuple[Entry, ...]

    @property
    def keys(self) -> list[str]:
        """The keys of the entries."""
        return [entry.key for entry in self.entries]


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """The entries of one shard, all of one split; `first` is the plan row of the first of them."""

    name: str
    split: str
    first: int
    entries: Sequence[Entry]

    def blocks(self) -> list[BlockPlan]:
        """Cut the shard into blocks of 256 entries, counted from its start; the last may be shorter."""
        return [
            BlockPlan(self.first + start, tuple(self.entries[start : start + BLOCK_SIZE]))
            for start in range(0, len(self.entries), BLOCK_SIZE)
        ]

    def block_of(self, part: BlockPlan) -> BlockPlan:
        """Return the whole block that a part of one is of."""
        (block,) = (block for block in self.blocks() if block.first == part.first)
        return block


@dataclass(frozen=True, slots=True)
class Plan:
    """All shards, numbered through over the splits; `digest` identifies entries, labels and order.

    Shards are made when they are asked for, and their entries likewise: a plan of n images takes 8 n bytes.
    """

    shards: Sequence[ShardPlan]
    images: int
    shard_size: int
    digest: str


def make_plan(images: Images, seed: int, shard_size: int | None = None) -> Plan:
    """Shuffle the images of each split once by the seed and cut them into shards.

    Where images have groups, the groups are shuffled, and what is in each.

    Args:
        images: The images; sources are distinct.
        seed: 0 to 2^63 - 1.
        shard_size: Images in a shard, at least 1; None takes `auto_shard_size` of all images.

    Returns:
        The plan: splits in order of their names, each image exactly once, no shard empty or of two splits.
    """
    size = shard_size or auto_shard_size(len(images))
    seed_key = seed.to_bytes(8, "little")
    orders = {s: _shuffled(images, images.of_split(s), seed_key) for s in images.split_counts()}
    cuts: list[_Cut] = []
    first = 0
    for split, order in orders.items():
        cuts += [
            _Cut(f"shard-{len(cuts) + number:06d}", split, first + start, order[start : start + size])
            for number, start in enumerate(range(0, len(order), size))
        ]
        first += len(order)

    def make(places: NDArray[np.int64]) -> list[ShardPlan]:
        chosen = (cuts[place] for place in places.tolist())
        return [ShardPlan(cut.name, cut.split, cut.first, images.at(cut.order)) for cut in chosen]

    largest = max((len(cut.order) for cut in cuts), default=0)
    return Plan(View(make, np.arange(len(cuts))), len(images), largest, _digest(images, orders.values()))


@dataclass(frozen=True, slots=True)
class _Cut:
    """A shard as a part of the order."""

    name: str
    split: str
    first: int
    order: NDArray[np.int64]


def auto_shard_size(images: int) -> int:
    """Return the shard size for so many images: 1/32 of them, in multiples of 256, from 256 to 8192."""
    blocks = -(-images // (_AUTO_SHARDS * BLOCK_SIZE))
    return min(max(blocks * BLOCK_SIZE, BLOCK_SIZE), _MAX_AUTO_SHARD_SIZE)


def _shuffled(images: Images, members: NDArray[np.int64], seed_key: bytes) -> NDArray[np.int64]:
    """Return some images in the order of the keyed hashes of their groups, then of their paths."""

    def hashed(name: str) -> bytes:
        return hashlib.blake2b(name.encode(), digest_size=16, key=seed_key).digest()

    hashes = np.empty((len(members), 2), ">u8")
    for start in range(0, len(members), _CHUNK):
        part = members[start : start + _CHUNK]
        digests = b"".join(map(hashed, images.sources_at(part)))
        hashes[start : start + len(part)] = np.frombuffer(digests, ">u8").reshape(-1, 2)
    keys = [hashes[:, 1].astype(np.uint64), hashes[:, 0].astype(np.uint64)]
    for grouping in reversed(images.grouped):
        names, group = images.groups_at(members, grouping)
        ranks = np.argsort(np.argsort(np.array([hashed(name) for name in names], "S16"), kind="stable"))
        keys.append(ranks[group].astype(np.uint64))
    return members[np.lexsort(keys)]


def _digest(images: Images, orders: Iterable[NDArray[np.int64]]) -> str:
    digest = hashlib.sha256()
    for order in orders:
        for start in range(0, len(order), _CHUNK):
            rows = images.columns_at(order[start : start + _CHUNK])
            # A path cannot hold NUL, so the parts cannot run into each other.
            lines = (
                f"{key}\0{path}\0{split}\0{label}\0{name or ''}\0" for key, path, split, label, name in rows
            )
            digest.update("".join(lines).encode())
    return digest.hexdigest()
