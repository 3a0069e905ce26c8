"""Opening one shard of a dataset: its done mark, its rows, and what reads its sets."""
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from ..schemas.encoding import ENCODINGS
from ..schemas.errors import DatasetError
from ..schemas.files import check_file, read_file
from ..schemas.manifest import MANIFEST_NAME, DoneMark, Manifest, ShardSummary, read_done_mark
from ..schemas.rows import check_names, check_rows, parse_rows
from ..schemas.shards import ShardReader
from .zarr.sets import ZarrSets, ZarrShardReader

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Shard", "open_shard", "open_tar", "parse_shard_rows", "read_rows"]


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard that is open: its done mark, its rows, and what reads its sets."""

    mark: DoneMark
    table: pa.Table
    reader: ShardReader | ZarrShardReader


def read_rows(dst: Path, mark: DoneMark) -> pa.Table:
    """Return the rows of a shard that is done, checked against its done mark.

    Raises:
        DatasetError: the file is missing, damaged, or not what the done mark says.
    """
    path = dst / f"{mark.name}.parquet"
    return parse_shard_rows(read_file(path, mark.parquet), mark, path)


def parse_shard_rows(data: bytes, mark: DoneMark, path: Path | str) -> pa.Table:
    """Return the rows of a shard that is done, from the content of their file.

    Raises:
        DatasetError: naming the file by `path`: they are damaged, or not what the done mark says.
    """
    table = parse_rows(data, path)
    check_rows(table, shard=mark.name, split=mark.split, images=mark.images, failed=mark.failed, path=path)
    return table


def open_shard(
    dst: Path, manifest: Manifest, summary: ShardSummary, sets: ZarrSets | None, first: int
) -> Shard:
    """Open the shard that a manifest lists, its sets from `sets`, `first` of them before it, or its tar file.

    Raises:
        DatasetError: it is missing, damaged, or not the one that the manifest lists.
    """
    mark_path = dst / f"{summary.name}.json"
    if not mark_path.exists():
        raise DatasetError(
            f"{dst} is not complete ({mark_path.name} is missing): "
            "run gvit encode again with the same arguments to finish it"
        )
    mark = read_done_mark(dst, summary.name)
    if mark.summary() != summary:
        raise DatasetError(
            f"{mark_path} is not the one that {MANIFEST_NAME} lists: "
            "run gvit encode again with the same arguments to finish it"
        )
    table = read_rows(dst, mark)
    check_names(table, f"{dst / summary.name}.parquet")
    if table.num_rows and pc.max(table["label"]).as_py() >= len(manifest.classes):
        raise DatasetError(
            f"{dst / summary.name}.parquet: has a label beyond the {len(manifest.classes)} classes"
        )
    if sets is not None:
        return Shard(mark, table, ZarrShardReader(sets, first, mark.blocks))
    reader = open_tar(dst, manifest, mark)
    check_file(reader.path, mark.tar)
    reader.check_extents()
    return Shard(mark, table, reader)


def open_tar(dst: Path, manifest: Manifest, mark: DoneMark) -> ShardReader:
    """Prepare to read the tar file of a shard; nothing of it is looked at yet."""
    tar, encoding = dst / f"{mark.name}.tar", ENCODINGS[manifest.encoding]
    set_shape = (manifest.gaussians, encoding.columns)
    return ShardReader(tar, mark.tar, mark.blocks, dtype=encoding.dtype, set_shape=set_shape)
