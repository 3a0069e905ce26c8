"""Looking at sets before anything is learned from them: checksums of files, ranges of values."""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ...dataset.zarr.sets import is_zarr_only
from ...schemas.checksums import ZARR_NAME, hash_file, read_checksums
from ...schemas.cores import usable_cores
from ...schemas.encoding import decode
from ...schemas.errors import DatasetError
from ...schemas.gaussians import check_gaussians

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ...dataset.open_shard import Shard
    from ...dataset.reader import Dataset

__all__ = ["check_sets"]


def check_sets(*parts: Dataset, rank: int = 0, world_size: int = 1) -> float:
    """Read all files of sets that datasets, or parts of them, use, each once, and check them.

    Each rank of several looks at its own share of the shards.

    Returns:
        Seconds that it took.

    Raises:
        DatasetError: A file is not what its checksum says, or a set holds a value that no set may hold; the
            sentence names the file, and the key.
    """
    began = time.perf_counter()
    used = {
        part.path / shard.mark.name: (part, shard)
        for part in parts
        for shard, places in part.by_shard()
        if (places >= 0).any()
    }
    mine = list(used.values())[rank::world_size]
    files = sorted({file for part, shard in mine for file in _files(part, shard)})
    with ThreadPoolExecutor(max(1, usable_cores())) as pool:
        hashed = pool.map(hash_file, [path for path, _ in files])
        for (path, sha256), found in zip(files, hashed, strict=True):
            if found != sha256:
                raise DatasetError(
                    f"{path} is damaged, or not what it was (its SHA-256 is not the recorded one): "
                    "fetch it again; gvit verify --deep says more"
                )
        list(pool.map(_check_ranges, *zip(*mine, strict=True)) if mine else ())
    return time.perf_counter() - began


def _files(dataset: Dataset, shard: Shard) -> Iterator[tuple[Path, str]]:
    """Yield the files that hold a shard's sets, each with the SHA-256 that it should have."""
    if not is_zarr_only(dataset.path, dataset.manifest):
        yield dataset.path / f"{shard.mark.name}.tar", shard.mark.tar.sha256
        return
    for name, sha256 in read_checksums(dataset.path).items():  # arrays are shared by all shards
        if name.startswith(ZARR_NAME):
            yield dataset.path / name, sha256


def _check_ranges(dataset: Dataset, shard: Shard) -> None:
    manifest, start = dataset.manifest, 0
    for number, block in enumerate(shard.mark.blocks):
        stored, _ = shard.reader.read_block(number)
        sets = decode(stored, manifest.encoding)
        try:
            check_gaussians(sets, manifest.size)
        except DatasetError as error:
            key, why = _first_fault(shard, start, sets, manifest.size)
            name = shard.mark.name
            raise DatasetError(
                f"{dataset.path} cannot be trained on: in the set of {key} in {name}, {why}"
            ) from error
        start += block.rows


def _first_fault(shard: Shard, start: int, sets: npt.NDArray[np.float32], size: int) -> tuple[str, str]:
    """Return the key of the first set that is wrong, and what is wrong with it."""
    keys: list[str] = shard.table.filter(shard.table["row"].is_valid())["key"].to_pylist()
    for row, one in enumerate(sets, start):
        try:
            check_gaussians(one, size)
        except DatasetError as error:
            return keys[row], str(error)
    raise AssertionError("a block is wrong where none of its sets is")
