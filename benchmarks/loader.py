"""Sets per second of the training loader, beside webdataset reading the same sets, on one core.

    python benchmarks/loader.py [--json]

Takes half a minute. The sets are synthetic (their values do not matter to a reader); each dataset is written
with gvit.schemas into a temporary folder and is larger than a core's caches. Ours gives decoded float32
batches in a new random order, labels and aspects with them. webdataset reads an archive with a member pair
per sample through its shuffle buffer, and also our shards block by block, in their order; both as its own
decoder returns them, and neither in a random order over the whole dataset.

All readers use one thread and files that are in memory already, so seconds are those of the processor: other
work on the machine does not count.
"""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import webdataset as wds
from rich.console import Console
from rich.table import Table

from gvit.dataset.commit import commit_shard, write_manifest
from gvit.dataset.open_shard import read_rows
from gvit.dataset.reader import Dataset, open_dataset
from gvit.schemas import BLOCK_ROWS, BlockArrays, FitInfo, Row, build_manifest, encode, field_ranges
from gvit.train.data.loader import SetLoader

SIZE = 224
CLASSES = [f"{label:03d}" for label in range(100)]
SHARD_BLOCKS = 32  # 8192 sets, as gvit encode cuts large datasets
SAMPLES = 2048  # in the archive with a member pair per sample
SHUFFLE_BUFFER = 1000
WARM_BATCHES = 8


def run(
    *, gaussians: Sequence[int] = (64, 256), megabytes: int = 96, batch_size: int = 256, epochs: int = 5
) -> dict[str, Any]:
    """Measure the loader and webdataset.

    Args:
        gaussians: N of each dataset that is made; the first one gives the headline.
        megabytes: of stored sets in each.
        batch_size: samples per batch.
        epochs: timed passes over each; medians are reported.

    Returns:
        ``sets_per_second`` (held in memory, random order, float32 batches, one core),
        ``ratio_vs_webdataset`` (its reading of samples), ``ratio_vs_webdataset_blocks`` (its reading of our
        blocks), and ``measurements``, a dict of sets per second for each N.
    """
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        measurements = [_measure(Path(folder) / str(n), n, megabytes, batch_size, epochs) for n in gaussians]
    first = measurements[0]
    return {
        "sets_per_second": first["memory"],
        "ratio_vs_webdataset": first["memory"] / first["webdataset_samples"],
        "ratio_vs_webdataset_blocks": first["memory"] / first["webdataset_blocks"],
        "measurements": measurements,
    }


@contextmanager
def one_thread() -> Generator[None]:
    """Keep torch to one core, so that figures are per core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _measure(folder: Path, n: int, megabytes: int, batch_size: int, epochs: int) -> dict[str, float]:
    dataset = write_dataset(folder / "shards", n, megabytes)
    samples = write_samples(folder / "samples.tar", dataset)
    shards = sorted(str(path) for path in (folder / "shards").glob("*.tar"))
    found: dict[str, float] = {"gaussians": n, "sets": len(dataset)}
    for cache in ("memory", "mmap"):
        loader = SetLoader(dataset, batch_size=batch_size, cache=cache)
        for _ in zip(range(WARM_BATCHES), loader.epoch(epochs), strict=False):
            pass
        found[cache] = _rate(lambda epoch, loader=loader: map(len, loader.epoch(epoch)), epochs)
    found["webdataset_blocks"] = _rate(lambda _: _read_blocks(shards), epochs)
    found["webdataset_samples"] = _rate(lambda _: _read_samples(samples, batch_size), epochs)
    return found


def _rate(read: Callable[[int], Iterable[int]], epochs: int) -> float:
    """Return the median of sets per second over passes; ``read`` gives the length of each batch."""
    rates: list[float] = []
    for epoch in range(epochs):
        start = time.process_time()
        sets = sum(read(epoch))
        rates.append(sets / (time.process_time() - start))
    return statistics.median(rates)


def _read_blocks(shards: list[str]) -> Iterator[int]:
    blocks: Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = (
        wds.WebDataset(shards, shardshuffle=False).decode().to_tuple("gaussians.npy", "label.npy")
    )
    for gaussians, _ in blocks:
        yield len(gaussians)


def _read_samples(archive: Path, batch_size: int) -> Iterator[int]:
    batches: Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = (
        wds.WebDataset(str(archive), shardshuffle=False)
        .shuffle(SHUFFLE_BUFFER)
        .decode()
        .to_tuple("gaussians.npy", "cls")
        .batched(batch_size)
    )
    for gaussians, _ in batches:
        yield len(gaussians)


def write_dataset(dst: Path, n: int, megabytes: int) -> Dataset:
    """Write a dataset of whole blocks of random sets of ``n`` Gaussians, and open it."""
    dst.mkdir(parents=True)
    low, high = field_ranges(SIZE)
    draws = np.random.default_rng(0).uniform(low, np.minimum(high, 1.0), (BLOCK_ROWS, n, len(low)))
    stored = encode(draws.astype(np.float32), "float16", SIZE)
    labels = np.arange(BLOCK_ROWS) % len(CLASSES)
    count = max(1, megabytes * 2**20 // stored.nbytes)
    marks = [
        commit_shard(
            dst,
            f"shard-{first // SHARD_BLOCKS:06d}",
            [BlockArrays(block * BLOCK_ROWS, stored, labels) for block in blocks],
            [
                _row(first, place, int(labels[place % BLOCK_ROWS]))
                for place in range(len(blocks) * BLOCK_ROWS)
            ],
            split="train",
            attempt="benchmark",
            still_ours=lambda: True,
        )
        for first in range(0, count, SHARD_BLOCKS)
        for blocks in [range(first, min(first + SHARD_BLOCKS, count))]
    ]
    manifest = build_manifest(
        gaussians=n,
        size=SIZE,
        encoding="float16",
        fit=FitInfo("default", 200, 0, "none", 1),
        classes=CLASSES,
        marks=marks,
        tables=[read_rows(dst, mark) for mark in marks],
    )
    write_manifest(dst, manifest)
    return open_dataset(dst)


def _row(first: int, place: int, label: int) -> Row:
    key = f"{first:06d}-{place:06d}"
    shard = f"shard-{first // SHARD_BLOCKS:06d}"
    return Row(
        key, "train", label, CLASSES[label], f"{key}.jpg", 500, 375, 28.0, "ok", None, shard, place, "0" * 64
    )


def write_samples(archive: Path, dataset: Dataset) -> Path:
    """Write the first sets as webdataset would have them: two members per sample."""
    count = min(SAMPLES, len(dataset))
    stored, labels = dataset.stored(slice(0, count)), dataset.labels
    with wds.TarWriter(str(archive)) as writer:
        for i in range(count):
            writer.write({"__key__": f"{i:08d}", "gaussians.npy": stored[i], "cls": int(labels[i])})
    return archive


def main() -> None:
    """Print a table, or with ``--json`` one JSON object."""
    parser = argparse.ArgumentParser(description="Sets per second of the loader, beside webdataset.")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    as_json: bool = parser.parse_args().json
    result = run()
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    table = Table("sets/s on one core, random order", title="gvit's loader beside webdataset")
    for found in result["measurements"]:
        table.add_column(f"N = {found['gaussians']}", justify="right")
    for name in ("memory", "mmap", "webdataset_blocks", "webdataset_samples"):
        table.add_row(name.replace("_", ", "), *(f"{found[name]:,.0f}" for found in result["measurements"]))
    Console().print(table)
    Console().print(
        f"{result['ratio_vs_webdataset']:,.0f} x webdataset's samples, "
        f"{result['ratio_vs_webdataset_blocks']:,.1f} x webdataset's blocks"
    )


if __name__ == "__main__":
    main()
