"""Holding a dataset to its word: render a sample of its sets again and compare with the original images."""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..dataset.reader import Dataset, open_dataset
from ..dataset.verify import Fault
from ..images.originals import Originals
from ..rendering.arrays import psnr, render_batch
from ..schemas.errors import GvitError
from ..schemas.rows import Row, table_to_rows

__all__ = ["PSNR_TOLERANCE", "Rerendered", "rerender"]

PSNR_TOLERANCE = 0.05
"""In dB: renderers differ a little where a value lies at a threshold of the blend rule."""


@dataclass(frozen=True, slots=True)
class Rerendered:
    """What came of a comparison: images whose PSNR was compared, the largest difference in dB, and faults."""

    compared: int
    largest: float
    faults: tuple[Fault, ...]


def rerender(dst: Path, images: Path, sample: int, seed: int = 0) -> Rerendered:
    """Compare the recorded PSNR of a random sample with that of a new rendering against the original.

    Args:
        dst: Folder of a dataset without faults.
        images: What was encoded.
        sample: Images to look at, at most.
        seed: Of the choice.

    Returns:
        How it went; a fault for each image of the sample that is not there, another one, or of another PSNR.

    Raises:
        GvitError: The dataset cannot be read, or there are no `images`.
    """
    dataset = open_dataset(dst)
    if not images.exists():
        raise GvitError(f"there is no {images}; give the original images as they were given to gvit encode")
    originals = Originals(images, dataset.manifest)
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:sample]
    rows = table_to_rows(dataset.set_rows.take(np.sort(chosen)))
    compared = [(row, *_compare(dataset, originals, row)) for row in rows]
    off = [difference for _, difference, _ in compared if difference is not None]
    faults = tuple(Fault(f"{row.shard}.tar", row.row or 0, text) for row, _, text in compared if text)
    return Rerendered(len(off), max(off, default=0.0), faults)


def _compare(dataset: Dataset, originals: Originals, row: Row) -> tuple[float | None, str]:
    """Return by how much the PSNR of an image differs, None where it cannot be told, and what is wrong."""
    original = originals.find(row)
    if original.pixels is None:
        return None, f"{row.key} cannot be compared with {row.source}: {original.absence}"
    size = dataset.manifest.size
    (rendering,) = render_batch(dataset.by_key(row.key).gaussians[None], size, size)
    found = psnr(rendering, original.pixels)
    difference = abs(found - (row.psnr or 0.0))
    if difference <= PSNR_TOLERANCE:
        return difference, ""
    return difference, f"the psnr of {row.key} is {found:.2f} dB where its row says {row.psnr:.2f} dB"
