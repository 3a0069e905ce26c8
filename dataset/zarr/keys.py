"""Checking the keys in `gaussians.zarr`, which are there twice: as strings, and as bytes of one length."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from ...schemas.checksums import ZARR_NAME
from ...schemas.errors import DatasetError
from ...schemas.files import read_file
from .arrays import CHUNK_ROWS, METADATA, OBJECT_ROWS, ZarrArray, check_metadata
from .sets import arrays_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ...schemas.manifest import Manifest

__all__ = ["check_keys"]

_NO_CHUNK = struct.pack("<QQ", 2**64 - 1, 2**64 - 1)


def check_keys(dst: Path, manifest: Manifest, keys: Sequence[bytes]) -> None:
    """Check that the arrays `key` and `key_utf8` hold these keys, in UTF-8, one for each image.

    Raises:
        DatasetError: they do not, or are missing or damaged.
    """
    folder = dst / ZARR_NAME
    arrays = arrays_of(manifest, max(map(len, keys), default=0))
    found = ZarrArray.open(folder / "key_utf8", arrays["key_utf8"]).take(np.arange(len(keys)))
    for number, key in enumerate(keys):
        if found[number].tobytes().rstrip(b"\0") != key:
            raise DatasetError(f"the key of its image {number} is not that of the rows, {key.decode()}")
    check_metadata(folder / "key" / METADATA, arrays["key"])
    for number, first in enumerate(range(0, len(keys), OBJECT_ROWS)):
        path = folder / "key" / "c" / str(number)
        right = _string_shard(keys[first : first + OBJECT_ROWS])
        data = read_file(path)
        if data[: len(right)] != right or len(data) != len(right) + 4:  # a checksum ends it
            raise DatasetError(f"key/c/{number} does not hold the keys of the rows")


def _string_shard(keys: Sequence[bytes]) -> bytes:
    """Return the only right content of one file of strings, but for the checksum at its end.

    A chunk is the number of its strings, and each string after its length; the last one is filled up with
    empty strings. The index of all chunks comes last.
    """
    data, index = b"", b""
    for first in range(0, len(keys), CHUNK_ROWS):
        chunk = [*keys[first : first + CHUNK_ROWS], *(b"" for _ in range(CHUNK_ROWS))][:CHUNK_ROWS]
        encoded = struct.pack("<I", CHUNK_ROWS) + b"".join(struct.pack("<I", len(key)) + key for key in chunk)
        index += struct.pack("<QQ", len(data), len(encoded))
        data += encoded
    absent = OBJECT_ROWS // CHUNK_ROWS - len(index) // len(_NO_CHUNK)
    return data + index + absent * _NO_CHUNK
