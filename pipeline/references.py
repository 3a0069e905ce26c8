"""References: what a decoding process is told in order to read an image's bytes by itself.

A reference is a path, or names a part of a file. The processes import this module, so it stays light.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from .decode import DecodeError, open_image, read_image

__all__ = ["FilePart", "ParquetCell", "Reference", "read_reference"]


@dataclass(frozen=True, slots=True)
class FilePart:
    """`length` bytes of a file from `offset` on."""

    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class ParquetCell:
    """The image in one row of a row group of a Parquet file."""

    path: str
    row_group: int
    row: int


Reference: TypeAlias = str | Path | FilePart | ParquetCell
"""A path, or a part of a file."""


def read_reference(reference: Reference) -> bytes:
    """Read the bytes of an image.

    Raises:
        DecodeError: They cannot be read, or are not there any more.
    """
    if isinstance(reference, (str, Path)):
        return read_image(reference)
    if isinstance(reference, FilePart):
        return _read_part(reference)
    from .parquet_cells import read_cell  # pyarrow: only for those who need it

    return read_cell(reference)


def _read_part(part: FilePart) -> bytes:
    with open_image(part.path) as file, io.BufferedReader(file) as reader:
        if part.offset + part.length > os.fstat(file.fileno()).st_size:  # before so much is allocated
            raise DecodeError("the file that holds it is shorter than it was")
        reader.seek(part.offset)
        return reader.read(part.length)
