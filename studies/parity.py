"""Gaussians against patches: the same Vision Transformer, epochs and augmentation on any folder of images.

    python -m gvit.studies.parity IMAGES --num-gaussians 64 --size 32 --epochs 60 --seeds 3

IMAGES is an ImageFolder, with train/ and val/ or without (then a tenth is held out). It is encoded, and both
models are trained from scratch on the same images: one on their sets, one on the pixels that the sets were
fitted to, in as many patches as there are Gaussians.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from gvit.benchmarks.pixels import PixelTrainer
from gvit.commands.train import read_config
from gvit.fitting.config import FitConfig
from gvit.images.decode import decode_image, read_image
from gvit.pipeline.config import EncodeConfig
from gvit.pipeline.encode import encode
from gvit.train.data.mix import MixConfig
from gvit.train.data.split import open_training_data
from gvit.train.ranks import Ranks, pick_device
from gvit.train.run.run import build_trainer

if TYPE_CHECKING:
    from gvit.dataset.reader import Dataset
    from gvit.train.config import TrainConfig
    from gvit.train.data.split import TrainingData

__all__ = ["pixels_of", "run"]


def run(
    images: Path,
    *,
    num_gaussians: int = 64,
    size: int = 32,
    recipe: str = "tiny",
    settings: list[str] | None = None,
    seeds: int = 3,
    shards: Path | None = None,
    only: str | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train both, several seeds each, and compare.

    Args:
        images: An ImageFolder.
        num_gaussians: Per image, a square number whose root divides the size; also the number of patches.
        size: Side of the canvas, and of the images in pixels.
        recipe: Of both.
        settings: More of them, each ``section.field=value``.
        seeds: Runs of each, seeds 0, 1, ...
        shards: Where the encoded images are or go; None encodes into a temporary folder.
        only: "gaussians" or "patches", to train one of the two.
        console: Where progress goes; None for standard error.

    Returns:
        For each of "gaussians" and "patches": "top1" (per seed), "mean", "spread" (standard deviation over
        seeds), "seconds" (mean per run); and "psnr" (dB), "train", "val" (samples), "epochs".

    Raises:
        GvitError: Images or settings do not allow it.
    """
    console = console or Console(stderr=True)
    with tempfile.TemporaryDirectory() as temporary:
        place = shards or Path(temporary) / "shards"
        fit = FitConfig(num_gaussians=num_gaussians, size=size)
        encoded = encode(EncodeConfig(source=images, destination=place, fit=fit), console=console)
        flags: dict[str, Any] = {"data": {"shards": str(place)}, "run": {"out": temporary}}
        config = replace(read_config(recipe, None, flags, settings or []), mix=MixConfig())
        data = open_training_data(config.data, 0)
        pixels = (pixels_of(data.train, images), pixels_of(data.val, images))
        found: dict[str, list[tuple[float, float]]] = {"gaussians": [], "patches": []}
        for seed in range(seeds):
            for name in found if only is None else (only,):
                found[name].append(_train(name, replace(config, seed=seed), data, pixels))
                console.print(f"{name}, seed {seed}: top-1 {found[name][-1][0]:.2%}", highlight=False)
    return {
        **{name: _summary(runs) for name, runs in found.items() if runs},
        "psnr": encoded.psnr_mean,
        "train": len(data.train),
        "val": len(data.val),
        "epochs": config.epochs,
    }


def _train(
    name: str, config: TrainConfig, data: TrainingData, pixels: tuple[torch.Tensor, torch.Tensor]
) -> tuple[float, float]:
    """Top-1 after the last epoch, and seconds of training."""
    ranks = Ranks(0, 1, pick_device(config.run.device))
    patches = name == "patches"
    trainer = PixelTrainer(config, data, pixels, ranks) if patches else build_trainer(config, data, ranks)
    began = time.perf_counter()
    while not trainer.finished:
        trainer.train_epoch(lambda: None)
    trainer.check_health()
    seconds = time.perf_counter() - began
    return trainer.evaluate().top1, seconds


def pixels_of(part: Dataset, images: Path) -> torch.Tensor:
    """Return the images that the sets of a dataset were fitted to, uint8 ``[n, 3, S, S]``."""
    sources = {row["key"]: row["source"] for row in part.rows.select(["key", "source"]).to_pylist()}
    size, crop = part.manifest.size, part.manifest.fit.crop
    whole = "center" if crop == "center" else "none"
    decoded = [decode_image(read_image(images / sources[key]), size, whole).pixels for key in part.keys]
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()


def _summary(runs: list[tuple[float, float]]) -> dict[str, Any]:
    scores = [top1 for top1, _ in runs]
    spread = statistics.stdev(scores) if len(scores) > 1 else math.nan
    seconds = statistics.mean(seconds for _, seconds in runs)
    return {"top1": scores, "mean": statistics.mean(scores), "spread": spread, "seconds": seconds}


def _print(result: dict[str, Any]) -> None:
    table = Table("fed with", "top-1 mean", "spread", "seeds", "seconds per run")
    for name in ("gaussians", "patches"):
        if name in result:
            found = result[name]
            seeds = ", ".join(f"{top1:.2%}" for top1 in found["top1"])
            table.add_row(
                name, f"{found['mean']:.2%}", f"{found['spread']:.2%}", seeds, f"{found['seconds']:.0f}"
            )
    console = Console()
    console.print(table)
    facts = f"{result['train']} images to train on, {result['val']} to evaluate on, {result['epochs']} epochs"
    console.print(f"{facts}, sets of {result['psnr']:.1f} dB", highlight=False)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--num-gaussians", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shards", type=Path, help="where the encoded images are or go")
    parser.add_argument("--only", choices=["gaussians", "patches"])
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    result = run(
        given.images,
        num_gaussians=given.num_gaussians,
        size=given.size,
        recipe=given.recipe,
        settings=given.set + ([] if given.epochs is None else [f"epochs={given.epochs}"]),
        seeds=given.seeds,
        shards=given.shards,
        only=given.only,
    )
    if given.json:
        print(json.dumps(result))
    else:
        _print(result)


if __name__ == "__main__":
    main()
