"""Reading the bytes of an image by its reference, in a decoding process."""

from __future__ import annotations

import io
import os
from pathlib import Path

from .decode import DecodeError, open_image, read_image
from .references import FilePart, Nameless, Reference

__all__ = ["read_reference"]


def read_reference(reference: Reference) -> bytes:
    """Read the bytes of an image.

    Raises:
        DecodeError: They cannot be read, or are not there any more.
    """
    if isinstance(reference, (str, Path)):
        return read_image(reference)
    if isinstance(reference, Nameless):
        raise DecodeError("its name is not valid UTF-8: rename the file", "name")
    if isinstance(reference, FilePart):
        return _read_part(reference)
    from .sources.parquet_cells import read_cell  # pyarrow: only for those who need it

    return read_cell(reference)


def _read_part(part: FilePart) -> bytes:
    with open_image(part.path) as file, io.BufferedReader(file) as reader:
        if part.offset + part.length > os.fstat(file.fileno()).st_size:  # before so much is allocated
            raise DecodeError("the file that holds it is shorter than it was", "read")
        reader.seek(part.offset)
        return reader.read(part.length)
