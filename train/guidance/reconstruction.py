"""Keeping guided sets true to the image: the error of their renderings, in units of the fit's own error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ...rendering.operator import render

__all__ = ["WINDOW", "Goal", "Reconstruction", "Rendered", "Targets", "ms_ssim"]

_BLUR = 0.08
"""Variance in square pixels that is added below the size of the fit: its smallest Gaussians would alias."""

Targets = Callable[[Tensor, torch.device], Tensor]
"""From sample numbers, int64 ``[b]`` on the host, to source images float32 ``[b, 3, R, R]`` in 0..1."""


class Goal(NamedTuple):
    """What sets should show, and how well they do as they are stored.

    Attributes:
        image: float32 ``[b, 3, R, R]``.
        loss: Of the stored sets ``[b]``, see ``Rendered``; 0 where their renderings are the target.
        error: Mean squared error of the stored sets ``[b]``.
    """

    image: Tensor
    loss: Tensor
    error: Tensor


class Rendered(NamedTuple):
    """How well sets show what they should, per sample ``[b]``.

    Attributes:
        loss: Squared error in units of the fit's mean squared error, plus the weighted perceptual loss;
            differentiable.
        stored_loss: The same of the sets as they are stored; 0 where their renderings are the target.
        error: Mean squared error of the sets, colours in 0..1.
        stored_error: The same of the sets as they are stored.
    """

    loss: Tensor
    stored_loss: Tensor
    error: Tensor
    stored_error: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """Compares renderings of guided sets with images, or with renderings of the stored sets.

    Attributes:
        side: Of the renderings in pixels.
        blurs: Whether that is less than the size of the fit.
        unit: The mean squared error of the fit, from the mean PSNR of the dataset.
        perceptual: Weight of 1 - MS-SSIM; images too small for it do without.
        images: The source images; None compares with the stored sets.
    """

    side: int
    blurs: bool
    unit: float
    perceptual: float
    images: Targets | None = None

    def goal(self, stored: Tensor, samples: Tensor) -> Goal:
        """Return what sets ``[b, N, 9]`` should show; ``samples`` int64 ``[b]``, on the host, number them."""
        with torch.no_grad(), torch.autocast(stored.device.type, enabled=False):
            before = self._render(stored)
            if self.images is None:
                nothing = torch.zeros(len(before), device=before.device)
                return Goal(before, nothing, nothing)
            image = self.images(samples, stored.device)
            return Goal(image, *self._compare(before, image))

    def __call__(self, guided: Tensor, goal: Goal) -> Rendered:
        """Compare sets ``[b, N, 9]`` with what they should show."""
        with torch.autocast(guided.device.type, enabled=False):
            loss, error = self._compare(self._render(guided), goal.image)
        return Rendered(loss, goal.loss, error.detach(), goal.error)

    def _compare(self, shown: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and mean squared errors ``[b]`` of renderings ``[b, 3, R, R]``."""
        error = (shown - target).square().flatten(1).mean(dim=1)
        loss = error / self.unit
        if self.perceptual and self.side >= WINDOW:
            loss = loss + self.perceptual * (1.0 - ms_ssim(shown, target))
        return loss, error

    def _render(self, sets: Tensor) -> Tensor:
        if self.blurs:
            spread = _BLUR * (2.0 / self.side) ** 2
            scales = (sets[..., 2:4].square() + spread).sqrt()
            sets = torch.cat([sets[..., :2], scales, sets[..., 4:]], dim=-1)
        return render(sets, self.side, self.side).clamp(0.0, 1.0)

    def psnr_loss(self, error: float, stored_error: float) -> float:
        """Return what mean squared errors mean for a set of the fit's mean PSNR: dB lost, below 0 gained."""
        return 10.0 * math.log10(max(self.unit + error - stored_error, 1e-12) / self.unit)


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
