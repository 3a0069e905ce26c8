"""`gvit bench`: the benchmarks as commands; each imports what it measures in its own body."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .output import Json  # noqa: TC001 - typer reads the annotations

__all__ = ["bench_app"]

bench_app = typer.Typer(
    help="Measure this machine: every figure beside something measured in the same run.", no_args_is_help=True
)

Size = Annotated[int, typer.Option(help="Canvas, S x S pixels.", min=8)]
Gaussians = Annotated[int, typer.Option("--num-gaussians", help="Gaussians per image.", min=1)]
Images = Annotated[
    Path | None, typer.Option(help="Folder of images to fit; default: scikit-image's photographs.")
]
Last = Annotated[int | None, typer.Option(help="Only the last so many images in name order.", min=1)]


def _print(result: dict[str, Any], as_json: bool) -> None:
    """One JSON line, or a table with a row per figure."""
    if as_json:
        typer.echo(json.dumps(result))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value", box=None)
    for name, value in result.items():
        rows = value.items() if isinstance(value, dict) else [("", value)]
        for part, number in rows:
            shown = f"{number:.4g}" if isinstance(number, float) else str(number)
            table.add_row(f"{name} {part}".strip(), shown)
    Console().print(table)


@bench_app.command("plan")
def plan_command(
    images: Annotated[int, typer.Option(help="Of the fake source.", min=1000)] = 1_000_000,
    as_json: Json = False,
) -> None:
    """Time and memory of listing and planning a source, per image.

    Example: gvit bench plan --images 100000
    """
    from ..benchmarks.plan import run

    _print(run(images), as_json)


@bench_app.command("render")
def render_command(size: Size = 224, num_gaussians: Gaussians = 256, as_json: Json = False) -> None:
    """Render + backward on one core, beside dense torch.

    Example: gvit bench render --size 64 --num-gaussians 64
    """
    from ..benchmarks.render import run

    _print(run(size, num_gaussians), as_json)


@bench_app.command("fit")
def fit_command(
    size: Size = 224,
    num_gaussians: Gaussians = 256,
    images: Images = None,
    last: Last = None,
    as_json: Json = False,
) -> None:
    """PSNR, SSIM and time of a fit, beside the textbook fit and GaussianImage's blending.

    Example: gvit bench fit --size 64 --num-gaussians 64 --last 2
    """
    from ..benchmarks.fit import run

    _print(run(size, num_gaussians, images, last), as_json)


@bench_app.command("loader")
def loader_command(as_json: Json = False) -> None:
    """Sets per second of the training loader, beside webdataset.

    Example: gvit bench loader --json
    """
    from ..benchmarks.loader import run

    _print(run(), as_json)


@bench_app.command("train")
def train_command(
    model: Annotated[str, typer.Option(help="A Vision Transformer of timm.")] = "vit_small_patch16_224",
    tokens: Annotated[int, typer.Option(help="Gaussians, and patches: a square number.", min=1)] = 196,
    batch_size: Annotated[int, typer.Option(help="Samples per update.", min=1)] = 16,
    steps: Annotated[int, typer.Option(help="Timed updates of each.", min=1)] = 12,
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile both networks.")] = False,
    guidance: Annotated[str, typer.Option(help="Of ours: none, refine or direct.")] = "none",
    stem: Annotated[str, typer.Option(help="Of ours: splat or none.")] = "splat",
    stem_side: Annotated[int, typer.Option(help="Side of what the stem renders, in pixels.")] = 56,
    as_json: Json = False,
) -> None:
    """An update on sets, beside one on pixels, one without the stem and one without guidance.

    Example: gvit bench train --tokens 64 --batch-size 4 --steps 3
    """
    from ..benchmarks.step import run

    result = run(
        model=model,
        tokens=tokens,
        batch_size=batch_size,
        steps=steps,
        precision=precision,
        device=device,
        compiled=compiled,
        guidance=guidance,
        stem=stem,
        stem_side=stem_side,
    )
    _print(result, as_json)
