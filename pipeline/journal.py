"""The journal: finished blocks of unfinished shards, so that a kill costs a worker at most one block.

One file per block, `DST/.gvit/journal/<shard>/<first plan row, 8 digits>`: a checksum, a line of JSON that
describes the outcomes, then the raw stored values. A file that does not check out is as good as none.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from .place.private_files import PrivateFiles

__all__ = ["BlockResult", "Journal", "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image; `error` is None where it was stored.

    `width` and `height` are None where it could not be decoded, `source_sha256` where it could not even be
    read, `psnr` (dB) where it failed.
    """

    key: str
    width: int | None
    height: int | None
    psnr: float | None
    error: str | None
    source_sha256: str | None


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
    """The finished blocks of a dataset, among its private files."""

    files: PrivateFiles

    def write(self, shard: str, first: int, result: BlockResult) -> None:
        """Record a block; may be called again for the same block."""
        self.files.write(f"journal/{shard}/{first:08d}", _pack(result))

    def read(self, shard: str, first: int, keys: Iterable[str]) -> BlockResult | None:
        """Return a recorded block, or None where there is none that checks out and speaks of these keys."""
        data = self.files.read(f"journal/{shard}/{first:08d}")
        if data is None:
            return None
        try:
            result = _unpack(data)
        except (ValueError, KeyError, TypeError):
            return None
        known = frozenset(keys)
        return result if all(outcome.key in known for outcome in result.outcomes) else None

    def remove(self, shard: str) -> None:
        """Forget the blocks of a shard."""
        self.files.remove(f"journal/{shard}")

    def clear(self) -> None:
        """Forget all blocks."""
        self.files.remove("journal")


def _pack(result: BlockResult) -> bytes:
    values = np.ascontiguousarray(result.gaussians)
    content: dict[str, object] = {
        "outcomes": [asdict(outcome) for outcome in result.outcomes],
        "dtype": values.dtype.str,
        "shape": values.shape,
    }
    body = json.dumps(content).encode() + b"\n" + values.tobytes()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _unpack(data: bytes) -> BlockResult:
    digest, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("the checksum does not match")
    head, _, raw = body.partition(b"\n")
    content = cast("dict[str, Any]", json.loads(head))
    values = np.frombuffer(raw, np.dtype(content["dtype"])).reshape(content["shape"])
    return BlockResult(tuple(Outcome(**fields) for fields in content["outcomes"]), values)
