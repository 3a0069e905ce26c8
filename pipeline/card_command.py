"""Writing the card of a finished dataset: `gvit card`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..schemas.dataset import Dataset

__all__ = ["card_command"]

Destination = Annotated[Path, typer.Argument(metavar="DST", help="Folder of a finished dataset.")]
License = Annotated[
    str | None,
    typer.Option("--license", help="License, as the hub names it.", show_default="that of the card there is"),
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the dataset; kept in dataset.json.")]
Origin = Annotated[str | None, typer.Option("--origin", help="Where the images are from: name or address.")]
Sheet = Annotated[
    int, typer.Option("--sheet", help="Images on the contact sheet; 0 for none.", min=0, max=1000)
]
Keep = Annotated[
    bool,
    typer.Option("--keep", help="Keep a README.md that was edited by hand; only renew the checksums."),
]


def card_command(
    destination: Destination,
    license_name: License = None,
    name: Name = None,
    origin: Origin = None,
    sheet: Sheet = 24,
    keep: Keep = False,
) -> None:
    """Write README.md of a dataset, for the Hugging Face hub and for people, and a contact sheet."""
    from ..schemas.checksums import CARD_NAME, SHEET_NAME
    from ..schemas.commit import atomic_write, write_manifest
    from ..schemas.dataset import open_dataset
    from .card import UNKNOWN_LICENSE, About, dataset_card

    dataset = open_dataset(destination)
    if name is not None:
        dataset.manifest = replace(dataset.manifest, name=name)
    card = destination / CARD_NAME
    if not keep:
        drawn = _draw_sheet(dataset, destination / SHEET_NAME, sheet)
        known = _front_matter(card).get("license", UNKNOWN_LICENSE)
        about = About(license_name or str(known), origin, SHEET_NAME if drawn else None)
        atomic_write(card, dataset_card(dataset, about).encode())
    write_manifest(destination, dataset.manifest)
    typer.echo(f"wrote {card}")


def _draw_sheet(dataset: Dataset, path: Path, images: int) -> bool:
    """Draw renderings, without the originals: those are not ours to publish. Return whether there are any."""
    from .originals import Originals
    from .pictures import draw_sheet, save

    if not images or not len(dataset):
        path.unlink(missing_ok=True)
        return False
    save(draw_sheet(dataset, Originals(None, dataset.manifest), images), path)
    return True


def _front_matter(card: Path) -> dict[str, Any]:
    """Return what the front matter of a card says, nothing where there is none that can be read."""
    import yaml

    try:
        _, front, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        found = yaml.safe_load(front)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
