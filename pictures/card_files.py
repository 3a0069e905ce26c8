"""The card of a finished dataset and the contact sheet beside it, written into its folder."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..dataset.card import About, dataset_card
from ..dataset.commit import atomic_write, write_manifest
from ..dataset.markdown import UNKNOWN_LICENSE, read_front_matter
from ..dataset.reader import open_dataset
from ..images.originals import Originals
from ..schemas.checksums import CARD_NAME, SHEET_NAME
from .draw import draw_sheet

if TYPE_CHECKING:
    from ..dataset.reader import Dataset

__all__ = ["write_dataset_card"]


def write_dataset_card(
    destination: Path,
    *,
    license_name: str | None = None,
    name: str | None = None,
    origin: str | None = None,
    sheet: int = 24,
    keep: bool = False,
) -> Path:
    """Write card, contact sheet and checksums of a dataset, and return the card.

    License and name are those that there are where None is given. `sheet` images are on the contact sheet, 0
    for none; `keep` leaves the card as it is.

    Raises:
        DatasetError: There is no dataset, or it is damaged.
        OSError: The folder cannot be written.
    """
    dataset = open_dataset(destination)
    if name is not None:
        dataset.manifest = replace(dataset.manifest, name=name)
    card = destination / CARD_NAME
    if not keep:
        drawn = _draw_sheet(dataset, destination / SHEET_NAME, sheet)
        known = read_front_matter(card).get("license", UNKNOWN_LICENSE)
        about = About(license_name or str(known), origin, SHEET_NAME if drawn else None)
        atomic_write(card, dataset_card(dataset, about).encode())
    write_manifest(destination, dataset.manifest)
    return card


def _draw_sheet(dataset: Dataset, path: Path, images: int) -> bool:
    """Draw renderings, without the originals: those are not ours to publish. Return whether there are any."""
    if not images or not len(dataset):
        path.unlink(missing_ok=True)
        return False
    picture = io.BytesIO()
    draw_sheet(dataset, Originals(None, dataset.manifest), images).image.save(
        picture, format="PNG", optimize=True
    )
    atomic_write(path, picture.getvalue())
    return True
