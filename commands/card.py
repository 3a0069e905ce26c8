"""`gvit card`: of a dataset or of a trained model, whichever the folder holds.

What the command needs is imported in its body, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["card_command"]

Folder = Annotated[
    Path,
    typer.Argument(metavar="DST|RUN", help="Folder of a finished dataset, or of a run of gvit train."),
]
License = Annotated[
    str | None,
    typer.Option("--license", help="License, as the hub names it.", show_default="that of the card there is"),
]
Name = Annotated[str | None, typer.Option("--name", help="Name; that of a dataset is kept in dataset.json.")]
Origin = Annotated[str | None, typer.Option("--origin", help="Where the images are from: name or address.")]
Keep = Annotated[bool, typer.Option("--keep", help="Keep a README.md that was edited by hand.")]
Sheet = Annotated[
    int,
    typer.Option("--sheet", help="Dataset: images on the contact sheet; 0 for none.", min=0, max=1000),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="Model: folder to share.", show_default="RUN/export"),
]


def card_command(
    folder: Folder,
    license_name: License = None,
    name: Name = None,
    origin: Origin = None,
    sheet: Sheet = 24,
    output: Output = None,
    keep: Keep = False,
) -> None:
    """Write the card of a dataset, or a folder to share of a model, for the Hugging Face hub and for people.

    A dataset gets a contact sheet as well. Of a run, DIR gets the evaluated weights of the last checkpoint,
    its config with the names of the labels, and a card; gvit evaluate and gvit predict take DIR too.
    """
    if _holds_model(folder):
        from ..train.run.model_card import ModelAbout, write_model

        card = write_model(folder, output, ModelAbout(license_name, name, origin), keep=keep)
    else:
        from ..pictures.card_files import write_dataset_card
        from ..schemas.errors import GvitError

        if output is not None:
            raise GvitError(f"{folder} is no run of gvit train, and -o is for those: leave it out")
        card = write_dataset_card(
            folder, license_name=license_name, name=name, origin=origin, sheet=sheet, keep=keep
        )
    typer.echo(f"wrote {card}")


def _holds_model(folder: Path) -> bool:
    """Tell whether a folder is a run, a checkpoint, or a model that was made to be shared."""
    return any((folder / name).is_file() for name in ("checkpoints.json", "about.json", "config.json"))
