"""The splat stem: what stands around a Gaussian, read from the rendering of its own set.

A token's nine numbers say nothing of its neighbours. The stem draws the very set that the classifier is
given, small, runs three convolutions over the picture, and reads picture and maps at each Gaussian's centre.
It needs no image, only the set.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...rendering.operator import render
from ..data.augment import only

__all__ = ["QUARTER_CHANNELS", "STEM_FEATURES", "SplatStem", "stem_flops"]

STEM_FEATURES = 64
"""Features that the stem adds to each token."""

QUARTER_CHANNELS = 64
"""Of the map at a quarter of the picture's side."""

_COLOURS, _HALF = 3, 32  # channels of the picture and of the half map
_GROUPS = 4
_CHANNELS = _COLOURS + _HALF + QUARTER_CHANNELS
_MEAN, _GAIN = 0.45, 4.0  # about the mean and one over the deviation of colours in photographs


class SplatStem(nn.Module):
    """Reads sets through their own rendering; float32 whatever the autocast around it.

    Args:
        side: Of the square rendering, in pixels.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.first = _layer(_COLOURS, _HALF, stride=2)
        self.second = _layer(_HALF, QUARTER_CHANNELS, stride=2)
        self.third = _layer(QUARTER_CHANNELS, QUARTER_CHANNELS, stride=1)
        self.project = nn.Linear(_CHANNELS, STEM_FEATURES)

    def forward(self, gaussians: Tensor, valid: Tensor | None = None, rank: Tensor | None = None) -> Tensor:
        """Return features ``[B, N, STEM_FEATURES]`` of sets, differentiable by rendering and by places.

        Args:
            gaussians: float32 ``[B, N, 9]``, all finite.
            valid: bool ``[B, N]``, which are there; the others are not drawn. None: all.
            rank: ``[B, N]``, the lower the further in front; None where row 0 is in front.
        """
        with torch.autocast(gaussians.device.type, enabled=False):
            gaussians = gaussians.float()
            drawn = render(_drawn_order(gaussians, valid, rank), self.side, self.side)
            return self.read(drawn.clamp(0.0, 1.0), gaussians[..., 0:2])

    def read(self, picture: Tensor, places: Tensor) -> Tensor:
        """Return features ``[B, N, STEM_FEATURES]`` of a picture at some places.

        Args:
            picture: float32 ``[B, 3, S, S]`` in 0..1, any S from 8.
            places: float32 ``[B, N, 2]`` in canvas units.
        """
        read = [_read(values, places) for values in self.maps(picture)]
        return self.project(torch.cat(read, dim=1).transpose(1, 2))

    def maps(self, picture: Tensor) -> list[Tensor]:
        """Return the whitened picture ``[B, 3, S, S]``, and the maps at half and at a quarter of its side."""
        picture = (picture - _MEAN) * _GAIN
        half = self.first(picture)
        quarter = self.second(half)
        return [picture, half, quarter + self.third(quarter)]


def _layer(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.GroupNorm(_GROUPS, outputs), nn.GELU()
    )


def _drawn_order(gaussians: Tensor, valid: Tensor | None, rank: Tensor | None) -> Tensor:
    """The sets as they are drawn: without those that are not there, the lowest rank in front."""
    if valid is not None:
        gaussians = only(valid, gaussians)
    if rank is not None:
        rows = rank.argsort(dim=1, stable=True)
        gaussians = gaussians.gather(1, rows.unsqueeze(-1).expand_as(gaussians))
    return gaussians


def _read(values: Tensor, places: Tensor) -> Tensor:
    """Read a map ``[B, C, h, w]`` bilinearly at places ``[B, N, 2]``: ``[B, C, N]``."""
    grid = places.unsqueeze(2)
    return functional.grid_sample(values, grid, padding_mode="border", align_corners=False).squeeze(3)


def stem_flops(side: int, tokens: int) -> float:
    """Return the operations of convolutions and projection for one set, multiply and add counted apart."""
    half, quarter = -(-side // 2), -(-side // 4)
    maps = half**2 * _COLOURS * _HALF + quarter**2 * (_HALF + QUARTER_CHANNELS) * QUARTER_CHANNELS
    return 2.0 * (9 * maps + tokens * _CHANNELS * STEM_FEATURES)
