"""Structural similarity over several scales: a perceptual loss that needs no downloaded weights.

Wang, Simoncelli and Bovik, "Multi-scale structural similarity for image quality assessment" (2003). Images
too small for the five scales of the paper use the first ones, their exponents scaled to the same sum.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["WINDOW", "ms_ssim"]

WINDOW = 11
"""Side of the Gaussian window in pixels, and of the smallest scale that it is used on."""

_SIGMA = 1.5
_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_C1, _C2 = 0.01**2, 0.03**2
_LEAST = 1e-4  # contrast may be negative, where its power has no value


def ms_ssim(one: Tensor, other: Tensor) -> Tensor:
    """Return the similarity of images, ``[B]``, 1 where they are equal.

    Args:
        one: float32 ``[B, C, H, W]`` in 0..1, H and W at least ``WINDOW``.
        other: The same shape.
    """
    scales = _scales(min(one.shape[-2:]))
    total = sum(_EXPONENTS[:scales])
    result = torch.ones(len(one), device=one.device)
    for scale in range(scales):
        luminance, contrast = _ssim_parts(one, other)
        last = scale == scales - 1
        found = (luminance * contrast if last else contrast).flatten(1).mean(dim=1)
        result = result * found.clamp_min(_LEAST) ** (_EXPONENTS[scale] / total)
        one, other = (functional.avg_pool2d(image, 2) for image in (one, other))
    return result


def _scales(side: int) -> int:
    count = 1
    while count < len(_EXPONENTS) and side // 2**count >= WINDOW:
        count += 1
    return count


def _ssim_parts(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure maps ``[B, C, H - 10, W - 10]``."""
    channels = one.shape[1]
    stacked = torch.cat([one, other, one * one, other * other, one * other], dim=1)
    mean1, mean2, square1, square2, product = _blur(stacked).split(channels, dim=1)
    variances = square1 - mean1 * mean1 + square2 - mean2 * mean2
    covariance = product - mean1 * mean2
    luminance = (2 * mean1 * mean2 + _C1) / (mean1 * mean1 + mean2 * mean2 + _C1)
    return luminance, (2 * covariance + _C2) / (variances + _C2)


def _blur(images: Tensor) -> Tensor:
    """The Gaussian window over each channel, where it fits whole."""
    offsets = torch.arange(WINDOW, device=images.device, dtype=images.dtype) - WINDOW // 2
    weights = (-0.5 * (offsets / _SIGMA) ** 2).exp()
    weights = weights / weights.sum()
    channels = images.shape[1]
    kernel = weights.expand(channels, 1, WINDOW)
    rows = functional.conv2d(images, kernel.unsqueeze(2), groups=channels)
    return functional.conv2d(rows, kernel.unsqueeze(3), groups=channels)
