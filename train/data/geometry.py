"""Affine maps of Gaussians, differentiable, and which of them can still be seen.

A Gaussian with axes R S (rotation, standard deviations) becomes one with axes M R S; the singular value
decomposition of that 2 x 2 matrix gives its new standard deviations and rotation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...schemas import MIN_OPACITY

__all__ = [
    "AFFINE_DRAWS",
    "CROP_DRAWS",
    "AffineMap",
    "affine",
    "center_view",
    "crop",
    "flip_x",
    "random_crop",
    "small_affine",
    "visible",
]

CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop
CROP_DRAWS = 2 * CROP_ATTEMPTS + 2
AFFINE_DRAWS = 5
ROUND = 1e-12  # squared difference of the axes, relative, below which a Gaussian has no direction
QUARTER_TURN = float(np.float32(math.pi / 2))  # above pi / 2; guidance may turn Gaussians beyond
LARGEST_ANGLE = float(np.nextafter(np.float32(QUARTER_TURN), np.float32(0)))


class AffineMap(NamedTuple):
    """``x' = xx x + xy y + x0, y' = yx x + yy y + y0``, canvas units, each ``[B]``; determinant above 0."""

    xx: Tensor
    xy: Tensor
    yx: Tensor
    yy: Tensor
    x0: Tensor
    y0: Tensor

    def then(self, after: AffineMap) -> AffineMap:
        """Return the map that does this one first and ``after`` second."""
        return AffineMap(
            after.xx * self.xx + after.xy * self.yx,
            after.xx * self.xy + after.xy * self.yy,
            after.yx * self.xx + after.yy * self.yx,
            after.yx * self.xy + after.yy * self.yy,
            after.xx * self.x0 + after.xy * self.y0 + after.x0,
            after.yx * self.x0 + after.yy * self.y0 + after.y0,
        )


def crop(width: Tensor, height: Tensor, x: Tensor, y: Tensor) -> AffineMap:
    """Return the map that fills the canvas with a rectangle of it, all ``[B]``.

    Args:
        width: of the rectangle as part of the canvas's side, above 0; above 1 shows what is around it.
        height: the same.
        x: of its centre in canvas units.
        y: the same.
    """
    none = torch.zeros_like(width)
    return AffineMap(1 / width, none, none, 1 / height, -x / width, -y / height)


def random_crop(
    aspect: Tensor, chance: Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> AffineMap:
    """Return random resized crops, distributed over the true image as torchvision's are over pixels.

    Area uniform, log ratio uniform, until it fits in one of ten attempts; else the largest centred
    rectangle with the nearest ratio. Place uniform.

    Args:
        aspect: ``[B]``, true width / height of what the canvas shows.
        chance: uniform in 0..1, ``[B, CROP_DRAWS]``.
        scale: least and largest area as part of the image's.
        ratio: least and largest true width / height.
    """
    area = scale[0] + (scale[1] - scale[0]) * chance[:, :CROP_ATTEMPTS]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = torch.exp(low + (high - low) * chance[:, CROP_ATTEMPTS : 2 * CROP_ATTEMPTS])
    relative = shape / aspect[:, None]  # width / height in canvas units
    widths, heights = torch.sqrt(area * relative), torch.sqrt(area / relative)
    fits = (widths <= 1) & (heights <= 1)
    chosen = fits.int().argmax(dim=1, keepdim=True)  # the first that fits
    some = fits.any(dim=1)
    width = torch.where(some, widths.gather(1, chosen).squeeze(1), (ratio[1] / aspect).clamp(max=1))
    height = torch.where(some, heights.gather(1, chosen).squeeze(1), (aspect / ratio[0]).clamp(max=1))
    place = torch.where(some[:, None], chance[:, 2 * CROP_ATTEMPTS :], 0.5) * 2 - 1
    return crop(width, height, place[:, 0] * (1 - width), place[:, 1] * (1 - height))


def center_view(aspect: Tensor, *, fraction: float, whole: bool) -> AffineMap:
    """Return the map that restores the true aspect about the centre.

    Args:
        aspect: ``[B]``, true width / height of what the canvas shows.
        fraction: of the square's side that is seen.
        whole: whether the square is the smallest that holds all of the image, else the largest inside it.
    """
    side = torch.maximum(aspect, 1 / aspect) if whole else torch.ones_like(aspect)
    none = torch.zeros_like(aspect)
    width, height = (1 / aspect).clamp(max=1), aspect.clamp(max=1)
    return crop(width * side * fraction, height * side * fraction, none, none)


def small_affine(chance: Tensor, *, rotate: float, translate: float, zoom: float, shear: float) -> AffineMap:
    """Return random maps about the centre: shear along x, then zoom and rotation, then shift.

    Bounds are those of ``AugmentConfig``; ``chance`` is uniform in 0..1, ``[B, AFFINE_DRAWS]``.
    """
    angle, slant, size, x0, y0 = (chance * 2 - 1).unbind(dim=1)
    angle, slope = angle * math.radians(rotate), torch.tan(slant * math.radians(shear))
    scale = torch.exp(size * math.log1p(zoom))
    cos, sin = scale * angle.cos(), scale * angle.sin()
    return AffineMap(cos, cos * slope - sin, sin, sin * slope + cos, x0 * 2 * translate, y0 * 2 * translate)


def affine(gaussians: Tensor, mapping: AffineMap, *, min_scale: float = 0.0) -> Tensor:
    """Return the Gaussians after a map each set has of its own.

    Args:
        gaussians: ``[B, N, 9]``.
        mapping: one map per set, of positive determinant.
        min_scale: least standard deviation of what comes out, canvas units.

    Returns:
        ``[B, N, 9]``, canonical: sx >= sy, theta in ``[-pi/2, pi/2)``.
    """
    xx, xy, yx, yy, x0, y0 = (entry[:, None] for entry in mapping)
    x, y, sx, sy, theta, *rest = gaussians.unbind(dim=-1)
    cos, sin = theta.cos(), theta.sin()
    sx, sy, theta = _axes(
        sx * (xx * cos + xy * sin),
        sy * (xy * cos - xx * sin),
        sx * (yx * cos + yy * sin),
        sy * (yy * cos - yx * sin),
    )
    sx, sy = sx.clamp(min=min_scale), sy.clamp(min=min_scale)
    return torch.stack([xx * x + xy * y + x0, yx * x + yy * y + y0, sx, sy, theta, *rest], dim=-1)


def _axes(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return singular values and left rotation of ``[[a, b], [c, d]]``, whose determinant is positive.

    A matrix is the sum of a turning and a reflecting one, at half the sum and the difference of the angles,
    with half the sum and the difference of the singular values as their sizes (Blinn 1996).
    """
    turn_x, turn_y, reflect_x, reflect_y = (a + d) / 2, (c - b) / 2, (a - d) / 2, (c + b) / 2
    turn_square = turn_x * turn_x + turn_y * turn_y
    reflect_square = reflect_x * reflect_x + reflect_y * reflect_y
    # A round Gaussian has no direction, and the derivative of one would be infinite there.
    is_round = reflect_square <= ROUND * turn_square
    reflect_x = torch.where(is_round, 1.0, reflect_x)
    reflect_y = torch.where(is_round, 0.0, reflect_y)
    reflect = torch.where(is_round, 0.0, torch.sqrt(torch.where(is_round, 1.0, reflect_square)))
    longer = torch.sqrt(turn_square) + reflect
    shorter = torch.minimum((a * d - b * c) / longer, longer)
    angle = (torch.atan2(turn_y, turn_x) + torch.atan2(reflect_y, reflect_x)) / 2
    return longer, shorter, _wrap(angle)


def _wrap(angle: Tensor) -> Tensor:
    """Turn by half turns into ``[-pi/2, pi/2)``."""
    wrapped = angle - math.pi * torch.floor(angle / math.pi + 0.5)
    return wrapped.clamp(-LARGEST_ANGLE, LARGEST_ANGLE)


def flip_x(gaussians: Tensor, flipped: Tensor) -> Tensor:
    """Return the sets with those where ``flipped``, bool ``[B]``, mirrored left to right; exact both ways."""
    x, y, sx, sy, theta, *rest = gaussians.unbind(dim=-1)
    is_lowest = (theta < -LARGEST_ANGLE) & (theta >= -QUARTER_TURN)  # mirrored it is pi/2, the same axis
    turned = torch.where(is_lowest, theta, -theta)
    mirrored = torch.stack([-x, y, sx, sy, turned, *rest], dim=-1)
    return torch.where(flipped[:, None, None], mirrored, gaussians)


def visible(gaussians: Tensor, *, least: float = MIN_OPACITY) -> Tensor:
    """Return which Gaussians may reach alpha ``least`` on the canvas, bool ``[B, N]``.

    It is decided by the box around the ellipse where alpha is ``least``: what is left out cannot be drawn.
    """
    x, y, sx, sy, theta, *_, opacity = gaussians.detach().unbind(dim=-1)
    radius = torch.sqrt(2 * torch.log((opacity / least).clamp(min=1)))
    cos, sin = theta.cos(), theta.sin()
    reach_x = radius * torch.hypot(sx * cos, sy * sin)
    reach_y = radius * torch.hypot(sx * sin, sy * cos)
    return (x.abs() - reach_x <= 1) & (y.abs() - reach_y <= 1) & (opacity >= least)
