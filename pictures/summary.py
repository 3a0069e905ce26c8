"""The summary of a dataset, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ..dataset.card import steps_of
from ..dataset.class_names import read_class_names
from ..schemas.checksums import ZARR_NAME, files_of
from ..schemas.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from ..dataset.reader import Dataset

__all__ = ["print_summary", "stored_bytes", "summarize"]

_CLASSES_NAMED = 3
_REASONS_NAMED = 5
_COLORS = {"srgb": "colours in sRGB", "raw": "raw colours"}


def stored_bytes(dataset: Dataset) -> int:
    """Return the bytes of sets and rows; sets that are there in two formats count once."""
    names = files_of(dataset.path, dataset.manifest)
    rows = [name for name in names if name.endswith(".parquet")]
    sets = [name for name in names if name.endswith(".tar")]
    arrays = [name for name in names if name.startswith(ZARR_NAME)]
    return sum((dataset.path / name).stat().st_size for name in rows + (sets or arrays))


def summarize(dataset: Dataset) -> dict[str, Any]:
    """Return what `gvit info --json` tells: counts, splits by name, and PSNR in dB (null without sets)."""
    manifest = dataset.manifest
    return {
        "images": manifest.images,
        "failed": manifest.failed,
        "gaussians": manifest.gaussians,
        "size": manifest.size,
        "format": dataset.format,
        "schema_version": manifest.schema_version,
        "classes": len(manifest.classes),
        "splits": manifest.splits,
        "shards": len(manifest.shards),
        "bytes_per_image": round(stored_bytes(dataset) / manifest.images, 1) if manifest.images else None,
        "psnr": None if manifest.psnr is None else asdict(manifest.psnr),
    }


def print_summary(dataset: Dataset, console: Console) -> None:
    """Print a summary that fits the console: wrapped on a terminal, one line per fact anywhere else."""
    facts = [(name, printable(value)) for name, value in _facts(dataset)]
    path = printable(str(dataset.path))
    if not console.is_terminal:
        wide = max(len(name) for name, _ in facts)
        for line in (path, *(f"{name:<{wide}}  {value}" for name, value in facts)):
            console.print(Text(line), soft_wrap=True)
        return
    console.print(Text(path, style="bold"))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, Text(value))
    console.print(table)


def _facts(dataset: Dataset) -> Iterator[tuple[str, str]]:
    manifest, fit = dataset.manifest, dataset.manifest.fit
    yield "images", f"{manifest.images:,} ({_splits(manifest.splits)}), {manifest.failed:,} failed"
    yield from (("failed", f"{count:,} x {reason}") for reason, count in _reasons(dataset))
    names = read_class_names(dataset.path)
    yield "classes", _classes([f"{c} {names[c]}" if c in names else c for c in manifest.classes])
    yield (
        "sets",
        f"{manifest.gaussians} Gaussians at {manifest.size} x {manifest.size} pixels, {manifest.encoding}",
    )
    if manifest.psnr is not None:
        psnr = manifest.psnr
        yield "PSNR", f"mean {psnr.mean:.2f} dB, median {psnr.median:.2f}, 5th percentile {psnr.p5:.2f}"
    yield "storage", _storage(dataset)
    colours = _COLORS.get(fit.colors, printable(fit.colors))
    how = f"{fit.preset}, {steps_of(fit)} steps, seed {fit.seed}, crop {fit.crop}"
    yield "fit", f"{how}, {colours}, version {fit.fit_version}"
    if manifest.label_informed:
        unseen = manifest.tuning.unseen_splits if manifest.tuning else None
        apart = f", except {', '.join(map(printable, unseen))}" if unseen else ""
        yield "labels", f"had a part in the sets: do not evaluate on them{apart}"


def _splits(splits: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in splits.items()) or "no split"


def _reasons(dataset: Dataset) -> list[tuple[str, int]]:
    """Return the commonest reasons of failure with their counts."""
    return Counter(dataset.failures["error"].to_pylist()).most_common(_REASONS_NAMED)


def _classes(classes: Sequence[str]) -> str:
    if not classes:
        return "none"
    if len(classes) <= _CLASSES_NAMED:
        return f"{len(classes)} ({', '.join(classes)})"
    return f"{len(classes):,} ({', '.join(classes[: _CLASSES_NAMED - 1])} ... {classes[-1]})"


def _storage(dataset: Dataset) -> str:
    total, images, shards = stored_bytes(dataset), dataset.manifest.images, len(dataset.manifest.shards)
    each = f", {total / images:,.0f} bytes per image" if images else ""
    return f"{total / 1e6:,.2f} MB in {'1 shard' if shards == 1 else f'{shards} shards'}{each}"
