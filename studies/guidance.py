r"""What guidance does for accuracy: no guidance, refine and direct, and patches, on any folder of images.

    python -m gvit.studies.guidance IMAGES --num-gaussians 16 --size 32 --seeds 3 --log runs.jsonl \
        --run none --run "refine gamma=0.1" --run "direct gamma=-0.5 fraction=0.25" --run "jitter gamma=0.5" \
        --run patches

"patches", "stem-patches" and "stem-grid" are the same Vision Transformer on pixels (``gvit.studies.parity``);
"jitter" moves sets as "direct" may, but at random: what it brings is no merit of the classifier's gradient.

To choose gammas, sweep with `--held-out 0.2`: that part of train/ is evaluated on and val/ is not looked at.
Every finished run is appended to the log, and a run that the log has is not run again. Differences to the run
`none` are paired by seed and by image; their intervals are bootstrapped over both.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from rich.console import Console

from gvit.benchmarks.readers import READERS
from gvit.fitting.config import FitConfig
from gvit.pipeline.config import EncodeConfig
from gvit.pipeline.encode import encode
from gvit.schemas import GvitError
from gvit.studies.jitter import JitterGuide
from gvit.studies.outcomes import Outcome, compare, note, noted, print_table, train
from gvit.studies.parity import common_options, pixels_of, trainer_of
from gvit.train.asked import read_config
from gvit.train.data.mix import MixConfig
from gvit.train.data.split import open_training_data
from gvit.train.guidance.source_images import open_sources
from gvit.train.ranks import Ranks, pick_device
from gvit.train.run.run import build_trainer

if TYPE_CHECKING:
    from gvit.train.config import TrainConfig
    from gvit.train.guidance.guides import DirectGuide

__all__ = ["run_one"]

_BASE, _JITTER = "none", "jitter"


def run_one(name: str, config: TrainConfig, images: Path, setting: str) -> Outcome:
    """Train and evaluate once.

    Raises:
        GvitError: The settings do not allow it, or guidance diverged.
    """
    data = open_training_data(config.data, 0)
    mode = shlex.split(name)[0]
    if mode in READERS:
        pixels = (pixels_of(data.train, images), pixels_of(data.val, images))
        return train(name, trainer_of(name, config, data, pixels), data, setting)
    guidance = config.guidance
    sources = open_sources(data.train.manifest, images=guidance.images, masks=guidance.masks)
    trainer = build_trainer(config, data, Ranks(0, 1, pick_device(config.run.device)), sources)
    if mode == _JITTER:
        guide = cast("DirectGuide", trainer.guide)
        trainer.guide = JitterGuide(**{part.name: getattr(guide, part.name) for part in fields(guide)})
    return train(name, trainer, data, setting)


def config_of(name: str, seed: int, shards: Path, out: Path, given: argparse.Namespace) -> TrainConfig:
    """Return the settings of a run: a mode and then guidance settings, each `field=value`."""
    mode, *settings = shlex.split(name)
    assignments = [*given.set, f"seed={seed}", *(f"guidance.{setting}" for setting in settings)]
    if given.epochs is not None:
        assignments.append(f"epochs={given.epochs}")
    if mode not in READERS:
        assignments.append(f"guidance.mode={'direct' if mode == _JITTER else mode}")
    data: dict[str, Any] = {"shards": str(shards)}
    if given.held_out is not None:
        data["val_fraction"] = given.held_out
    flags = {"data": data, "run": {"out": str(out)}}
    return replace(read_config(given.recipe, None, flags, assignments), mix=MixConfig())


def main() -> None:
    """Run from the command line."""
    parser = common_options(__doc__)
    parser.add_argument("--run", action="append", default=[], metavar="MODE [FIELD=VALUE...]")
    parser.add_argument("--preset", default="default")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    console = Console(stderr=True)
    fit = FitConfig(num_gaussians=given.num_gaussians, size=given.size, preset=given.preset)
    encode(EncodeConfig(source=given.images, destination=given.shards, fit=fit), console=console)
    setting = json.dumps([str(given.shards), given.recipe, given.epochs, given.held_out, given.set])
    outcomes = noted(given.log, setting)
    done = {(outcome.name, outcome.seed) for outcome in outcomes}
    diverged: Counter[str] = Counter()
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        for name in given.run or [_BASE]:
            if (name, seed) in done:
                continue
            with tempfile.TemporaryDirectory() as temporary:
                config = config_of(name, seed, given.shards, Path(temporary), given)
                try:
                    outcome = run_one(name, config, given.images, setting)
                except GvitError as error:
                    console.print(f"{name}, seed {seed}: {error}", highlight=False)
                    diverged[name] += 1
                    continue
            outcomes.append(outcome)
            note(given.log, outcome)
            console.print(f"{name}, seed {seed}: top-1 {outcome.top1:.2%}", highlight=False)
    results = compare([o for o in outcomes if not given.run or o.name in given.run], _BASE)
    for name, count in diverged.items():
        console.print(f"{name}: {count} runs diverged", highlight=False)
    if given.json:
        print(json.dumps([{**found, "diverged": diverged[found["name"]]} for found in results]))
    else:
        print_table(results, _BASE)


if __name__ == "__main__":
    try:
        main()
    except GvitError as error:
        sys.exit(f"Error: {error}")
