"""Small moves of Gaussians: what guidance may do to a set, and no more.

A move is ``[.., 9]`` in units of its bounds: -1..1 in each coordinate, 0 leaves the Gaussian as it is. It
acts in the Gaussian's own frame and before the limits of the fields: centres along the two axes in parts of
the standard deviations there, scales as logarithms, opacity as a logit. So the same move means about as much
for a large Gaussian as for a small one, and no field can leave its range.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...schemas.gaussians import MIN_OPACITY

__all__ = ["MAX_SHIFT", "move"]

MAX_SHIFT = 0.5
"""Of the centre along each axis at reach 1, in standard deviations."""

_MAX_GROWTH = 0.2  # of the logarithm of a scale
_MAX_TURN = 0.2  # radians
_MAX_TINT = 0.1  # of the whole range of a colour
_MAX_WEIGHT = 0.5  # of the logit of the opacity


def move(gaussians: Tensor, moves: Tensor, *, reach: float, min_scale: float) -> Tensor:
    """Return sets with each Gaussian moved.

    Args:
        gaussians: float32 ``[..., 9]`` in canvas units, as stored.
        moves: ``[..., 9]``, -1..1.
        reach: Factor of all bounds.
        min_scale: Least standard deviation, canvas units.

    Returns:
        float32 ``[..., 9]``, differentiable in both. ``sx >= sy`` need not hold any more.
    """
    centre, scale, theta, colour, opacity = gaussians.split([2, 2, 1, 3, 1], dim=-1)
    along, growth, angle, tint, weight = (moves.float() * reach).split([2, 2, 1, 3, 1], dim=-1)
    shift = _turned(along * MAX_SHIFT * scale, theta.squeeze(-1))
    odds = (weight * _MAX_WEIGHT).exp()
    return torch.cat(
        [
            centre + shift,
            (scale * (growth * _MAX_GROWTH).exp()).clamp_min(min_scale),
            theta + angle * _MAX_TURN,
            colour + tint * _MAX_TINT,
            (opacity * odds / (1.0 + opacity * (odds - 1.0))).clamp(MIN_OPACITY, 1.0),
        ],
        dim=-1,
    )


def _turned(offsets: Tensor, theta: Tensor) -> Tensor:
    """Offsets ``[..., 2]`` along the axes of Gaussians as x and y; theta must broadcast."""
    (u, v), cos, sin = offsets.unbind(-1), theta.cos(), theta.sin()
    return torch.stack([cos * u - sin * v, sin * u + cos * v], dim=-1)
