"""References: what a decoding process is told in order to read an image's bytes by itself.

A reference is a path, or names a part of a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

__all__ = ["FilePart", "Nameless", "ParquetCell", "Reference", "path_of"]


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


@dataclass(frozen=True, slots=True)
class Nameless:
    """A file whose name is no text, so that no row could say where it is."""


Reference: TypeAlias = str | Path | FilePart | ParquetCell | Nameless
"""A path, or a part of a file."""


def path_of(reference: Reference) -> str | Path:
    """Return the file that a reference names, or a part of; of one without a name nothing."""
    if isinstance(reference, Nameless):
        return ""
    return reference if isinstance(reference, str | Path) else reference.path
