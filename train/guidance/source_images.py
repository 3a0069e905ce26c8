"""The images that training sets were fitted to, small, where guidance can look them up."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ...images.originals import Masks, Originals
from ...schemas.errors import GvitError
from ...schemas.rows import Row, table_to_rows
from .shared_tensor import shared_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from ...dataset.reader import Dataset
    from ...schemas.manifest import Manifest
    from ..ranks import Ranks

__all__ = [
    "FindMask",
    "FindPixels",
    "SourceImages",
    "Sources",
    "open_sources",
    "read_all",
    "rows_of",
    "shrink",
]

FindPixels = Callable[[Row], npt.NDArray[np.uint8]]
"""From a row to the pixels ``[S, S, 3]`` that its set was fitted to; a GvitError where they are not there."""

FindMask = Callable[[Row], "npt.NDArray[np.uint8] | None"]
"""From a row to the mask ``[S, S]`` of the object in its image, 255 inside; None where there is none."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What is at hand of that which a dataset was made of.

    Attributes:
        pixels: Gives the image of a row; None where no images were given.
        mask: Gives the mask of a row; None where no masks were given.
    """

    pixels: FindPixels | None = None
    mask: FindMask | None = None


def open_sources(manifest: Manifest, *, images: Path | None, masks: Path | None) -> Sources:
    """Return what finds the images that sets were fitted to, and the masks of their objects.

    Args:
        manifest: Of the dataset.
        images: What was encoded: a folder, a tar or a Parquet file; None leaves images out. An image is the
            one whose hash the row has.
        masks: A folder with a PNG at the path of each image that has a mask; None leaves masks out.

    Raises:
        GvitError: There is nothing; or, when a row is asked for, its image is missing or another one, or its
            mask is damaged.
    """
    if images is not None and not images.exists():
        raise GvitError(f"there is no {images}: give what was encoded with --images")
    if masks is not None and not masks.is_dir():
        raise GvitError(f"there is no folder {masks}: guidance.masks holds a PNG at the path of each image")
    return Sources(
        None if images is None else _pixel_finder(images, manifest),
        None if masks is None else Masks(masks, manifest).find,
    )


def _pixel_finder(images: Path, manifest: Manifest) -> FindPixels:
    originals = Originals(images, manifest)

    def find(row: Row) -> npt.NDArray[np.uint8]:
        found = originals.find(row)
        if found.pixels is None:
            raise GvitError(
                f"{images} does not go with the dataset: {row.source}, {found.absence}; "
                "give what was encoded with --images"
            )
        return found.pixels

    return find


class SourceImages:
    """Images uint8 ``[n, 3, R, R]``, in the order of a dataset's sets.

    Args:
        dataset: The sets.
        find: Gives the image of a row.
        side: R, at most the size of the fit; smaller ones are averaged over areas.
        run: Folder of the run; room for 3 n R R bytes while it lasts.
        ranks: Who shares them; on one machine.

    Raises:
        GvitError: An image is missing, damaged or another one.
    """

    def __init__(self, dataset: Dataset, find: FindPixels, side: int, run: Path, ranks: Ranks) -> None:
        def read(row: Row) -> Tensor:
            return torch.from_numpy(shrink(find(row), side)).permute(2, 0, 1)

        self._all = read_all(dataset, read, (3, side, side), run / ".images", ranks)

    def __call__(self, samples: Tensor, device: torch.device) -> Tensor:
        """Return images float32 ``[b, 3, R, R]`` in 0..1 of samples int64 ``[b]``, which are on the host."""
        return self._all[samples].to(device).float() / 255.0


def read_all(
    dataset: Dataset,
    read: Callable[[Row], Tensor | None],
    shape: tuple[int, ...],
    path: Path,
    ranks: Ranks,
) -> Tensor:
    """Read something for each set of a dataset once, before training begins.

    The ranks share the work: one that did it alone would keep the others waiting longer than they are ready
    to.

    Args:
        dataset: The sets.
        read: Gives uint8 of a shape for a row; None leaves zeros.
        shape: Of what is read for a row.
        path: Of a file that exists only meanwhile; see ``shared_tensor``.
        ranks: Who shares it; on one machine.

    Returns:
        uint8 ``[n, *shape]``, the same memory on all ranks.
    """
    rows = rows_of(dataset)

    def fill(whole: Tensor) -> None:
        def place(number: int) -> None:
            found = read(rows[number])
            if found is not None:
                whole[number] = found

        with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // ranks.world)) as pool:
            for _ in pool.map(place, range(ranks.rank, len(rows), ranks.world)):
                pass

    return shared_tensor(path, (len(rows), *shape), torch.uint8, ranks, fill)


def rows_of(dataset: Dataset) -> list[Row]:
    """Return the rows of the stored sets of a dataset, in their order."""
    return table_to_rows(dataset.set_rows)


def shrink(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Average an image ``[S, S, ..]`` over areas, to a smaller side."""
    if pixels.shape[0] == side:
        return pixels
    return np.array(Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX))
