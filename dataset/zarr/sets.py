"""The sets of a dataset in `gaussians.zarr`: read like those in the tar files."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...schemas.checksums import ZARR_NAME
from ...schemas.encoding import ENCODINGS
from ...schemas.errors import DatasetError
from ...schemas.files import read_file
from .arrays import (
    CHUNK_ROWS,
    METADATA,
    OBJECT_ROWS,
    ZarrArray,
    array_metadata,
    check_metadata,
    group_metadata,
)

if TYPE_CHECKING:
    from ...schemas.manifest import Block, Manifest

__all__ = ["ZarrSets", "ZarrShardReader", "arrays_of", "check_keys", "is_zarr_only", "open_zarr"]


def arrays_of(manifest: Manifest, key_bytes: int = 0) -> dict[str, dict[str, Any]]:
    """Return the metadata of every array by name; `key_bytes` is the length of the longest key in UTF-8."""
    n, encoding = manifest.images, ENCODINGS[manifest.encoding]
    shape = (n, manifest.gaussians, encoding.columns)
    return {
        "gaussians": array_metadata(shape, encoding.dtype.name, ("image", "gaussian", "field")),
        "label": array_metadata((n,), "int64", ("image",)),
        "key": array_metadata((n,), "string", ("image",), ""),
        "key_utf8": array_metadata((n, max(key_bytes, 1)), "uint8", ("image", "byte")),
    }


def is_zarr_only(dst: Path, manifest: Manifest) -> bool:
    """Tell whether a tar file is missing, and the sets are in `gaussians.zarr`."""
    if not (dst / ZARR_NAME).is_dir():
        return False
    return not all((dst / f"{shard.name}.tar").exists() for shard in manifest.shards)


@dataclass(frozen=True, slots=True)
class ZarrSets:
    """The arrays `gaussians [n, N, columns]` and `label [n]` of a dataset."""

    gaussians: ZarrArray
    labels: ZarrArray

    def __getitem__(self, starts: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return sets `[n, N * columns]`, given the element at which each begins in the array of all sets."""
        elements = int(np.prod(self.gaussians.row_shape))
        return self.gaussians.take(starts // elements).reshape(len(starts), elements)


def open_zarr(dst: Path, manifest: Manifest) -> ZarrSets:
    """Open `gaussians.zarr` of the dataset in a folder.

    Raises:
        DatasetError: it is missing, damaged, or not the conversion of this dataset.
    """
    folder = dst / ZARR_NAME
    check_metadata(folder / METADATA, group_metadata(manifest))
    arrays = arrays_of(manifest)
    return ZarrSets(*(ZarrArray.open(folder / name, arrays[name]) for name in ("gaussians", "label")))


class ZarrShardReader:
    """Reads the sets of one shard out of the arrays of its dataset; stands in for `ShardReader`."""

    def __init__(self, sets: ZarrSets, first: int, blocks: tuple[Block, ...]) -> None:
        """Prepare to read `blocks`, the first of whose sets is number `first` of the dataset."""
        self.path = sets.gaussians.folder.parent
        self.windows = sets
        rows = np.array([block.rows for block in blocks], dtype=np.int64)
        self._rows = rows.tolist()
        self._starts = first + np.cumsum(rows) - rows
        self.block_elements = self._starts * int(np.prod(sets.gaussians.row_shape))

    def check_block(self, number: int) -> None:
        """Nothing to check: the index of each file is checked when it is opened."""

    def read_block(self, number: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Return a block's stored sets `[n, N, columns]` and labels int64 `[n]`: copies.

        Raises:
            DatasetError: a file is missing or damaged.
        """
        indices = self._starts[number] + np.arange(self._rows[number])
        return self.windows.gaussians.take(indices), self.windows.labels.take(indices)


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
