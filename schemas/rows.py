"""A row per input, in Parquet: what became of it, and where its set is."""
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .documents import KEY
from .errors import DatasetError, GvitError
from .parquet_pages import page_bytes

__all__ = [
    "MAX_PSNR",
    "ROW_SCHEMA",
    "Row",
    "check_names",
    "check_rows",
    "parquet_bytes",
    "parse_rows",
    "rows_to_table",
    "table_to_rows",
    "without_names",
]

ROW_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("class", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("psnr", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int32()),
        pa.field("source_sha256", pa.string()),
    ]
)
"""Columns of ``shard-NNNNNN.parquet``, in this order."""

MAX_PSNR = 100.0
"""A rendering without any error has infinite PSNR; it is stored as 100 dB so that means stay finite."""

MAX_EXPANSION = 256  # how many times its own size a Parquet file may claim to decompress to
EXPANSION_FLOOR = 1 << 20  # ... which no small file needs to be asked
BATCH_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one input.

    Attributes:
        key: unique in the dataset, lower case, no dots.
        split: of the shard.
        label: index in the manifest's class list, -1 without classes.
        class_name: column ``class``; None without classes.
        source: path relative to the source folder, posix.
        width: true width in pixels after the EXIF turn; None where the input could not be read.
        height: the same for the height.
        psnr: of the stored set in dB; None where failed.
        status: ``ok`` or ``failed``.
        error: the reason where failed, else None.
        shard: name of the shard.
        row: number of the stored set within the shard; None where failed.
        source_sha256: of the input's bytes, hexadecimal; None where it could not be read.
    """

    key: str
    split: str
    label: int
    class_name: str | None
    source: str
    width: int | None
    height: int | None
    psnr: float | None
    status: str
    error: str | None
    shard: str
    row: int | None
    source_sha256: str | None


def rows_to_table(rows: Sequence[Row]) -> pa.Table:
    """Return the rows as a table of ``ROW_SCHEMA``; an infinite PSNR becomes ``MAX_PSNR``.

    Raises:
        GvitError: a text that is no valid Unicode, as file names can be.
    """
    columns = list(zip(*(astuple(row) for row in rows), strict=True)) or [()] * len(ROW_SCHEMA)
    psnr = ROW_SCHEMA.get_field_index("psnr")
    columns[psnr] = tuple(None if value is None else min(float(value), MAX_PSNR) for value in columns[psnr])
    try:
        arrays = [pa.array(values, field.type) for values, field in zip(columns, ROW_SCHEMA, strict=True)]
    except UnicodeEncodeError as error:
        raise GvitError(f"{error.object!r} is not valid Unicode: rename the file or folder") from error
    return pa.Table.from_arrays(arrays, schema=ROW_SCHEMA)


def table_to_rows(table: pa.Table) -> list[Row]:
    """Return a table of ``ROW_SCHEMA`` as rows."""
    return [Row(*values) for values in zip(*(column.to_pylist() for column in table.columns), strict=True)]


def without_names(table: pa.Table) -> pa.Table:
    """Return a table of ``ROW_SCHEMA`` without what tells one image from another, so that it takes little."""
    for name, blank in _blanks(table.num_rows).items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), blank)
    return table


@lru_cache(maxsize=4)  # shards of one size share what says nothing
def _blanks(count: int) -> dict[str, pa.Array]:
    empty, nothing = pa.array([""] * count, pa.string()), pa.nulls(count, pa.string())
    number = pa.nulls(count, pa.int32())
    return {
        **dict.fromkeys(("key", "source", "shard"), empty),
        **dict.fromkeys(("class", "source_sha256"), nothing),
        **dict.fromkeys(("width", "height"), number),
    }


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table of ``ROW_SCHEMA`` as a Parquet file, the same bytes for the same rows."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.combine_chunks(),
        sink,
        row_group_size=1 << 20,
        version="2.6",
        data_page_version="1.0",
        use_dictionary=["split", "class", "status", "error", "shard"],
        compression="zstd",
        compression_level=3,
        write_statistics=True,
        store_schema=False,
    )
    return sink.getvalue().to_pybytes()


def parse_rows(data: bytes, path: Path | str) -> pa.Table:
    """Return the table in the bytes of a Parquet file, whatever they hold.

    Raises:
        DatasetError: naming ``path``: not Parquet, damaged, other columns, or a claim to be much larger
            than its bytes can hold.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        claimed = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        if not 0 <= claimed <= EXPANSION_FLOOR + MAX_EXPANSION * len(data):
            raise DatasetError(f"{path}: claims {claimed} bytes of rows in a file of {len(data)} bytes")
        if not file.schema_arrow.equals(ROW_SCHEMA):
            raise DatasetError(f"{path}: has other columns than {', '.join(ROW_SCHEMA.names)}")
        if file.metadata.num_rows > EXPANSION_FLOOR + len(data):
            raise DatasetError(f"{path}: claims {file.metadata.num_rows} rows in {len(data)} bytes")
        if page_bytes(file.metadata, data) > EXPANSION_FLOOR + MAX_EXPANSION * len(data):
            raise DatasetError(f"{path}: has pages that are much larger than its {len(data)} bytes can hold")
        table = _read_within(EXPANSION_FLOOR + MAX_EXPANSION * len(data), data, _kept_once(file), path)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(f"{path}: is no readable Parquet file ({reason})") from error
    return table


def _kept_once(file: pq.ParquetFile) -> list[str]:
    """Return the columns in which a text may stand once for many rows."""
    groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
    columns = (group.column(i) for group in groups for i in range(group.num_columns))
    kept = {column.path_in_schema for column in columns if any("DICT" in e for e in column.encodings)}
    return [field.name for field in ROW_SCHEMA if field.type == pa.string() and field.name in kept]


def _read_within(budget: int, data: bytes, texts: list[str], path: Path | str) -> pa.Table:
    """Read rows batch by batch; what a file holds once for many rows is counted before each has its own."""
    file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts or None)
    batches: list[pa.RecordBatch] = []
    used = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS):
        used += sum(_decoded_bytes(batch[name]) for name in batch.schema.names)
        if used > budget:
            raise DatasetError(f"{path}: its {len(data)} bytes would take more than {budget} bytes to read")
        batches.append(batch.cast(ROW_SCHEMA))
    return pa.Table.from_batches(batches, schema=ROW_SCHEMA)


def _decoded_bytes(column: pa.Array) -> int:
    """Return the bytes of a column of a batch once each row has its own text."""
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return column.nbytes
    lengths = pc.binary_length(column.dictionary)
    return 4 * len(column) + (pc.sum(lengths.take(column.indices)).as_py() or 0)


def check_rows(
    table: pa.Table, *, shard: str, split: str, images: int, failed: int, path: Path | str
) -> None:
    """Check the rows of one shard against its counts.

    Raises:
        DatasetError: naming ``path`` and the first promise that the rows break.
    """
    status, shards, splits, errors, labels = (
        table[name].to_numpy() for name in ("status", "shard", "split", "error", "label")
    )
    ok, bad = status == "ok", status == "failed"
    row, psnr = (table[name].to_numpy().astype(np.float64) for name in ("row", "psnr"))  # NaN where null
    found = (int(ok.sum()), int(bad.sum()), table.num_rows)
    promises = [
        (found == (images, failed, images + failed), f"{images} are ok and {failed} failed"),
        ((shards == shard).all(), f"all are of {shard}"),
        ((splits == split).all(), f"all are of the split {split}"),
        (np.array_equal(row[ok], np.arange(found[0])), "stored sets are numbered in order"),
        (np.isnan(row[bad]).all(), "what failed has no number"),
        (np.isfinite(psnr[ok]).all(), "stored sets have a finite psnr"),
        ((errors[bad] != None).all(), "what failed has a reason"),  # noqa: E711 - of each
        ((labels >= -1).all(), "a label is -1 or more"),
    ]
    for kept, promise in promises:
        if not kept:
            raise DatasetError(f"{path}: the rows break the promise that {promise}: encode the shard again")


def check_names(table: pa.Table, path: Path | str) -> None:
    """Check what may become a path: keys by their grammar, sources that they stay below their folder.

    Raises:
        DatasetError: naming ``path`` and the first that does not.
    """
    import pyarrow.compute as pc  # 0.05 s, which those who only want the schemas need not wait for

    for name, odd in (
        ("key", pc.invert(pc.match_substring_regex(table["key"], f"^(?:{KEY})$"))),
        ("source", pc.match_substring_regex(table["source"], r"^/|(?:^|/)\.\.(?:/|$)|\x00")),
    ):
        wrong = table[name].filter(odd)
        if len(wrong):
            raise DatasetError(f"{path}: {wrong[0].as_py()!r:.80} is no {name}: encode the shard again")
