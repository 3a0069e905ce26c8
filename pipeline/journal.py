"""The journal: finished blocks of unfinished shards, so that a kill costs a worker at most one block.

One file per block, `DST/.gvit/journal/<shard>/<first plan row, 8 digits>`: a checksum, a line of JSON that
describes the outcomes, then the raw stored values. A file that does not check out is as good as none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from msgspec import Meta

from ..schemas.checksums import PRIVATE
from ..schemas.documents import Count, Integer, from_json
from ..schemas.errors import DatasetError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .place.place import Place
    from .plan import ShardPlan

__all__ = ["BlockResult", "Journal", "Outcome"]

_JOURNAL = f"{PRIVATE}/journal"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image; `error` is None where it was stored.

    `width` and `height` are None where it could not be decoded, `source_sha256` where it could not even be
    read, `psnr` (dB) where it failed. `bytes` and `mtime_ns` are of the file that held it when it was read,
    None where nobody noted them.
    """

    key: str
    width: Count | None
    height: Count | None
    psnr: float | None
    error: str | None
    source_sha256: str | None
    bytes: Count | None = None
    mtime_ns: Integer | None = None


@dataclass(frozen=True, slots=True)
class BlockResult:
    """Outcomes of a block in plan order; `gaussians` [n, N, columns] holds the values of the ok ones."""

    outcomes: tuple[Outcome, ...]
    gaussians: NDArray[Any]

    def only(self, keep: Callable[[Outcome], bool]) -> BlockResult:
        """Return the part whose outcomes are to be kept."""
        stored = [outcome for outcome in self.outcomes if outcome.error is None]
        rows = [row for row, outcome in enumerate(stored) if keep(outcome)]
        return BlockResult(tuple(filter(keep, self.outcomes)), self.gaussians[rows])

    def stored(self) -> dict[str, NDArray[Any]]:
        """Return key -> stored values [N, ...] of the images that are ok."""
        keys = (outcome.key for outcome in self.outcomes if outcome.error is None)
        return dict(zip(keys, self.gaussians, strict=True))


@dataclass(frozen=True, slots=True)
class Journal:
    """The finished blocks of a dataset, among the private files of its place."""

    place: Place

    def write(self, shard: str, first: int, result: BlockResult) -> None:
        """Record a block; may be called again for the same block."""
        self.place.write(f"{_JOURNAL}/{shard}/{first:08d}", _pack(result))

    def read(self, shard: str, first: int, keys: Iterable[str]) -> BlockResult | None:
        """Return a recorded block, or None where there is none that checks out and speaks of these keys."""
        data = self.place.read(f"{_JOURNAL}/{shard}/{first:08d}")
        result = None if data is None else _unpack(data)
        if result is None:
            return None
        known = frozenset(keys)
        return result if all(outcome.key in known for outcome in result.outcomes) else None

    def keep_only(self, shard: ShardPlan, keep: Callable[[Outcome], bool]) -> None:
        """Drop all but some outcomes from the recorded blocks of a shard."""
        for block in shard.blocks():
            known = self.read(shard.name, block.first, block.keys)
            if known is not None and not all(map(keep, known.outcomes)):
                self.write(shard.name, block.first, known.only(keep))

    def remove(self, shard: str) -> None:
        """Forget the blocks of a shard."""
        self.place.remove_folder(f"{_JOURNAL}/{shard}")

    def clear(self) -> None:
        """Forget all blocks."""
        self.place.remove_folder(_JOURNAL)


@dataclass(frozen=True, slots=True)
class _Head:
    """What the line of JSON says: outcomes, and type and shape of the values after it."""

    outcomes: tuple[Outcome, ...]
    dtype: Annotated[str, Meta(pattern=r"\A[<|][fui][1248]\Z")]
    shape: tuple[Count, Count, Count]


def _pack(result: BlockResult) -> bytes:
    values = np.ascontiguousarray(result.gaussians)
    head = {
        "outcomes": [asdict(outcome) for outcome in result.outcomes],
        "dtype": values.dtype.str,
        "shape": values.shape,
    }
    body = json.dumps(head).encode() + b"\n" + values.tobytes()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _unpack(data: bytes) -> BlockResult | None:
    digest, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    line, _, raw = body.partition(b"\n")
    try:
        head = from_json(_Head, line, closed=True)
        values = np.frombuffer(raw, np.dtype(head.dtype)).reshape(head.shape)
        return BlockResult(head.outcomes, values)
    except (DatasetError, ValueError):
        return None
