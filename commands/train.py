"""Stage 2 on the command line.

What a command needs is imported in its body, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..train.asked import read_config
from .output import EXIT_INTERRUPTED, EXIT_TERMINATED, Json, say, starting, tell

if TYPE_CHECKING:
    from ..train.config import TrainConfig

__all__ = ["train_command"]

_DATA, _LEARNING, _GUIDING = "The data", "What is learned, and how", "Guidance by the classifier"
_RUN = "The run"

Shards = Annotated[Path | None, typer.Option(help="Dataset that gvit encode wrote.", rich_help_panel=_DATA)]
ValShards = Annotated[
    Path | None,
    typer.Option(
        help="Dataset to evaluate on.", show_default="the split val of --shards", rich_help_panel=_DATA
    ),
]
ValFraction = Annotated[
    float | None, typer.Option(help="Share of the training sets to hold out.", rich_help_panel=_DATA)
]
Cache = Annotated[str | None, typer.Option(help="auto, memory or mmap.", rich_help_panel=_DATA)]
RecipeName = Annotated[
    str | None,
    typer.Option(
        help="tiny, vit-s-90ep or deit-b; see --list-recipes.", show_default="tiny", rich_help_panel=_LEARNING
    ),
]
Model = Annotated[
    str | None,
    typer.Option(help="A Vision Transformer of timm, by name, at its own size.", rich_help_panel=_LEARNING),
]
Init = Annotated[
    str | None,
    typer.Option(
        help="Begin from the weights of a run, a checkpoint, a shared model or hf://USER/NAME.",
        show_default="random weights",
        rich_help_panel=_LEARNING,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        help="Passes over the data; more than a finished run has adds the others.", rich_help_panel=_LEARNING
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(help="Samples per update, over all devices.", rich_help_panel=_LEARNING)
]
Rate = Annotated[float | None, typer.Option("--lr", help="Highest learning rate.", rich_help_panel=_LEARNING)]
Seed = Annotated[int | None, typer.Option(help="Of every random choice.", rich_help_panel=_LEARNING)]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file of settings.", rich_help_panel=_LEARNING)
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Any setting.", rich_help_panel=_LEARNING),
]
Guidance = Annotated[
    str | None,
    typer.Option(
        help="none; refine, a network moves the Gaussians; direct, the stored ones move.",
        show_default="none",
        rich_help_panel=_GUIDING,
    ),
]
Gamma = Annotated[
    float | None,
    typer.Option(help="Weight of the classifier's gradient on the Gaussians.", rich_help_panel=_GUIDING),
]
Images = Annotated[
    Path | None,
    typer.Option(
        help="Folder that was encoded, to stay true to the images.",
        show_default="stay true to the stored sets",
        rich_help_panel=_GUIDING,
    ),
]
WriteTuned = Annotated[
    Path | None,
    typer.Option(help="Write what guidance moved as a dataset, to train on.", rich_help_panel=_GUIDING),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder of the run.", show_default="runs/DATASET-RECIPE", rich_help_panel=_RUN),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.", rich_help_panel=_RUN)]
Precision = Annotated[
    str | None, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=_RUN)
]
Accumulate = Annotated[
    int | None, typer.Option(help="Parts to cut a batch into, to save memory.", rich_help_panel=_RUN)
]
Compile = Annotated[bool | None, typer.Option("--compile", help="Compile the network.", rich_help_panel=_RUN)]
Resume = Annotated[
    str | None, typer.Option(help="auto goes on with the run in --out; never.", rich_help_panel=_RUN)
]
ListRecipes = Annotated[bool, typer.Option("--list-recipes", help="Describe the recipes, and stop.")]
Run = Annotated[Path, typer.Option("--checkpoint", help="Folder of a run, a checkpoint or a shared model.")]


def train_command(
    shards: Shards = None,
    val_shards: ValShards = None,
    val_fraction: ValFraction = None,
    cache: Cache = None,
    recipe: RecipeName = None,
    model: Model = None,
    init: Init = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    seed: Seed = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    guidance: Guidance = None,
    gamma: Gamma = None,
    images: Images = None,
    write_tuned: WriteTuned = None,
    out: Out = None,
    device: Device = None,
    precision: Precision = None,
    accumulate: Accumulate = None,
    compiled: Compile = None,
    resume: Resume = None,
    list_recipes: ListRecipes = False,
    as_json: Json = False,
) -> None:
    """Train a Vision Transformer on a dataset of Gaussians.

    A recipe gives all settings; --config, options and --set change them, in this order. Interrupted at any
    point, the same command goes on where it was. Under torchrun it trains on several devices.

    Example: gvit train --shards out/photos --recipe tiny --epochs 30 --out run

    Exit code 0: done; 2: it could not be done; 130: interrupted and saved.
    """
    if list_recipes:
        _list_recipes(as_json=as_json)
        return
    flags: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "init": init,
        "data": {"shards": shards, "val_shards": val_shards, "val_fraction": val_fraction, "cache": cache},
        "model": {"name": model},
        "schedule": {"lr": lr},
        "optim": {"accumulate": accumulate},
        "guidance": {"mode": guidance, "gamma": gamma, "images": images, "write_tuned": write_tuned},
        "run": {"out": out, "device": device, "precision": precision, "compile": compiled, "resume": resume},
    }
    with starting():
        settings = read_config(recipe, config, _given(flags), assignments or [])
        importlib.import_module("..train.run.run", __package__)
    _train(settings, as_json=as_json)


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that somebody gave, as settings."""
    kept: dict[str, Any] = {}
    for name, value in flags.items():
        if isinstance(value, dict):
            kept[name] = _given(dict[str, Any](value))
        elif value is not None:
            kept[name] = str(value) if isinstance(value, Path) else value
    return {name: value for name, value in kept.items() if value != {}}


def _train(config: TrainConfig, *, as_json: bool) -> None:
    from ..pictures.progress import three_digits
    from ..schemas.text import plural
    from ..train.run.interruption import Interrupted
    from ..train.run.run import train

    leads = os.environ.get("RANK", "0") == "0"
    try:
        summary = train(config)
    except Interrupted as interrupted:
        if leads:
            say(
                f"interrupted and saved at step {interrupted.step}: run the same command again to go on",
                err=True,
            )
        code = EXIT_TERMINATED if interrupted.terminated else EXIT_INTERRUPTED
        raise typer.Exit(code) from interrupted
    if not leads:
        return
    words = (
        f"top-1 {summary.top1:.2%}, top-5 {summary.top5:.2%}, loss {summary.loss:.4f} on {summary.samples} "
        f"samples after {plural(summary.epochs, 'epoch')} ({three_digits(summary.samples_per_second)} "
        f"samples/s); see {config.run.out}"
    )
    tell(words, asdict(summary), as_json=as_json)


def _list_recipes(*, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..pictures.progress import plain_duration
    from ..train.recipes import RECIPES, h100_hours

    hours = {name: h100_hours(recipe) for name, recipe in RECIPES.items()}
    table = Table("recipe", "for", "source", "on one H100", show_lines=True)
    for name, recipe in RECIPES.items():
        seconds = 3600 * hours[name]
        cost = plain_duration(seconds) if seconds >= 60 else "under a minute"
        table.add_row(name, recipe.purpose, recipe.source, cost)
    Console(stderr=as_json).print(table)
    if as_json:
        typer.echo(json.dumps({"recipes": {name: {"h100_hours": hours[name]} for name in hours}}))
