"""Sets to images as arrays: by the numba kernels, or by their plain twin where numba is not installed."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

__all__ = ["MIN_MEAN_ERROR", "psnr", "render_batch", "render_numpy"]

MIN_MEAN_ERROR = 1e-10
"""Below it a rendering counts as perfect: 100 dB."""


def render_batch(
    gaussians: npt.NDArray[np.float32], height: int, width: int, threads: int | None = None
) -> npt.NDArray[np.float32]:
    """Render sets.

    Args:
        gaussians: [B, N, 9], canvas units; what cannot be drawn (not finite, no extent) is left out.
        height: Rows.
        width: Columns.
        threads: Images in parallel; None for every usable core.

    Returns:
        float32 [B, 3, H, W], not clipped.
    """
    if find_spec("numba") is None:
        from .plain import render_batch as render
    else:
        from .cpu import render_batch as render
    return render(gaussians, height, width, threads)


def render_numpy(
    gaussians: npt.NDArray[np.float32], height: int, width: int, threads: int | None = None
) -> npt.NDArray[np.float32]:
    """Render sets [B, N, 9] as images: float32 [B, H, W, 3], clipped to 0..1."""
    images = render_batch(gaussians, height, width, threads)
    return np.ascontiguousarray(images.clip(0.0, 1.0).transpose(0, 2, 3, 1))


def psnr(rendering: npt.NDArray[np.float32], target: npt.NDArray[np.uint8]) -> float:
    """-10 log10 of the mean squared error of clip(rendering [3, S, S]) against 8-bit pixels [S, S, 3], in dB.

    A perfect rendering has 100 dB: infinity is no number in JSON.
    """
    shown = rendering.clip(0.0, 1.0).transpose(1, 2, 0).astype(np.float64)
    error = float(np.square(shown - target / 255.0).mean())
    return -10.0 * math.log10(max(error, MIN_MEAN_ERROR))
