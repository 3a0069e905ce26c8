"""Keeping guided sets true to the image: the error of their renderings, in units of the fit's own error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...rendering.operator import render
from .similarity import WINDOW, ms_ssim

__all__ = ["Goal", "Reconstruction", "Rendered", "Targets"]

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
