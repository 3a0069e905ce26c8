"""What Ray costs: the same images on the same cores, inline and through workers.

    python -m gvit.benchmarks.engine [--images 1024] [--rounds 3] [--preset fast]

Each round encodes the same images inline and then under Ray, with one worker on all cores and with one
worker per core; a ratio is Ray's by the inline figure of its round, and the median over rounds is told. There
are ratios of wall-clock time and of core-seconds, the latter of all processes that take part, Ray's own too:
other work on the machine disturbs them less. Starting Ray is told apart: it happens once per job, whatever
its size. Starting workers is part of the ratio, so a small job shows a larger one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import ray
from PIL import Image
from rich.console import Console

from gvit.fitting.config import FitConfig
from gvit.pipeline.config import EncodeConfig, RunConfig
from gvit.pipeline.encode import encode
from gvit.schemas.cores import usable_cores

from .scenes import photographs

__all__ = ["run"]

SIZE = 224


class Cost(NamedTuple):
    """Seconds of one encode: on the clock, and of all cores together."""

    wall: float
    cores: float


def run(images: int = 1024, rounds: int = 3, preset: str = "fast") -> dict[str, float]:
    """Measure, and return seconds of Ray's start, inline images per second, and the ratios.

    `*_one_worker` has one worker with all cores, `*_worker_per_core` as many workers as cores;
    `speedup_worker_per_core` is the latter's rate by that of one worker with one core.
    """
    cores = usable_cores()
    with tempfile.TemporaryDirectory(prefix="gvit-bench-") as scratch:
        folder = Path(scratch)
        write_images(folder / "images", images)
        start = time.perf_counter()
        ray.init(
            address="local",
            num_cpus=cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        ray_seconds = time.perf_counter() - start
        try:
            runs = [dict(_round(folder, preset, cores)) for _ in range(rounds)]
        finally:
            ray.shutdown()
    found = {
        "cores": cores,
        "images": images,
        "ray_start_seconds": ray_seconds,
        "inline_images_per_second": images / _median(each["inline"].wall for each in runs),
        "inline_core_ms_per_image": 1000 / images * _median(each["inline"].cores for each in runs),
    }
    for name in ("one_worker", "worker_per_core"):
        found[f"ratio_{name}"] = _median(each[name].wall / each["inline"].wall for each in runs)
        found[f"core_ratio_{name}"] = _median(each[name].cores / each["inline"].cores for each in runs)
    speedups = (each["one_core"].wall / each["worker_per_core"].wall for each in runs)
    return {**found, "speedup_worker_per_core": _median(speedups)}


def _median(numbers: Iterable[float]) -> float:
    return statistics.median(numbers)


def _round(folder: Path, preset: str, cores: int) -> Iterator[tuple[str, Cost]]:
    yield "inline", _cost(folder, preset, RunConfig(engine="inline", workers=cores))
    yield "one_worker", _cost(folder, preset, RunConfig(engine="ray", workers=1, cpus_per_worker=cores))
    yield "worker_per_core", _cost(folder, preset, RunConfig(engine="ray", workers=cores, cpus_per_worker=1))
    yield "one_core", _cost(folder, preset, RunConfig(engine="ray", workers=1, cpus_per_worker=1))


def _cost(folder: Path, preset: str, run_config: RunConfig) -> Cost:
    with tempfile.TemporaryDirectory(dir=folder) as destination:
        config = EncodeConfig(
            source=folder / "images",
            destination=Path(destination) / "dst",
            fit=FitConfig(size=SIZE, preset=preset),
            run=run_config,
        )
        with CoreMeter() as meter:
            start = time.perf_counter()
            encode(config, console=Console(quiet=True))
            wall = time.perf_counter() - start
        return Cost(wall, meter.seconds)


class CoreMeter:
    """Counts the processor time of this process and all below it during a `with` body (Linux).

    It looks at them ten times a second: Ray's workers leave no trace of their time when they end.
    """

    def __init__(self) -> None:
        self._first = _ticks()
        self._last = dict(self._first)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> CoreMeter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._last.update(_ticks())

    @property
    def seconds(self) -> float:
        """Core-seconds so far."""
        ticks = sum(last - self._first.get(process, 0) for process, last in self._last.items())
        return ticks / os.sysconf("SC_CLK_TCK")

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            self._last.update(_ticks())


def _ticks() -> dict[tuple[int, str], int]:
    """Return (process, its start) -> its processor time, of this process and all below it."""
    parents: dict[int, int] = {}
    found: dict[int, tuple[str, int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            parents[pid] = int(fields[1])
            found[pid] = fields[19], int(fields[11]) + int(fields[12])
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return {(pid, found[pid][0]): found[pid][1] for pid in family}


def write_images(folder: Path, count: int) -> None:
    """Write so many JPEG files: the photographs of scikit-image, each time turned or shifted differently."""
    folder.mkdir()
    pictures = photographs(SIZE)
    for number in range(count):
        picture = np.rot90(pictures[number % len(pictures)], number // len(pictures) % 4)
        shifted = np.roll(picture, 7 * (number // (4 * len(pictures))), axis=1)
        Image.fromarray(np.ascontiguousarray(shifted)).save(folder / f"{number:06d}.jpg", quality=90)


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description="Ray's overhead over the inline engine.")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", default="fast")
    arguments = parser.parse_args()
    found = run(arguments.images, arguments.rounds, arguments.preset)
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
