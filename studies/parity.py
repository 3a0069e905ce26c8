r"""Gaussians against patches: the same Vision Transformer, epochs and augmentation on any folder of images.

    python -m gvit.studies.parity IMAGES --num-gaussians 64 --size 32 --epochs 60 --seeds 3 \
        --shards shards --log runs.jsonl --arm gaussians --arm patches --arm "stem-patches augment.dropout=0"

IMAGES is an ImageFolder, with train/ and val/ or without (then a tenth is held out). It is encoded, and the
arms are trained from scratch on the same images: "gaussians" on their sets, "blind" on the sets without a
stem, and "patches", "stem-patches" and "stem-grid" on the pixels that the sets were fitted to, read at as
many places as there are Gaussians. An arm can have settings of its own behind its name, chosen with
`--held-out 0.2`: that part of train/ is evaluated on and val/ is not looked at.

With `--seconds S` each arm trains as many epochs as the median of its first three says fit into S.
Every finished run is appended to the log, and a run that the log has is not run again. Differences to
"gaussians" are paired by seed and by image; their intervals are bootstrapped over both.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console

from gvit.benchmarks.pixels import PixelTrainer
from gvit.benchmarks.readers import READERS
from gvit.fitting.config import FitConfig
from gvit.images.decode import decode_image, read_image
from gvit.pipeline.config import EncodeConfig
from gvit.pipeline.encode import encode
from gvit.schemas import GvitError
from gvit.studies.outcomes import compare, note, noted, print_table, train
from gvit.train.asked import read_config
from gvit.train.data.mix import MixConfig
from gvit.train.data.split import open_training_data
from gvit.train.ranks import Ranks, pick_device
from gvit.train.run.run import build_trainer

if TYPE_CHECKING:
    from gvit.dataset.reader import Dataset
    from gvit.train.config import TrainConfig
    from gvit.train.data.split import TrainingData
    from gvit.train.run.trainer import Trainer

__all__ = ["ARMS", "Pixels", "common_options", "config_of", "pixels_of", "run", "trainer_of"]

_BASE, _BLIND = "gaussians", "blind"
ARMS = (_BASE, _BLIND, *READERS)
"""What a model can be fed with."""

_EPOCHS_TO_TIME = 3

Pixels = tuple[torch.Tensor, torch.Tensor]
"""Images of the sets to train on and to evaluate on, uint8 ``[n, 3, S, S]``."""


def run(
    images: Path,
    *,
    shards: Path,
    log: Path,
    arms: list[str],
    num_gaussians: int = 64,
    size: int = 32,
    recipe: str = "tiny",
    settings: list[str] | None = None,
    seeds: range = range(3),
    held_out: float | None = None,
    seconds: float | None = None,
    console: Console | None = None,
) -> list[dict[str, Any]]:
    """Train all arms, several seeds each, and compare; see the module.

    Args:
        images: An ImageFolder.
        shards: Where the encoded images are or go.
        log: Where finished runs are noted.
        arms: Each one of ``ARMS`` and, behind it, settings of its own.
        num_gaussians: Per image, a square number whose root divides the size; also the number of patches.
        size: Side of the canvas, and of the images in pixels.
        recipe: Of all arms.
        settings: More of them, each ``section.field=value``.
        seeds: Of the runs.
        held_out: Part of the images to train on that is evaluated on in place of val/.
        seconds: Budget of a run; None trains the epochs of the settings.
        console: Where progress goes; None for standard error.

    Returns:
        What ``outcomes.compare`` says of each arm.

    Raises:
        GvitError: Images or settings do not allow it.
    """
    console = console or Console(stderr=True)
    fit = FitConfig(num_gaussians=num_gaussians, size=size)
    encode(EncodeConfig(source=images, destination=shards, fit=fit), console=console)
    given = [*(settings or []), f"data.val_fraction={held_out}"] if held_out else settings or []
    setting = json.dumps([str(shards), recipe, seconds, given])
    outcomes = noted(log, setting)
    done = {(outcome.name, outcome.seed) for outcome in outcomes}
    pixels: Pixels | None = None
    for seed in seeds:
        for arm in arms:
            if (arm, seed) in done:
                continue
            with tempfile.TemporaryDirectory() as temporary:
                config = config_of(arm, seed, recipe, given, shards, Path(temporary))
                data = open_training_data(config.data, 0)
                if pixels is None and shlex.split(arm)[0] in READERS:
                    pixels = (pixels_of(data.train, images), pixels_of(data.val, images))
                if seconds is not None:
                    config = replace(config, epochs=_affordable(arm, config, data, pixels, seconds))
                outcome = train(arm, trainer_of(arm, config, data, pixels), data, setting)
            outcomes.append(outcome)
            note(log, outcome)
            console.print(f"{arm}, seed {seed}: top-1 {outcome.top1:.2%}", highlight=False)
    return compare([outcome for outcome in outcomes if outcome.name in arms], _BASE)


def config_of(arm: str, seed: int, recipe: str, settings: list[str], shards: Path, out: Path) -> TrainConfig:
    """Return the settings of a run; nothing is mixed, for mixing has no twin in pixels.

    Raises:
        GvitError: There is no such arm or setting.
    """
    name, *own = shlex.split(arm)
    if name not in ARMS:
        raise GvitError(f"an arm is one of {', '.join(ARMS)}, not {name!r}")
    blind = ["model.stem=none"] if name == _BLIND else []
    flags: dict[str, Any] = {"data": {"shards": str(shards)}, "run": {"out": str(out)}}
    return replace(
        read_config(recipe, None, flags, [*settings, *blind, *own, f"seed={seed}"]), mix=MixConfig()
    )


def trainer_of(arm: str, config: TrainConfig, data: TrainingData, pixels: Pixels | None) -> Trainer:
    """Build the trainer of an arm; the pixels are for those of ``READERS`` alone."""
    ranks = Ranks(0, 1, pick_device(config.run.device))
    name = shlex.split(arm)[0]
    if name not in READERS:
        return build_trainer(config, data, ranks)
    if pixels is None:
        raise ValueError(f"{name} is fed with pixels")
    return PixelTrainer(name, config, data, pixels, ranks)


def _affordable(
    arm: str, config: TrainConfig, data: TrainingData, pixels: Pixels | None, seconds: float
) -> int:
    """Epochs that fit into so many seconds, at least one."""
    trainer = trainer_of(arm, config, data, pixels)
    times = list[float]()
    for _ in range(_EPOCHS_TO_TIME):
        began = time.perf_counter()
        trainer.train_epoch(lambda: None)
        trainer.check_health()
        times.append(time.perf_counter() - began)
    return max(1, int(seconds / statistics.median(times)))


def pixels_of(part: Dataset, images: Path) -> torch.Tensor:
    """Return the images that the sets of a dataset were fitted to, uint8 ``[n, 3, S, S]``."""
    sources = {row["key"]: row["source"] for row in part.rows.select(["key", "source"]).to_pylist()}
    size, crop = part.manifest.size, part.manifest.fit.crop
    whole = "center" if crop == "center" else "none"
    decoded = [decode_image(read_image(images / sources[key]), size, whole).pixels for key in part.keys]
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()


def common_options(about: str | None) -> argparse.ArgumentParser:
    """Return a parser of what all studies take."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--num-gaussians", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--held-out", type=float, help="part of train/ to evaluate on in place of val/")
    parser.add_argument("--shards", type=Path, required=True, help="where the encoded images are or go")
    parser.add_argument("--log", type=Path, required=True, help="where finished runs are noted")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--json", action="store_true")
    return parser


def main() -> None:
    """Run from the command line."""
    parser = common_options(__doc__)
    parser.add_argument("--arm", action="append", default=[], metavar="ARM [SECTION.FIELD=VALUE...]")
    parser.add_argument("--seconds", type=float, help="budget of a run, in place of epochs")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    found = run(
        given.images,
        shards=given.shards,
        log=given.log,
        arms=given.arm or [_BASE, *READERS],
        num_gaussians=given.num_gaussians,
        size=given.size,
        recipe=given.recipe,
        settings=given.set + ([] if given.epochs is None else [f"epochs={given.epochs}"]),
        seeds=range(given.first_seed, given.first_seed + given.seeds),
        held_out=given.held_out,
        seconds=given.seconds,
    )
    if given.json:
        print(json.dumps(found))
    else:
        print_table(found, _BASE)


if __name__ == "__main__":
    try:
        main()
    except GvitError as error:
        sys.exit(f"Error: {error}")
