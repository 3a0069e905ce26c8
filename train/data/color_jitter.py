"""Colour changes that are linear in rgb, and so the same on Gaussians as on the image they render to.

In YIQ every one of them scales the gray Y about a pivot, or scales and turns the colour plane (I, Q). So they
commute, and one pass does all.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["COLOR_DRAWS", "ColorChange", "change_color", "lose_color", "mean_gray", "random_color_change"]

GRAY = (0.299, 0.587, 0.114)
COLOR_I = (0.595716, -0.274453, -0.321263)  # NTSC; both sum to 0, so gray has no colour
COLOR_Q = (0.211456, -0.522591, 0.311135)
COLOR_DRAWS = 4
_, FROM_I, FROM_Q = np.linalg.inv(np.array([GRAY, COLOR_I, COLOR_Q])).T.tolist()


class ColorChange(NamedTuple):
    """``Y' = scale Y + shift``, ``(I, Q)' = the complex factor (re, im) times (I, Q)``; each ``[B]``."""

    scale: Tensor
    shift: Tensor
    re: Tensor
    im: Tensor


def random_color_change(
    pivot: Tensor, chance: Tensor, *, brightness: float, contrast: float, saturation: float, hue: float
) -> ColorChange:
    """Return random changes with the factors of torchvision's ``ColorJitter``; the hue turns in YIQ.

    Args:
        pivot: gray that contrast keeps, ``[B]``.
        chance: uniform in 0..1, ``[B, COLOR_DRAWS]``.
        brightness: as of ``AugmentConfig``, and so the others.
        contrast: factor about the pivot.
        saturation: factor about each Gaussian's gray.
        hue: largest turn.
    """
    light, spread, color, turn = (chance * 2 - 1).unbind(dim=1)
    light, spread, color = 1 + light * brightness, 1 + spread * contrast, 1 + color * saturation
    angle, strength = turn * (2 * math.pi * hue), light * spread * color
    return ColorChange(
        light * spread, light * (1 - spread) * pivot, strength * angle.cos(), strength * angle.sin()
    )


def change_color(gaussians: Tensor, change: ColorChange) -> Tensor:
    """Return the sets ``[B, N, 9]`` with other colours: not clipped, so exactly linear."""
    scale, shift, re, im = (entry[:, None] for entry in change)
    *shape, r, g, b, opacity = gaussians.unbind(dim=-1)
    y, i, q = (v[0] * r + v[1] * g + v[2] * b for v in (GRAY, COLOR_I, COLOR_Q))
    y, i, q = scale * y + shift, re * i - im * q, im * i + re * q
    rgb = [y + from_i * i + from_q * q for from_i, from_q in zip(FROM_I, FROM_Q, strict=True)]
    return torch.stack([*shape, *rgb, opacity], dim=-1)


def lose_color(gaussians: Tensor, chosen: Tensor) -> Tensor:
    """Return the sets with those where ``chosen``, bool ``[B]``, in gray; the others keep their bits."""
    *shape, r, g, b, opacity = gaussians.unbind(dim=-1)
    y = GRAY[0] * r + GRAY[1] * g + GRAY[2] * b
    return torch.where(chosen[:, None, None], torch.stack([*shape, y, y, y, opacity], dim=-1), gaussians)


def mean_gray(gaussians: Tensor) -> Tensor:
    """Return about the mean gray of each set's rendering, ``[B]``: by opacity times area on the canvas.

    What is hidden behind others counts too, so this is a pivot, not a measurement.
    """
    _, _, sx, sy, _, r, g, b, opacity = gaussians.unbind(dim=-1)
    weight = opacity * sx.clamp(max=1) * sy.clamp(max=1)
    gray = GRAY[0] * r + GRAY[1] * g + GRAY[2] * b
    return (weight * gray).sum(dim=1) / weight.sum(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)
