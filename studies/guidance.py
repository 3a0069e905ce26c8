r"""What guidance does for accuracy: no guidance, refine and direct, and patches, on any folder of images.

    python -m gvit.studies.guidance IMAGES --num-gaussians 16 --size 32 --seeds 3 --log runs.jsonl \
        --run none --run "refine gamma=0.1" --run "direct gamma=-0.5 fraction=0.25" --run "jitter gamma=0.5" \
        --run patches

"patches" is the same Vision Transformer on pixels; "jitter" moves sets as "direct" may, but at random: what
it brings is no merit of the classifier's gradient.

To choose gammas, sweep with `--held-out 0.2`: that part of train/ is evaluated on and val/ is not looked at.
Every finished run is appended to the log, and a run that the log has is not run again. Differences to the run
`none` are paired by seed and by image; their intervals are bootstrapped over both.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from gvit.benchmarks.pixels import PixelTrainer
from gvit.commands.train import read_config
from gvit.fitting.config import FitConfig
from gvit.pipeline.config import EncodeConfig
from gvit.pipeline.encode import encode
from gvit.schemas import GvitError
from gvit.studies.jitter import JitterGuide
from gvit.studies.parity import pixels_of
from gvit.train.data.mix import MixConfig
from gvit.train.data.split import open_training_data
from gvit.train.guidance.source_images import open_sources
from gvit.train.ranks import Ranks, pick_device
from gvit.train.run.run import build_trainer

if TYPE_CHECKING:
    from gvit.train.config import TrainConfig
    from gvit.train.guidance.guides import DirectGuide

__all__ = ["Outcome", "compare", "run_one"]

_BASE, _PATCHES, _JITTER = "none", "patches", "jitter"
_BOOTSTRAPS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One finished run.

    Attributes:
        name: What was run, such as "direct gamma=-0.5".
        seed: Of the run.
        top1: 0..1.
        right: Of each image that was evaluated on, whether it was classified right.
        psnr_loss: Of the guided training sets in the last epoch against the stored ones, dB; None where
            nothing was guided.
        seconds: Of training.
        setting: All else that makes a run, for the log.
    """

    name: str
    seed: int
    top1: float
    right: list[int]
    psnr_loss: float | None
    seconds: float
    setting: str


def run_one(name: str, config: TrainConfig, images: Path, setting: str) -> Outcome:
    """Train and evaluate once.

    Raises:
        GvitError: The settings do not allow it, or guidance diverged.
    """
    data = open_training_data(config.data, 0)
    ranks = Ranks(0, 1, pick_device(config.run.device))
    if name == _PATCHES:
        trainer = PixelTrainer(
            config, data, (pixels_of(data.train, images), pixels_of(data.val, images)), ranks
        )
    else:
        guidance = config.guidance
        sources = open_sources(data.train.manifest, images=guidance.images, masks=guidance.masks)
        trainer = build_trainer(config, data, ranks, sources)
        if name.startswith(_JITTER):
            guide = cast("DirectGuide", trainer.guide)
            trainer.guide = JitterGuide(**{part.name: getattr(guide, part.name) for part in fields(guide)})
    began, moved = time.perf_counter(), None
    while not trainer.finished:
        trainer.train_epoch(lambda: None)
        trainer.check_health()
        moved = trainer.take_movement()
    seconds = time.perf_counter() - began
    found = trainer.evaluate()
    right = (found.predicted.numpy() == data.val.labels).astype(int).tolist()
    lost = None if moved is None else moved.psnr_loss
    return Outcome(
        name=name,
        seed=config.seed,
        top1=found.top1,
        right=right,
        psnr_loss=lost,
        seconds=seconds,
        setting=setting,
    )


def config_of(name: str, seed: int, shards: Path, out: Path, given: argparse.Namespace) -> TrainConfig:
    """Return the settings of a run: a mode and then guidance settings, each `field=value`."""
    mode, *settings = shlex.split(name)
    assignments = [*given.set, f"seed={seed}", *(f"guidance.{setting}" for setting in settings)]
    if given.epochs is not None:
        assignments.append(f"epochs={given.epochs}")
    if mode != _PATCHES:
        assignments.append(f"guidance.mode={'direct' if mode == _JITTER else mode}")
    data: dict[str, Any] = {"shards": str(shards)}
    if given.held_out is not None:
        data["val_fraction"] = given.held_out
    flags = {"data": data, "run": {"out": str(out)}}
    return replace(read_config(given.recipe, None, flags, assignments), mix=MixConfig())


def compare(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Sum up runs by name: means, spreads over seeds, paired differences to "none", their 95 % intervals."""
    names = list(dict.fromkeys(outcome.name for outcome in outcomes))
    runs = {name: {o.seed: o for o in outcomes if o.name == name} for name in names}
    base = runs.get(_BASE, {})
    return [_sum_up(name, runs[name], base) for name in names]


def _sum_up(name: str, runs: dict[int, Outcome], base: dict[int, Outcome]) -> dict[str, Any]:
    scores = [run.top1 for run in runs.values()]
    lost = [run.psnr_loss for run in runs.values() if run.psnr_loss is not None]
    facts: dict[str, Any] = {
        "name": name,
        "top1": scores,
        "mean": statistics.mean(scores),
        "spread": statistics.stdev(scores) if len(scores) > 1 else None,
        "psnr_loss": statistics.mean(lost) if lost else None,
        "seconds": statistics.median(run.seconds for run in runs.values()),
    }
    shared = sorted(runs.keys() & base.keys())
    if shared and name != _BASE:
        change = np.array([np.subtract(runs[seed].right, base[seed].right) for seed in shared])
        facts["difference"] = float(change.mean())
        facts["interval"] = _interval(change)
        facts["time_ratio"] = statistics.median(runs[seed].seconds / base[seed].seconds for seed in shared)
    return facts


def _interval(change: npt.NDArray[np.int64]) -> tuple[float, float]:
    """95 % interval of the mean of `change` [seeds, images], by resampling seeds and images."""
    seeds, images = change.shape
    rng = np.random.default_rng(0)
    means = np.empty(_BOOTSTRAPS)
    for number in range(_BOOTSTRAPS):
        rows = change[rng.integers(0, seeds, seeds)].mean(axis=0)
        means[number] = rows[rng.integers(0, images, images)].mean()
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _print(results: list[dict[str, Any]]) -> None:
    table = Table(
        "run",
        "seeds",
        "diverged",
        "top-1 mean",
        "spread",
        "against none (points)",
        "95 % interval",
        "dB",
        "time",
    )
    for found in results:
        spread = "" if found["spread"] is None else f"{found['spread']:.2%}"
        lost = "" if found["psnr_loss"] is None else f"{-found['psnr_loss']:+.2f}"
        paired = ["", "", ""]
        if "difference" in found:
            low, high = found["interval"]
            paired = [f"{100 * found['difference']:+.2f}", f"{100 * low:+.2f} to {100 * high:+.2f}"]
            paired.append(f"{found['time_ratio']:.2f}")
        runs = (str(len(found["top1"])), str(found["diverged"]))
        table.add_row(found["name"], *runs, f"{found['mean']:.2%}", spread, *paired[:2], lost, paired[2])
    Console().print(table)


def _logged(log: Path, setting: str) -> list[Outcome]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [
        outcome for outcome in (Outcome(**json.loads(line)) for line in lines) if outcome.setting == setting
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--run", action="append", default=[], metavar="MODE [FIELD=VALUE...]")
    parser.add_argument("--num-gaussians", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--preset", default="default")
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
    return parser.parse_args()


def main() -> None:
    """Run from the command line."""
    given = _parse()
    if given.threads:
        torch.set_num_threads(given.threads)
    console = Console(stderr=True)
    fit = FitConfig(num_gaussians=given.num_gaussians, size=given.size, preset=given.preset)
    encode(EncodeConfig(source=given.images, destination=given.shards, fit=fit), console=console)
    setting = json.dumps([str(given.shards), given.recipe, given.epochs, given.held_out, given.set])
    outcomes = _logged(given.log, setting)
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
            with given.log.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
            console.print(f"{name}, seed {seed}: top-1 {outcome.top1:.2%}", highlight=False)
    results = compare([outcome for outcome in outcomes if not given.run or outcome.name in given.run])
    for found in results:
        found["diverged"] = diverged[found["name"]]
    if given.json:
        print(json.dumps(results))
    else:
        _print(results)


if __name__ == "__main__":
    try:
        main()
    except GvitError as error:
        sys.exit(f"Error: {error}")
