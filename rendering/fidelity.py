"""How true a rendering is to its image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["psnr"]


def psnr(rendering: npt.NDArray[np.float32], target: npt.NDArray[np.uint8]) -> float:
    """-10 log10 of the mean squared error of clip(rendering [3, S, S]) against 8-bit pixels [S, S, 3], in dB.

    A perfect rendering has 100 dB: infinity is no number in JSON.
    """
    shown = rendering.clip(0.0, 1.0).transpose(1, 2, 0).astype(np.float64)
    error = float(np.square(shown - target / 255.0).mean())
    return -10.0 * math.log10(max(error, 1e-10))
