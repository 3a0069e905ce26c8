"""Small moves of Gaussians: what guidance may do to a set, and no more.

A move is ``[.., 9]`` in units of its bounds: -1..1 in each coordinate, 0 leaves the Gaussian as it is. It
acts in the Gaussian's own frame and before the limits of the fields: centres along the two axes in parts of
the standard deviations there, scales as logarithms, opacity as a logit. So the same move means about as much
for a large Gaussian as for a small one, and no field can leave its range.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..schemas.gaussians import MIN_OPACITY

__all__ = ["BOUNDS", "move"]

BOUNDS = (0.5, 0.5, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.5)
"""Largest move at reach 1: along the two axes (standard deviations), log scales, angle (radians), red, green,
blue (1 is the whole range), opacity (logit)."""


def move(gaussians: Tensor, moves: Tensor, *, reach: float, min_scale: float) -> Tensor:
    """Return sets with each Gaussian moved.

    Args:
        gaussians: float32 ``[..., 9]`` in canvas units, as stored.
        moves: ``[..., 9]``, -1..1.
        reach: Factor of all ``BOUNDS``.
        min_scale: Least standard deviation, canvas units.

    Returns:
        float32 ``[..., 9]``, differentiable in both. ``sx >= sy`` need not hold any more.
    """
    bounds = torch.tensor(BOUNDS, device=moves.device) * reach
    change = moves.float() * bounds
    centre, scale, theta, colour, opacity = gaussians.split([2, 2, 1, 3, 1], dim=-1)
    along, growth, turn, tint, weight = change.split([2, 2, 1, 3, 1], dim=-1)
    u, v = (along * scale).unbind(-1)
    cos, sin = theta.squeeze(-1).cos(), theta.squeeze(-1).sin()
    shift = torch.stack([cos * u - sin * v, sin * u + cos * v], dim=-1)
    odds = weight.exp()
    return torch.cat(
        [
            centre + shift,
            (scale * growth.exp()).clamp_min(min_scale),
            theta + turn,
            colour + tint,
            (opacity * odds / (1.0 + opacity * (odds - 1.0))).clamp(MIN_OPACITY, 1.0),
        ],
        dim=-1,
    )
