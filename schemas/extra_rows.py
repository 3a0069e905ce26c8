"""What is known of the images of a shard beyond their rows: `shard-NNNNNN.extra.parquet`."""
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["extra_parquet"]


def extra_parquet(
    keys: Sequence[str],
    values: Sequence[Mapping[str, str | int | None]],
    columns: Mapping[str, type[str] | type[int]],
) -> bytes:
    """Return a Parquet file with a row for each key, the same bytes for the same rows.

    Args:
        keys: Of the images of a shard, in its order.
        values: Column to value of each of them.
        columns: The columns beside `key`, and whether they are text or numbers.
    """
    schema = pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            *(pa.field(name, pa.string() if kind is str else pa.int64()) for name, kind in columns.items()),
        ]
    )
    rows = [{"key": key, **row} for key, row in zip(keys, values, strict=True)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink, compression="zstd", store_schema=False)
    return sink.getvalue().to_pybytes()
