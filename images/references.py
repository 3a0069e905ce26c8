"""References: what a decoding process is told in order to read an image's bytes by itself.

A reference is a path, or names a part of a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

__all__ = ["FilePart", "ParquetCell", "Reference"]


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
