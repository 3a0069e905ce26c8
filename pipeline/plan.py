"""The plan: which image goes into which shard, in which order. A pure function of the images and the seed.

Everything downstream (shards, blocks, resume) counts in rows of this plan, so it never depends on workers,
devices, batch sizes or the order in which a file system lists its files.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..schemas.manifest import BLOCK_ROWS

if TYPE_CHECKING:
    from ..images.sources.source import Entry

__all__ = ["BLOCK_SIZE", "BlockPlan", "Plan", "ShardPlan", "auto_shard_size", "make_plan"]

BLOCK_SIZE = BLOCK_ROWS
"""Plan rows in a block, 256: the unit of fitting, journaling and storage."""

_AUTO_SHARDS = 32  # about so many shards when nobody says otherwise
_MAX_AUTO_SHARD_SIZE = 8192


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
    entries: tuple[Entry, ...]

    def blocks(self) -> list[BlockPlan]:
        """Cut the shard into blocks of 256 entries, counted from its start; the last may be shorter."""
        return [
            BlockPlan(self.first + start, self.entries[start : start + BLOCK_SIZE])
            for start in range(0, len(self.entries), BLOCK_SIZE)
        ]

    def block_of(self, part: BlockPlan) -> BlockPlan:
        """Return the whole block that a part of one is of."""
        (block,) = (block for block in self.blocks() if block.first == part.first)
        return block


@dataclass(frozen=True, slots=True)
class Plan:
    """All shards, numbered through over the splits; `digest` identifies entries, labels and order."""

    shards: tuple[ShardPlan, ...]
    digest: str

    @property
    def images(self) -> int:
        """The number of entries over all shards."""
        return sum(len(shard.entries) for shard in self.shards)


def make_plan(entries: Iterable[Entry], seed: int, shard_size: int | None = None) -> Plan:
    """Shuffle the entries of each split once by the seed and cut them into shards.

    Where entries have groups, the groups are shuffled, and the entries within each.

    Args:
        entries: The images, in any order; sources are distinct.
        seed: 0 to 2^63 - 1.
        shard_size: Entries in a shard, at least 1; None takes `auto_shard_size` of all entries.

    Returns:
        The plan: splits in order of their names, each entry exactly once, no shard empty or of two splits.
    """
    splits = _shuffled_splits(entries, seed)
    size = shard_size or auto_shard_size(sum(len(members) for _, members in splits))
    shards: list[ShardPlan] = []
    first = 0
    for split, members in splits:
        for start in range(0, len(members), size):
            part = tuple(members[start : start + size])
            shards.append(ShardPlan(f"shard-{len(shards):06d}", split, first, part))
            first += len(part)
    return Plan(tuple(shards), _digest(entry for _, members in splits for entry in members))


def auto_shard_size(images: int) -> int:
    """Return the shard size for so many images: 1/32 of them, in multiples of 256, from 256 to 8192."""
    blocks = -(-images // (_AUTO_SHARDS * BLOCK_SIZE))
    return min(max(blocks * BLOCK_SIZE, BLOCK_SIZE), _MAX_AUTO_SHARD_SIZE)


def _shuffled_splits(entries: Iterable[Entry], seed: int) -> list[tuple[str, Sequence[Entry]]]:
    splits: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        splits[entry.split].append(entry)
    seed_key = seed.to_bytes(8, "little")

    def hashed(name: str) -> bytes:
        return hashlib.blake2b(name.encode(), digest_size=16, key=seed_key).digest()

    def place(entry: Entry) -> tuple[bytes, bytes, str]:
        return hashed(entry.group) if entry.group else b"", hashed(entry.source), entry.source

    return [(split, sorted(splits[split], key=place)) for split in sorted(splits)]


def _digest(entries: Iterable[Entry]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        # A path cannot hold NUL, so the parts cannot run into each other.
        fields = (entry.key, entry.source, entry.split, str(entry.label), entry.class_name or "")
        digest.update("\0".join((*fields, "")).encode())
    return digest.hexdigest()
