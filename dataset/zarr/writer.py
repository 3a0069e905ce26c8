"""Writing `gaussians.zarr`: a pure conversion of a dataset whose shards are committed.

It is made under another name and appears in one renaming, so a kill leaves either the old one or the new one.
"""
# pyright: reportUnknownParameterType=false, reportIndexIssue=false, reportOptionalMemberAccess=false

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import zarr

from ...schemas.checksums import PRIVATE, ZARR_NAME
from ...schemas.errors import DatasetError
from ...schemas.files import refuse_links
from ..commit import flush_file, flush_folder
from .arrays import METADATA, OBJECT_ROWS, group_metadata
from .sets import arrays_of, open_zarr

if TYPE_CHECKING:
    from ..reader import Dataset

__all__ = ["convert_to_zarr", "is_current"]


def is_current(dataset: Dataset, dst: Path) -> bool:
    """Tell whether `dst` holds the conversion of this very dataset."""
    try:
        open_zarr(dst, dataset.manifest)
    except DatasetError:
        return False
    return True


def convert_to_zarr(dataset: Dataset, dst: Path) -> None:
    """Write the sets of a dataset as `dst/gaussians.zarr`; the same bytes for the same dataset.

    Args:
        dataset: any, but not a split of one.
        dst: a folder that exists; a `gaussians.zarr` in it is replaced.

    Raises:
        DatasetError: the dataset is damaged.
        OSError: it could not be written.
    """
    refuse_links(dst, [ZARR_NAME])
    made = dst / PRIVATE / f"{ZARR_NAME}.tmp"
    shutil.rmtree(made, ignore_errors=True)
    _write(dataset, made)
    _flush(made)
    final = dst / ZARR_NAME
    if final.exists():
        shutil.rmtree(final)
    made.rename(final)
    flush_folder(dst)


def _write(dataset: Dataset, folder: Path) -> None:
    keys = [key.encode() for key in dataset.keys]
    arrays = arrays_of(dataset.manifest, max(map(len, keys), default=0))
    for name, metadata in (("", group_metadata(dataset.manifest)), *arrays.items()):
        (folder / name).mkdir(parents=True)
        (folder / name / METADATA).write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
    # Codecs are zarr's; the metadata is ours, so that its bytes do not depend on zarr's version.
    with zarr.config.set({"array.write_empty_chunks": True}):
        columns = {name: zarr.open_array(folder / name, mode="r+") for name in arrays}
        for part in _parts(len(dataset)):
            columns["gaussians"][part] = dataset.stored(part)
            columns["label"][part] = dataset.labels[part]
            columns["key"][part] = np.array(dataset.keys[part], dtype=np.dtypes.StringDType())
            columns["key_utf8"][part] = _padded(keys[part], columns["key_utf8"].shape[1])


def _parts(count: int) -> Iterator[slice]:
    """Cut the images into those of one file each, so that each file is written once."""
    return (slice(begin, min(begin + OBJECT_ROWS, count)) for begin in range(0, count, OBJECT_ROWS))


def _padded(keys: list[bytes], length: int) -> npt.NDArray[np.uint8]:
    """Return keys as uint8 `[n, length]`, filled up with zeros."""
    return np.frombuffer(b"".join(key.ljust(length, b"\0") for key in keys), np.uint8).reshape(-1, length)


def _flush(folder: Path) -> None:
    """Put a folder and all that is in it on the disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            flush_file(path)
        else:
            flush_folder(path)
    flush_folder(folder)
