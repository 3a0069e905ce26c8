"""From Gaussians to token features: what a Vision Transformer is fed in place of patches.

Each Gaussian becomes one vector: its logarithmic scales, its direction, its colour and opacity, whitened by
the statistics of the training set, and Fourier features of its centre. Nothing depends on which row a
Gaussian stands in except the depth rank, which is a feature and can be left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from torch import Tensor, nn

from ...schemas.limits import Range, check_limits

if TYPE_CHECKING:
    from ...dataset.reader import Dataset

__all__ = ["FIELD_FEATURES", "SetTokens", "TokenConfig", "depth_rank", "field_features", "measure_statistics"]

FIELD_FEATURES = 10
_RANK_FEATURES = 2
_STATISTICS_SETS = 4096
_SMALLEST_SCALE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenConfig:
    """Which features a token has.

    Attributes:
        octaves: Fourier octaves of x and of y, 0 to 12; the lowest has one period over two canvases.
        damped: Weight each octave by what is left of it after blurring with the Gaussian itself.
        depth_rank: Whether a token knows how far in front its Gaussian is.

    Raises:
        GvitError: ``octaves`` is out of range.
    """

    octaves: Annotated[int, Range(0, 12)] = 7
    damped: bool = False
    depth_rank: bool = True

    def __post_init__(self) -> None:
        check_limits(self, "tokens.")

    @property
    def channels(self) -> int:
        """Features per token."""
        return FIELD_FEATURES + 4 * self.octaves + (_RANK_FEATURES if self.depth_rank else 0)


def field_features(gaussians: Tensor) -> Tensor:
    """Return features of the nine fields in which equal steps mean about equally much.

    They are x, y, log sx, log sy, (cos 2 theta, sin 2 theta) times the anisotropy (sx - sy) / (sx + sy), r,
    g, b and opacity. The direction is continuous where theta wraps, and vanishes where a Gaussian is round
    and has none.

    Args:
        gaussians: float32 ``[..., 9]``, see ``gvit.schemas.FIELDS``.

    Returns:
        float32 ``[..., 10]``, differentiable.
    """
    centre, scale, theta = gaussians[..., 0:2], gaussians[..., 2:4], gaussians[..., 4:5]
    scale = scale.clamp_min(_SMALLEST_SCALE)
    sx, sy = scale[..., 0:1], scale[..., 1:2]
    anisotropy = (sx - sy) / (sx + sy)
    direction = torch.cat([(2.0 * theta).cos(), (2.0 * theta).sin()], dim=-1) * anisotropy
    return torch.cat([centre, scale.log(), direction, gaussians[..., 5:9]], dim=-1)


def depth_rank(gaussians: Tensor) -> Tensor:
    """Return the rank of each row of sets ``[B, N, 9]``, 0 in front to 1 behind, as float32 ``[B, N]``."""
    count = gaussians.shape[1]
    ranks = torch.linspace(0.0, 1.0, count, device=gaussians.device) if count > 1 else torch.zeros(1)
    return ranks.to(gaussians.device).expand(gaussians.shape[0], count)


def measure_statistics(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each field feature over sets spread evenly over a dataset.

    Returns:
        Two float32 ``[10]``; a feature that never changes (gray images aside, a fixed opacity) has
        deviation 1.
    """
    chosen = np.linspace(0, len(dataset) - 1, min(len(dataset), _STATISTICS_SETS)).astype(np.int64)
    features = field_features(torch.from_numpy(dataset.gaussians(chosen))).double().flatten(0, 1)
    deviation, mean = torch.std_mean(features, dim=0, correction=0)
    deviation = torch.where(deviation > 1e-4, deviation, torch.ones_like(deviation))
    return mean.float(), deviation.float()


class SetTokens(nn.Module):
    """Turns sets into token features, in float32 whatever the autocast around it.

    Mean and deviation are float32 ``[10]`` of the field features, the latter positive.
    """

    mean: Tensor
    deviation: Tensor
    frequencies: Tensor

    def __init__(self, config: TokenConfig, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", mean.clone())
        self.register_buffer("deviation", deviation.clone())
        octaves = torch.arange(config.octaves, dtype=torch.float32)
        self.register_buffer("frequencies", (math.pi / 2) * 2.0**octaves, persistent=False)

    def forward(self, gaussians: Tensor, rank: Tensor | None = None) -> Tensor:
        """Return features ``[B, N, channels]`` of sets ``[B, N, 9]``.

        Args:
            gaussians: float32; rows in any order where ``rank`` is given.
            rank: float32 ``[B, N]``, 0 in front to 1 behind; None where the rows are in depth order.
        """
        with torch.autocast(gaussians.device.type, enabled=False):
            gaussians = gaussians.float()
            parts = [(field_features(gaussians) - self.mean) / self.deviation]
            if self.config.octaves:
                parts.append(self._fourier(gaussians))
            if self.config.depth_rank:
                rank = depth_rank(gaussians) if rank is None else rank
                angle = (math.pi * rank).unsqueeze(-1)
                parts.append(math.sqrt(2.0) * torch.cat([angle.cos(), (2.0 * angle).cos()], dim=-1))
            return torch.cat(parts, dim=-1)

    def _fourier(self, gaussians: Tensor) -> Tensor:
        angles = gaussians[..., 0:2].unsqueeze(-1) * self.frequencies
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        if self.config.damped:
            damping = (-0.5 * _axis_variances(gaussians).unsqueeze(-1) * self.frequencies.square()).exp()
            waves = waves * torch.cat([damping, damping], dim=-1)
        return math.sqrt(2.0) * waves.flatten(-2)


def _axis_variances(gaussians: Tensor) -> Tensor:
    """Variances along x and y ``[..., 2]``: the diagonal of the covariance."""
    major, minor = gaussians[..., 2].square(), gaussians[..., 3].square()
    cos2 = gaussians[..., 4].cos().square()
    return torch.stack([major * cos2 + minor * (1 - cos2), major * (1 - cos2) + minor * cos2], dim=-1)
