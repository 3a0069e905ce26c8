"""What Ray costs: the same images on the same cores, inline and through workers.

    python -m gvit.benchmarks.engine [--images 1024] [--rounds 3] [--preset fast]

Each round encodes the same images inline and then under Ray, with one worker on all cores and with one
worker per core; a ratio is Ray's time by the inline time of its round, and the median over rounds is told.
Starting Ray is told apart: it happens once per job, whatever its size. Starting workers is part of the ratio,
so a small job shows a larger one.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import ray
from PIL import Image
from rich.console import Console

from gvit.pipeline.config import EncodeConfig, RunConfig, usable_cores
from gvit.pipeline.encode import encode
from gvit.pipeline.fit_config import FitConfig

from .scenes import photographs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["run"]

SIZE = 224


def run(images: int = 1024, rounds: int = 3, preset: str = "fast") -> dict[str, float]:
    """Measure, and return seconds of Ray's start, inline images per second, and the ratios.

    `ratio_one_worker` has one worker with all cores, `ratio_worker_per_core` as many workers as cores;
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
    return {
        "cores": cores,
        "images": images,
        "ray_start_seconds": ray_seconds,
        "inline_images_per_second": images / statistics.median(each["inline"] for each in runs),
        "ratio_one_worker": statistics.median(each["one"] / each["inline"] for each in runs),
        "ratio_worker_per_core": statistics.median(each["per_core"] / each["inline"] for each in runs),
        "speedup_worker_per_core": statistics.median(each["one_core"] / each["per_core"] for each in runs),
    }


def _round(folder: Path, preset: str, cores: int) -> Iterator[tuple[str, float]]:
    yield "inline", _seconds(folder, preset, RunConfig(engine="inline", workers=cores))
    yield "one", _seconds(folder, preset, RunConfig(engine="ray", workers=1, cpus_per_worker=cores))
    yield "per_core", _seconds(folder, preset, RunConfig(engine="ray", workers=cores, cpus_per_worker=1))
    yield "one_core", _seconds(folder, preset, RunConfig(engine="ray", workers=1, cpus_per_worker=1))


def _seconds(folder: Path, preset: str, run_config: RunConfig) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as destination:
        config = EncodeConfig(
            source=folder / "images",
            destination=Path(destination) / "dst",
            fit=FitConfig(size=SIZE, preset=preset),
            run=run_config,
        )
        start = time.perf_counter()
        encode(config, console=Console(quiet=True))
        return time.perf_counter() - start


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
