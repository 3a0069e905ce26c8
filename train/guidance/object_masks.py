"""Where the object is in the images of training sets: what part of the Gaussians' coverage lies on it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ...schemas.errors import GvitError
from .source_images import read_all, shrink

if TYPE_CHECKING:
    from ...dataset.reader import Dataset
    from ...schemas.rows import Row
    from ..ranks import Ranks
    from .source_images import FindMask

__all__ = ["ObjectMasks", "coverage_inside"]

_CENTRE, _BESIDE = 1 / 3, 1 / 6
"""Weights of the unscented transform's points (Julier and Uhlmann 1997, kappa = 1): the centre, and sqrt(3)
standard deviations either way along each axis."""


class ObjectMasks:
    """Masks uint8 ``[n, R, R]``, in the order of a dataset's sets; all 0 where there is none.

    Args:
        dataset: The sets.
        find: Gives the mask of a row, or None.
        side: R, at most the size of the fit.
        run: Folder of the run; room for n R R bytes while it lasts.
        ranks: Who shares them; on one machine.

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
