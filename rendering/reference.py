"""The oracle: the equation as it is written, dense, in float64, differentiated by torch autograd."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..schemas.gaussians import RULE

__all__ = ["Reference", "render_reference"]


class Reference(NamedTuple):
    """What the equation gives, and where it can be compared.

    image is [B, 3, H, W]; smooth is bool [B, H, W]: true where every alpha and every T (1 - alpha) keeps at
    least the relative margin from its threshold, so that rounding cannot make another backend jump.
    """

    image: Tensor
    smooth: Tensor


def render_reference(gaussians: Tensor, height: int, width: int, *, margin: float = 1e-4) -> Reference:
    """Render sets of Gaussians, every pixel against every Gaussian.

    Args:
        gaussians: [B, N, 9], canvas units, any float dtype; row 0 is in front. All must be drawable.
        height: Rows.
        width: Columns.
        margin: Relative distance from a threshold below which a pixel does not count as smooth.

    Returns:
        The image, float64 [B, 3, H, W], not clipped, and the mask of pixels away from thresholds.
    """
    fields = gaussians.double()
    sigma = _half_mahalanobis(fields, height, width)  # [B, N, H, W]
    falloff = fields[..., 8, None, None] * torch.exp(-sigma)
    alpha = falloff.clamp(max=RULE.alpha_max)
    alpha = torch.where(alpha < RULE.alpha_min, 0.0, alpha)
    # The walk stops for good where T (1 - alpha) falls to the minimum: T never grows, so once is always.
    transmittance = torch.cumprod(1.0 - alpha, dim=1)
    walking = transmittance > RULE.transmittance_min
    before = torch.cat([torch.ones_like(transmittance[:, :1]), transmittance[:, :-1]], dim=1)
    weights = torch.where(walking, before * alpha, 0.0)
    colour = torch.einsum("bnhw,bnc->bchw", weights, fields[..., 5:8])
    coverage = weights.sum(1, keepdim=True)
    image = (1.0 + RULE.epsilon) * colour / (coverage + RULE.epsilon)
    near = _near(falloff, RULE.alpha_min, margin) | _near(falloff, RULE.alpha_max, margin)
    # A Gaussian behind the stop no longer matters, nor does one that is skipped.
    reached = torch.cat([torch.ones_like(walking[:, :1]), walking[:, :-1]], dim=1)
    near = (near | ((alpha > 0) & _near(transmittance, RULE.transmittance_min, margin))) & reached
    return Reference(image, ~near.any(1))


def _near(value: Tensor, threshold: float, margin: float) -> Tensor:
    return (value.detach() - threshold).abs() < margin * threshold


def _half_mahalanobis(fields: Tensor, height: int, width: int) -> Tensor:
    """(u^2 + v^2) / 2 of every Gaussian at every pixel centre, [B, N, H, W], in its own rotated frame."""
    x = (torch.arange(width, dtype=torch.float64, device=fields.device) + 0.5) * (2.0 / width) - 1.0
    y = (torch.arange(height, dtype=torch.float64, device=fields.device) + 0.5) * (2.0 / height) - 1.0
    dx = x - fields[..., 0, None, None]  # [B, N, 1, W]
    dy = y[:, None] - fields[..., 1, None, None]  # [B, N, H, 1]
    cos, sin = fields[..., 4, None, None].cos(), fields[..., 4, None, None].sin()
    u = (cos * dx + sin * dy) / fields[..., 2, None, None]
    v = (cos * dy - sin * dx) / fields[..., 3, None, None]
    return 0.5 * (u * u + v * v)
