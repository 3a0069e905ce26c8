"""Trying again what failed: forget the failures, keep everything else.

A shard that is done goes back into the journal without its failures, so that its worker fits only those; its
done mark stays until the new commit replaces it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dataset.open_shard import read_rows
from ..schemas.rows import Row, table_to_rows
from ..schemas.shards import ShardReader
from .journal import BlockResult, Journal, Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from ..schemas.encoding import Encoding
    from ..schemas.manifest import DoneMark
    from .plan import BlockPlan, ShardPlan

__all__ = ["forget_failures", "reopen_shard"]


def forget_failures(journal: Journal, shard: ShardPlan) -> None:
    """Drop the failures from the journaled blocks of a shard."""
    for block in shard.blocks():
        known = journal.read(shard.name, block.first, _keys(block))
        if known is not None and any(outcome.error is not None for outcome in known.outcomes):
            journal.write(shard.name, block.first, known.only(lambda outcome: outcome.error is None))


def reopen_shard(
    journal: Journal,
    shard: ShardPlan,
    mark: DoneMark,
    *,
    destination: Path,
    encoding: Encoding,
    num_gaussians: int,
) -> None:
    """Write the blocks of a finished shard into the journal, without its failures.

    Blocks that an interrupted retry has journaled already are left as they are.

    Raises:
        DatasetError: The shard is damaged.
    """
    rows = {row.key: row for row in table_to_rows(read_rows(destination, mark))}
    reader = ShardReader(
        destination / f"{shard.name}.tar",
        mark.tar,
        mark.blocks,
        dtype=encoding.dtype,
        set_shape=(num_gaussians, encoding.columns),
    )
    numbers = {block.first: number for number, block in enumerate(mark.blocks)}
    for block in shard.blocks():
        keys = _keys(block)
        if block.first in numbers and journal.read(shard.name, block.first, keys) is None:
            gaussians, _ = reader.read_block(numbers[block.first])
            outcomes = tuple(_outcome(rows[key]) for key in keys if rows[key].error is None)
            journal.write(shard.name, block.first, BlockResult(outcomes, gaussians))


def _keys(block: BlockPlan) -> list[str]:
    return [entry.key for entry in block.entries]


def _outcome(row: Row) -> Outcome:
    return Outcome(row.key, row.width, row.height, row.psnr, row.error, row.source_sha256)
