"""Zarr version 3, as far as a dataset uses it: the metadata of its arrays, and reading them by memory map.

The layout is fixed, so the metadata of an array is a pure function of its shape and type: the writer writes
it, and a reader compares it with the only right one.
"""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...schemas.errors import DatasetError
from ...schemas.files import open_regular, read_file
from ...schemas.manifest import SCHEMA_VERSION, Manifest

__all__ = [
    "CHUNK_ROWS",
    "METADATA",
    "OBJECT_ROWS",
    "ZarrArray",
    "array_metadata",
    "check_metadata",
    "group_metadata",
]

METADATA = "zarr.json"
CHUNK_ROWS = 256
OBJECT_ROWS = 8192
"""Images in one shard, and so in one file."""

UNITS = {
    **dict.fromkeys(("x", "y"), "canvas, -1 to 1; x to the right, y down"),
    **dict.fromkeys(("sx", "sy"), "canvas, standard deviation along the Gaussian's own axes"),
    "theta": "radian, from the x axis to the axis of sx, towards the y axis",
    **dict.fromkeys(("r", "g", "b"), "sRGB, nominally 0 to 1"),
    "opacity": "1, from 1/255 to 1",
}


def group_metadata(manifest: Manifest) -> dict[str, Any]:
    """Return the metadata of the group: what the sets are, in which units, and how to render them."""
    attributes = {
        "schema_version": SCHEMA_VERSION,
        "images": manifest.images,
        "gaussians": manifest.gaussians,
        "size": manifest.size,
        "fields": list(manifest.fields),
        "units": UNITS,
        "encoding": manifest.encoding,
        "render": asdict(manifest.render),
        "label_informed": manifest.label_informed,
        "classes": list(manifest.classes),
        "splits": manifest.splits,
        "shards": {shard.name: shard.sha256 for shard in manifest.shards},
    }
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def array_metadata(
    shape: tuple[int, ...], data_type: str, dimensions: tuple[str, ...], fill_value: float | str = 0
) -> dict[str, Any]:
    """Return the metadata of an array whose first axis are the images.

    Args:
        shape: of the array.
        data_type: Zarr's name of the type.
        dimensions: a name per axis.
        fill_value: of the array.
    """
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    one_byte = {"name": "bytes"}
    inner = {"string": {"name": "vlen-utf8"}, "uint8": one_byte}.get(data_type, little)
    sharding = {
        "chunk_shape": [CHUNK_ROWS, *shape[1:]],
        "codecs": [inner],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    grid = {"chunk_shape": [OBJECT_ROWS, *shape[1:]]}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": grid},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill_value,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": list(dimensions),
        "attributes": {},
    }


@dataclass(slots=True)
class ZarrArray:
    """An array of plain numbers, read by memory map; its files are opened when they are first needed.

    `rows` is the number of images, `row_shape` that of one, `dtype` little-endian.
    """

    folder: Path
    rows: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    _objects: dict[int, npt.NDArray[Any]]

    @classmethod
    def open(cls, folder: Path, expected: dict[str, Any]) -> ZarrArray:
        """Open the array whose metadata is `expected`.

        Raises:
            DatasetError: it is missing, damaged, or another one.
        """
        check_metadata(folder / METADATA, expected)
        rows, *row_shape = expected["shape"]
        dtype = np.dtype(expected["data_type"]).newbyteorder("<")
        return cls(folder, rows, tuple(row_shape), dtype, {})

    def take(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return rows as a copy `[n, ...]`; the indices are from 0 to below `rows`.

        Raises:
            DatasetError: a file is missing or damaged.
        """
        result = np.empty((len(indices), *self.row_shape), self.dtype)
        numbers = indices // OBJECT_ROWS
        for number in np.unique(numbers).tolist():
            here = np.flatnonzero(numbers == number)
            result[here] = self._object(number)[indices[here] % OBJECT_ROWS]
        return result

    def _object(self, number: int) -> npt.NDArray[Any]:
        """Return the rows of one file, `[rows, ...]`, as a read-only view."""
        if number not in self._objects:
            self._objects[number] = self._map(number)
        return self._objects[number]

    def _map(self, number: int) -> npt.NDArray[Any]:
        path = self.folder.joinpath("c", str(number), *("0" for _ in self.row_shape))
        chunks = -(-min(OBJECT_ROWS, self.rows - number * OBJECT_ROWS) // CHUNK_ROWS)
        chunk_bytes = CHUNK_ROWS * int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize
        index = _shard_index(chunks, chunk_bytes)
        length = chunks * chunk_bytes + len(index) + 4  # a checksum ends the index
        with open_regular(path) as file:
            found = os.fstat(file.fileno()).st_size
            if found != length:
                raise DatasetError(f"{path} has {found} bytes where {length} are right: fetch it again")
            try:
                memory = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)
            except OSError as error:
                raise DatasetError(f"{path} cannot be mapped into memory: {error}") from error
        if memory[length - 4 - len(index) : length - 4] != index:
            raise DatasetError(f"{path} is damaged (its chunks do not lie in order): fetch it again")
        values = np.frombuffer(memory, self.dtype, chunks * chunk_bytes // self.dtype.itemsize)
        return values.reshape(chunks * CHUNK_ROWS, *self.row_shape)


def _shard_index(chunks: int, chunk_bytes: int) -> bytes:
    """Return the index of a shard whose first `chunks` chunks lie in order, without its checksum."""
    index = np.full((OBJECT_ROWS // CHUNK_ROWS, 2), np.iinfo(np.uint64).max, "<u8")
    index[:chunks, 0] = np.arange(chunks) * chunk_bytes
    index[:chunks, 1] = chunk_bytes
    return index.tobytes()


def check_metadata(path: Path, expected: dict[str, Any]) -> None:
    """Check that a `zarr.json` holds what is expected; it may hold more, also among the attributes.

    Raises:
        DatasetError: it is missing, damaged, or another dataset's.
    """
    try:
        found = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: is not valid JSON ({type(error).__name__})") from error
    if not isinstance(found, dict) or not isinstance(found.get("attributes"), dict):
        raise DatasetError(f"{path}: is not the metadata of a Zarr version 3 node")
    for wanted, there in ((expected, found), (expected["attributes"], found["attributes"])):
        for name, value in wanted.items():
            if name != "attributes" and there.get(name) != value:
                raise DatasetError(f"{path}: its {name} is not that of this dataset: convert it again")
