"""`gvit predict`.

What the command needs is imported in its body, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["predict_command"]

Images = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")]
Run = Annotated[Path, typer.Option("--checkpoint", help="Folder of a run, a checkpoint or a shared model.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Top = Annotated[int, typer.Option(help="Classes to name per image.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Make the last line of stdout one JSON object.")]


def predict_command(
    images: Images, checkpoint: Run, device: Device = "auto", top: Top = 5, as_json: Json = False
) -> None:
    """Say what is in images, by a model that was trained on Gaussians."""
    from rich.console import Console

    from ..schemas.errors import GvitError
    from ..train.run.prediction import predict

    missing = [image for image in images if not image.is_file()]
    if missing:
        raise GvitError(f"there is no image {missing[0]}: give image files")
    predictions = predict(checkpoint, images, device=device, top=top)
    console = Console(stderr=as_json)
    for found in predictions:
        guesses = zip(found.names, found.probabilities, strict=True)
        words = ", ".join(f"{name} {chance:.1%}" for name, chance in guesses)
        console.print(f"{found.image}: {words}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        facts = [
            {
                "image": str(found.image),
                "classes": dict(zip(found.classes, found.probabilities, strict=True)),
                "psnr": found.psnr,
            }
            for found in predictions
        ]
        typer.echo(json.dumps({"predictions": facts}))
