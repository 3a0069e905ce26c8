"""The images that training sets were fitted to, small, where guidance can look them up."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample

from ...images.originals import Masks, Originals
from ...schemas.cores import usable_cores
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
    "ObjectMasks",
    "SourceImages",
    "Sources",
    "coverage_inside",
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
    dataset: Dataset, read: Callable[[Row], Tensor | None], shape: tuple[int, ...], path: Path, ranks: Ranks
) -> Tensor:
    """Read something for each set of a dataset once, before training begins.

    The ranks share the work: one that did it alone would keep the others waiting longer than they are ready
    to. ``read`` gives uint8 of a shape for a row, or None for zeros; of ``path`` see ``shared_tensor``.

    Returns:
        uint8 ``[n, *shape]``, the same memory on all ranks.
    """
    rows = rows_of(dataset)

    def fill(whole: Tensor) -> None:
        def place(number: int) -> None:
            found = read(rows[number])
            if found is not None:
                whole[number] = found

        with ThreadPoolExecutor(max(1, usable_cores() // ranks.world)) as pool:
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


_CENTRE, _BESIDE = 1 / 3, 1 / 6
"""Weights of the unscented transform's points (Julier and Uhlmann 1997, kappa = 1): the centre, and sqrt(3)
standard deviations either way along each axis."""


class ObjectMasks:
    """Masks uint8 ``[n, R, R]``, in the order of a dataset's sets; all 0 where there is none.

    Arguments as of ``SourceImages``, but that ``find`` may return None.

    Raises:
        GvitError: A mask is damaged, or there is not one.
    """

    def __init__(self, dataset: Dataset, find: FindMask, side: int, run: Path, ranks: Ranks) -> None:
        def read(row: Row) -> Tensor | None:
            mask = find(row)
            return None if mask is None else torch.from_numpy(shrink(mask, side))

        self._all = read_all(dataset, read, (side, side), run / ".masks", ranks)
        if not self._all.any():
            raise GvitError(
                "no image of the dataset has a mask with an object in it: guidance.masks is a folder with a "
                "PNG at the path of each image"
            )

    def __call__(self, samples: Tensor, device: torch.device) -> Tensor:
        """Return masks float32 ``[b, R, R]`` in 0..1 of samples int64 ``[b]`` (on the host) on a device."""
        return self._all[samples].to(device).float() / 255.0


def coverage_inside(gaussians: Tensor, masks: Tensor) -> Tensor:
    """Return what part of the coverage of sets lies on the object.

    Coverage is a Gaussian's integral, opacity x 2 pi sx sy, as far as it lies on the canvas; what others hide
    counts too. It is integrated over the mask with five points.

    Args:
        gaussians: float32 ``[b, N, 9]`` in canvas units.
        masks: ``[b, R, R]``, 1 where the object is, 0 elsewhere.

    Returns:
        ``[b]``, 0..1.
    """
    x, y, sx, sy, theta = gaussians[..., :5].unbind(-1)
    along = torch.stack([sx * theta.cos(), sx * theta.sin()], dim=-1) * math.sqrt(3.0)
    across = torch.stack([-sy * theta.sin(), sy * theta.cos()], dim=-1) * math.sqrt(3.0)
    centre = torch.stack([x, y], dim=-1)
    points = torch.stack([centre, centre + along, centre - along, centre + across, centre - across], dim=2)
    layers = torch.stack([masks, torch.ones_like(masks)], dim=1)
    found = grid_sample(layers, points.to(masks), align_corners=False)  # [b, 2, N, 5]
    weights = found.new_tensor([_CENTRE, *[_BESIDE] * 4])
    mass = (gaussians[..., 8] * sx * sy)[:, None] * (found * weights).sum(dim=-1)
    inside, whole = mass.sum(dim=-1).unbind(dim=1)
    return inside / whole.clamp_min(torch.finfo(whole.dtype).tiny)
