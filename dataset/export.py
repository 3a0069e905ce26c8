"""Writing a dataset, or a part of it, in another form: as tar files, as Zarr, or a member per image."""
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..schemas.checksums import CARD_NAME, CLASS_NAMES_NAME, PRIVATE
from ..schemas.encoding import ENCODINGS, decode
from ..schemas.errors import GvitError
from ..schemas.files import inside
from ..schemas.rows import Row, rows_to_table, table_to_rows
from ..schemas.shards import BlockArrays
from .class_names import dump_class_names, read_class_names
from .commit import commit_shard, ignore, write_manifest
from .reader import Dataset, open_shards
from .selection import require_sets

if TYPE_CHECKING:
    from ..schemas.manifest import Manifest
    from .open_shard import Shard
    from .reader import Dataset

__all__ = [
    "Change",
    "Written",
    "appearing",
    "check_unused",
    "export_samples",
    "export_webdataset",
    "export_zarr",
    "write_shards",
]

SAMPLES_PER_TAR = 4096

Written = Callable[[int], None]


def check_unused(out: Path) -> None:
    """Check that a folder can appear.

    Raises:
        GvitError: `out` is there already and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise GvitError(f"{out} is there already and is not an empty folder; choose a new one")


@contextmanager
def appearing(out: Path) -> Generator[Path]:
    """Make a folder that appears at `out` in full when the body ends, and not at all when it fails.

    What a killed export left behind is removed by the next one to the same place.

    Raises:
        GvitError: `out` is there already and is not an empty folder, or cannot be made.
    """
    check_unused(out)
    made = out.with_name(f".{out.name}.export.tmp")
    shutil.rmtree(made, ignore_errors=True)
    try:
        made.mkdir(parents=True)
        yield made
        if out.exists():
            out.rmdir()
        made.rename(out)
    except OSError as error:
        why = error.strerror or error
        raise GvitError(f"{out} cannot be written ({why}); free some space, or choose another") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def export_webdataset(
    dataset: Dataset, out: Path, card: Callable[[Dataset], str], *, written: Written = ignore
) -> int:
    """Write a dataset, or a part of one, as a dataset of tar files, and return the number of sets.

    A whole dataset comes out byte by byte as it was encoded, whichever form it is read from. Of a part, rows
    of failed inputs are left out, classes and the names of shards and blocks stay.

    Args:
        dataset: What to write.
        out: A folder that does not exist yet, or is empty.
        card: Writes the dataset card, given the new dataset.
        written: Told how many sets more are written, now and then.

    Raises:
        GvitError: `out` cannot be written.
        DatasetError: The dataset is damaged.
    """
    with appearing(out) as folder:
        manifest = write_shards(dataset, folder, written=written)
        _finish(dataset, folder, manifest, card)
    return manifest.images


def export_zarr(
    dataset: Dataset, out: Path, card: Callable[[Dataset], str], *, written: Written = ignore
) -> int:
    """Write a dataset, or a part of one, as a dataset with its sets in `gaussians.zarr` alone.

    Arguments, result and errors as of `export_webdataset`. The tar files are written first and removed
    at the end, so that twice the space is needed.
    """
    from .zarr.writer import convert_to_zarr  # takes half a second to import

    with appearing(out) as folder:
        manifest = write_shards(dataset, folder, written=written)
        convert_to_zarr(open_shards(folder, manifest), folder)
        for shard in manifest.shards:
            (folder / f"{shard.name}.tar").unlink()
        (folder / PRIVATE).rmdir()
        _finish(dataset, folder, manifest, card)
    return manifest.images


def _finish(dataset: Dataset, folder: Path, manifest: Manifest, card: Callable[[Dataset], str]) -> None:
    names = read_class_names(dataset.path)
    if names:
        (folder / CLASS_NAMES_NAME).write_bytes(dump_class_names(names))
    (folder / CARD_NAME).write_text(card(open_shards(folder, manifest)), encoding="utf-8")
    write_manifest(folder, manifest)


# ---------------------------------------------------------------- a member per image


def export_samples(dataset: Dataset, out: Path, *, written: Written = ignore) -> int:
    """Write a dataset, or a part of one, as a classic WebDataset, members per image; return their number.

    The files are `<split>-NNNNNN.tar`; an image is three members: `<key>.gaussians.npy` `[N, 9]` (of the
    storage type where that is a float, else float32), `<key>.cls`, the label (left out without classes), and
    `<key>.json`, its row. Arguments and errors as of `export_webdataset`; there must be any sets.
    """
    require_sets(dataset, len(dataset))
    rows = table_to_rows(dataset.set_rows)
    with appearing(out) as folder:
        for split in sorted({row.split for row in rows}):
            mine = [i for i, row in enumerate(rows) if row.split == split]
            for number, begin in enumerate(range(0, len(mine), SAMPLES_PER_TAR)):
                part = mine[begin : begin + SAMPLES_PER_TAR]
                path = inside(folder, f"{split}-{number:06d}.tar")
                with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
                    _write_samples(tar, dataset, part, [rows[i] for i in part])
                written(len(part))
    return len(rows)


def _write_samples(tar: tarfile.TarFile, dataset: Dataset, indices: list[int], rows: list[Row]) -> None:
    stored = dataset.stored(indices)
    floats = ENCODINGS[dataset.manifest.encoding].dtype.kind == "f"
    sets = stored if floats else decode(stored, dataset.manifest.encoding)
    for row, one in zip(rows, sets, strict=True):
        array = io.BytesIO()
        np.save(array, one, allow_pickle=False)
        _add(tar, f"{row.key}.gaussians.npy", array.getvalue())
        if row.label >= 0:
            _add(tar, f"{row.key}.cls", str(row.label).encode())
        _add(tar, f"{row.key}.json", json.dumps(_facts(row), ensure_ascii=False).encode())


def _facts(row: Row) -> dict[str, Any]:
    names = ("key", "split", "label", "source", "width", "height", "psnr")
    return {**{name: getattr(row, name) for name in names}, "class": row.class_name}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # mode 0644; time, user and group 0: the same bytes every time
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


Sets = npt.NDArray[Any]
Change = Callable[[Sets, npt.NDArray[np.int64], Sequence[Row]], tuple[Sets, Sequence[Row]]]
"""(stored sets `[n, N, columns]`, their indices `[n]`, their rows) -> what to write in their place."""


def write_shards(
    dataset: Dataset, folder: Path, *, change: Change | None = None, written: Written = ignore
) -> Manifest:
    """Write the shards of a dataset into a folder, and return the manifest of what was written.

    Shards and blocks keep their names; those of which nothing is in the part are left out. Rows of inputs
    that failed stay where the dataset is whole and its sets are not changed.

    Args:
        dataset: A dataset or a part of it.
        folder: Where to.
        change: Of the sets of each block, before they are written.
        written: As of `export_webdataset`.

    Raises:
        DatasetError: The dataset is damaged.
        OSError: A file could not be written.
    """
    if not dataset.is_whole:
        require_sets(dataset, len(dataset))
    marks: list[Any] = []
    tables: list[Any] = []
    for shard, places in dataset.by_shard():
        as_it_was = dataset.is_whole and change is None
        rows = table_to_rows(shard.table) if as_it_was else list[Row]()
        if rows or (places >= 0).any():
            mark = commit_shard(
                folder,
                shard.mark.name,
                _blocks_of(shard, places, change, None if as_it_was else rows),
                rows,
                split=shard.mark.split,
                attempt="rewrite",
                still_ours=lambda: True,
            )
            marks.append(mark)
            tables.append(rows_to_table(rows))
            written(mark.images)
    return dataset.manifest.of_shards(marks, tables)


def _blocks_of(
    shard: Shard, places: npt.NDArray[np.int64], change: Change | None, kept: list[Row] | None
) -> Iterator[BlockArrays]:
    """Yield what is in the part of each block; the rows of that are added to `kept`, numbered anew."""
    stored_rows = [row for row in table_to_rows(shard.table) if row.row is not None]
    start = 0
    for number, block in enumerate(shard.mark.blocks):
        here = places[start : start + block.rows]
        wanted = here >= 0
        rows: Sequence[Row] = [stored_rows[start + i] for i in np.flatnonzero(wanted)]
        start += block.rows
        if wanted.any():
            stored, labels = shard.reader.read_block(number)
            sets = stored[wanted]
            if change is not None:
                sets, rows = change(sets, here[wanted], rows)
            if kept is not None:
                kept += [replace(row, row=number) for number, row in enumerate(rows, len(kept))]
            yield BlockArrays(block.first, sets, labels[wanted])
