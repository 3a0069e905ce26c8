# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false
"""Finished shards: which there are, what became of their images, and the dataset that they make together."""

from __future__ import annotations

import contextlib
import shutil
from itertools import islice
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from ..dataset.card import about_before, dataset_card, name_before
from ..dataset.class_name_lists import class_names_file
from ..dataset.commit import atomic_write, write_manifest
from ..dataset.open_shard import read_rows
from ..dataset.reader import open_shards
from ..fitting.config import FIT_VERSION
from ..schemas.checksums import CLASS_NAMES_NAME, ZARR_NAME
from ..schemas.errors import DatasetError
from ..schemas.files import check_file
from ..schemas.manifest import (
    MANIFEST_NAME,
    DoneMark,
    FitInfo,
    Manifest,
    build_manifest,
    read_done_mark,
)
from .place.destination import README
from .progress import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from ..dataset.reader import Dataset
    from .config import EncodeConfig
    from .plan import ShardPlan

__all__ = ["complete", "done_mark", "first_failures", "manifest_of", "tally_of", "tally_of_rows"]

_FAILURES_SHOWN = 5


def done_mark(destination: Path, shard: ShardPlan) -> DoneMark | None:
    """Return the done mark of a shard, None where it is not done or its files are not all there any more."""
    with contextlib.suppress(DatasetError):
        mark = read_done_mark(destination, shard.name)
        for name, info in mark.files.items():
            check_file(destination / name, info)
        return mark
    return None


def tally_of(destination: Path, mark: DoneMark) -> Tally:
    """Sum up what became of the images of a finished shard.

    Raises:
        DatasetError: Its rows are damaged.
    """
    return tally_of_rows(mark, read_rows(destination, mark))


def tally_of_rows(mark: DoneMark, rows: pa.Table) -> Tally:
    """Sum up what became of the images of a finished shard, given its rows."""
    psnr_sum: float | None = pc.sum(rows["psnr"]).as_py()
    return Tally(mark.images, mark.failed, psnr_sum or 0.0, fresh=False)


def complete(
    config: EncodeConfig, classes: Sequence[str], marks: Sequence[DoneMark]
) -> tuple[Manifest, tuple[tuple[str, str], ...]]:
    """Write the card and the manifest, both pure functions of the finished shards.

    Returns:
        The manifest, and the first few failures as (source, reason).

    Raises:
        DatasetError: A shard is damaged.
        OSError: The destination cannot be written.
    """
    columns = ["source", "status", "error", "psnr"]
    tables = [read_rows(config.destination, mark).select(columns) for mark in marks]
    manifest = manifest_of(config, classes, marks, tables, name_before(config.destination))
    dataset = open_shards(config.destination, manifest)
    names = class_names_file(config.class_names, classes)
    if names is not None:
        atomic_write(config.destination / CLASS_NAMES_NAME, names)
    if not (config.destination / README).exists() or not (config.destination / MANIFEST_NAME).exists():
        atomic_write(
            config.destination / README, dataset_card(dataset, about_before(config.destination)).encode()
        )
    _convert(config, dataset)
    write_manifest(config.destination, manifest)
    return manifest, first_failures(tables)


def manifest_of(
    config: EncodeConfig,
    classes: Sequence[str],
    marks: Sequence[DoneMark],
    tables: Sequence[pa.Table],
    name: str | None = None,
) -> Manifest:
    """Return the manifest of finished shards, given their done marks and rows."""
    fit = config.fit
    return build_manifest(
        gaussians=fit.num_gaussians,
        size=fit.size,
        encoding=config.encoding,
        fit=FitInfo(fit.preset, fit.cost, fit.seed, config.crop, FIT_VERSION),
        classes=classes,
        marks=marks,
        tables=tables,
        name=name,
    )


def first_failures(tables: Sequence[pa.Table]) -> tuple[tuple[str, str], ...]:
    """Return the first few failures in the rows of shards as (source, reason)."""
    return tuple(islice(_failures(tables), _FAILURES_SHOWN))


def _convert(config: EncodeConfig, dataset: Dataset) -> None:
    """Bring `gaussians.zarr` to what the shards hold now; one that nobody asked for goes once it is not."""
    folder = config.destination / ZARR_NAME
    if config.format != "zarr" and not folder.exists():
        return
    from ..dataset.zarr.writer import convert_to_zarr, is_current  # takes half a second, and is seldom needed

    if is_current(dataset, config.destination):
        return
    if config.format == "zarr":
        convert_to_zarr(dataset, config.destination)
    else:
        shutil.rmtree(folder)


def _failures(tables: Sequence[pa.Table]) -> Iterator[tuple[str, str]]:
    for table in tables:
        failed = table.filter(pc.equal(table["status"], "failed"))
        yield from zip(failed["source"].to_pylist(), failed["error"].to_pylist(), strict=True)
