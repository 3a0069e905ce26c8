"""Writing a dataset, or a part of it, as shards again: the same shards and blocks, holding that part."""
# pyright: reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..schemas.rows import Row, rows_to_table, table_to_rows
from ..schemas.shards import BlockArrays
from .commit import commit_shard

if TYPE_CHECKING:
    from ..schemas.manifest import Manifest
    from .open_shard import Shard
    from .reader import Dataset

__all__ = ["Change", "write_shards"]

Sets = npt.NDArray[Any]
Change = Callable[[Sets, npt.NDArray[np.int64], Sequence[Row]], tuple[Sets, Sequence[Row]]]
"""(stored sets `[n, N, columns]`, their indices `[n]`, their rows) -> what to write in their place."""


def write_shards(
    dataset: Dataset, folder: Path, *, with_failed: bool = False, change: Change | None = None
) -> Manifest:
    """Write the shards of a dataset into a folder, and return the manifest of what was written.

    Shards and blocks keep their names; those of which nothing is in the part are left out.

    Args:
        dataset: A dataset or a part of it.
        folder: Where to.
        with_failed: Keep the rows of inputs that failed; only of a whole dataset.
        change: Of the sets of each block, before they are written.

    Raises:
        DatasetError: The dataset is damaged.
        OSError: A file could not be written.
    """
    marks: list[Any] = []
    tables: list[Any] = []
    for shard, places in dataset.by_shard():
        parts = list(_blocks_of(shard, places, change))
        kept = [row for _, rows in parts for row in rows]
        rows = [replace(row, row=number) for number, row in enumerate(kept)]
        if with_failed:
            rows = table_to_rows(shard.table)
        if rows:
            marks.append(
                commit_shard(
                    folder,
                    shard.mark.name,
                    [block for block, _ in parts],
                    rows,
                    split=shard.mark.split,
                    attempt="rewrite",
                    still_ours=lambda: True,
                )
            )
            tables.append(rows_to_table(rows))
    return dataset.manifest.of_shards(marks, tables)


def _blocks_of(
    shard: Shard, places: npt.NDArray[np.int64], change: Change | None
) -> Iterator[tuple[BlockArrays, Sequence[Row]]]:
    stored_rows = [row for row in table_to_rows(shard.table) if row.row is not None]
    start = 0
    for number, block in enumerate(shard.mark.blocks):
        here = places[start : start + block.rows]
        rows: Sequence[Row] = [
            row for row, i in zip(stored_rows[start:], here.tolist(), strict=False) if i >= 0
        ]
        start += block.rows
        wanted = here >= 0
        if wanted.any():
            stored, labels = shard.reader.read_block(number)
            sets = stored[wanted]
            if change is not None:
                sets, rows = change(sets, here[wanted], rows)
            yield BlockArrays(block.first, sets, labels[wanted]), rows
