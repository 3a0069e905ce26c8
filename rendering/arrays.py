"""Sets to images as arrays: by the numba kernels, or by their plain twin where numba is not installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["render_batch", "render_numpy"]


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
