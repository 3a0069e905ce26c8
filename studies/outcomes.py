"""Finished runs: what each found, a log of them, and paired comparisons with a run that all share."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.table import Table

from gvit.schemas import GvitError

if TYPE_CHECKING:
    from pathlib import Path

    from gvit.train.data.split import TrainingData
    from gvit.train.run.trainer import Trainer

__all__ = ["Outcome", "compare", "note", "noted", "print_table", "train"]

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
        weights: Numbers that were trained.
        epochs: Of the run.
        setting: All else that makes a run, for the log.
    """

    name: str
    seed: int
    top1: float
    right: list[int]
    psnr_loss: float | None
    seconds: float
    weights: int
    epochs: int
    setting: str


def train(name: str, trainer: Trainer, data: TrainingData, setting: str) -> Outcome:
    """Train to the end and evaluate once.

    Raises:
        GvitError: The run diverged.
    """
    began, moved = time.perf_counter(), None
    while not trainer.finished:
        trainer.train_epoch(lambda: None)
        trainer.check_health()
        moved = trainer.take_movement()
    seconds = time.perf_counter() - began
    found = trainer.evaluate()
    return Outcome(
        name=name,
        seed=trainer.config.seed,
        top1=found.top1,
        right=(found.predicted.numpy() == data.val.labels).astype(int).tolist(),
        psnr_loss=None if moved is None else moved.psnr_loss,
        seconds=seconds,
        weights=sum(part.numel() for part in trainer.model.parameters() if part.requires_grad),
        epochs=trainer.config.epochs,
        setting=setting,
    )


def note(log: Path, outcome: Outcome) -> None:
    """Append a run to a log."""
    with log.open("a") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def noted(log: Path, setting: str) -> list[Outcome]:
    """Read the runs of a setting from a log; none where there is no log.

    Raises:
        GvitError: It is no log of this version.
    """
    lines = log.read_text().splitlines() if log.exists() else []
    try:
        found = [Outcome(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise GvitError(f"{log} is no log of this version of the study: choose another --log") from error
    return [outcome for outcome in found if outcome.setting == setting]


def compare(outcomes: list[Outcome], base: str) -> list[dict[str, Any]]:
    """Sum up runs by name: means, spreads over seeds, paired differences to a base, their 95 % intervals."""
    names = list(dict.fromkeys(outcome.name for outcome in outcomes))
    runs = {name: {o.seed: o for o in outcomes if o.name == name} for name in names}
    return [_sum_up(name, runs[name], {} if name == base else runs.get(base, {})) for name in names]


def _sum_up(name: str, runs: dict[int, Outcome], base: dict[int, Outcome]) -> dict[str, Any]:
    scores = [run.top1 for run in runs.values()]
    lost = [run.psnr_loss for run in runs.values() if run.psnr_loss is not None]
    some = next(iter(runs.values()))
    facts: dict[str, Any] = {
        "name": name,
        "top1": scores,
        "mean": statistics.mean(scores),
        "spread": statistics.stdev(scores) if len(scores) > 1 else None,
        "psnr_loss": statistics.mean(lost) if lost else None,
        "seconds": statistics.median(run.seconds for run in runs.values()),
        "weights": some.weights,
        "epochs": some.epochs,
    }
    shared = sorted(runs.keys() & base.keys())
    if shared:
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


def print_table(results: list[dict[str, Any]], base: str) -> None:
    """Print what `compare` found; points and time are against the base."""
    guided = any(found["psnr_loss"] is not None for found in results)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("run", "top-1", "seeds", "points", *(["dB"] if guided else []), "time", "weights", "epochs"):
        table.add_column(name, overflow="fold")
    for found in results:
        spread = "" if found["spread"] is None else f" ± {100 * found['spread']:.2f}"
        points, ratio = "", ""
        if "difference" in found:
            low, high = found["interval"]
            points = f"{100 * found['difference']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
            ratio = f"{found['time_ratio']:.2f}"
        lost = "" if found["psnr_loss"] is None else f"{-found['psnr_loss']:+.2f}"
        scores = (found["name"], f"{found['mean']:.2%}{spread}", str(len(found["top1"])), points)
        sizes = (f"{found['weights']:,}", str(found["epochs"]))
        table.add_row(*scores, *([lost] if guided else []), ratio, *sizes)
    console = Console()
    console.print(table)
    console.print(f"points (95 % interval) and time against {base}, by seed and image", highlight=False)
