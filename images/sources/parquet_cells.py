"""Reading one image out of a Parquet file, in a decoding process.

A row group is the smallest part of a Parquet file that can be read, so the last one stays in memory for the
images that follow; a plan keeps the images of a row group together.
"""
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from ..decode import DecodeError, open_image

if TYPE_CHECKING:
    from ..references import ParquetCell

__all__ = ["image_column", "read_cell"]

_IMAGE_COLUMNS = ("image", "img")
_BYTES = "bytes"
_BUFFER_BYTES = 2**20


def image_column(schema: pa.Schema) -> str | None:
    """Return the column with the bytes of images, as "image.bytes" or "image"; None where none is the one.

    It is called "image" or "img", or is the only one that holds bytes.
    """
    leaves = {field.name: leaf for field in schema if (leaf := _leaf(field)) is not None}
    for name in _IMAGE_COLUMNS:
        if name in leaves:
            return leaves[name]
    return next(iter(leaves.values())) if len(leaves) == 1 else None


def _leaf(field: pa.Field) -> str | None:
    if _is_binary(field.type):
        return field.name
    if pa.types.is_struct(field.type):
        inner = field.type.get_field_index(_BYTES)
        if inner >= 0 and _is_binary(field.type.field(inner).type):
            return f"{field.name}.{_BYTES}"
    return None


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def read_cell(cell: ParquetCell) -> bytes:
    """Return the bytes of the image in one row.

    Raises:
        DecodeError: There are none, or the file is damaged.
    """
    values = _read_images(cell.path, cell.row_group)
    if cell.row >= len(values):
        raise DecodeError("the file that holds it is shorter than it was", "read")
    data: bytes | None = values[cell.row].as_py()
    if data is None:
        raise DecodeError("its row holds no bytes of an image")
    return data


@lru_cache(maxsize=1)
def _read_images(path: str, row_group: int) -> pa.ChunkedArray:
    pa.set_memory_pool(pa.system_memory_pool())  # others reserve more addresses than this process may have
    with open_image(path):  # no pipe, no folder, and a fixed reason where it cannot be read
        pass
    try:
        with pq.ParquetFile(
            path, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        ) as file:
            column = image_column(file.schema_arrow) or ""
            table = file.read_row_group(row_group, columns=[column], use_threads=False)
            (values,) = (table.flatten() if "." in column else table).columns
    except (OSError, pa.ArrowException, IndexError, ValueError) as error:
        raise DecodeError("the Parquet file that holds it is damaged") from error
    return values
