"""`gvit predict`.

What the command needs is imported in its body, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .output import Json, say

__all__ = ["predict_command"]

Images = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")]
Run = Annotated[Path, typer.Option("--checkpoint", help="Folder of a run, a checkpoint or a shared model.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Top = Annotated[int, typer.Option(help="Classes to name per image.", min=1)]


def predict_command(
    images: Images, checkpoint: Run, device: Device = "auto", top: Top = 5, as_json: Json = False
) -> None:
    """Say what is in images, by a model that was trained on Gaussians."""
    from ..schemas.errors import GvitError
    from ..train.run.trained import predict

    missing = [image for image in images if not image.is_file()]
    if missing:
        raise GvitError(f"there is no image {missing[0]}: give image files")
    predictions = predict(checkpoint, images, device=device, top=top)
    for found in predictions:
        guesses = zip(found.names, found.probabilities, strict=True)
        words = ", ".join(f"{name} {chance:.1%}" for name, chance in guesses)
        say(f"{found.image}: {words}", err=as_json)
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
