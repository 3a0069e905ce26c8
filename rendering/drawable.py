"""Which Gaussians can be drawn at all."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["DRAWABLE_LIMIT", "only_drawable"]

DRAWABLE_LIMIT = 1e6
"""Centres and scales beyond it, and scales below its inverse, are not drawn: canvas units."""


def only_drawable(gaussians: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return a copy in which what cannot be drawn has opacity 0 and harmless other fields.

    That is: a field that is not finite, a scale that is not positive, or a centre or scale beyond 1e6.
    """
    drawable = np.asarray(np.isfinite(gaussians).all(-1))
    with np.errstate(invalid="ignore"):
        drawable &= (np.abs(gaussians[..., :4]) < DRAWABLE_LIMIT).all(-1) & (
            gaussians[..., 2:4] > 1 / DRAWABLE_LIMIT
        ).all(-1)
    harmless = np.array([0, 0, 1, 1, 0, 0, 0, 0, 0], np.float32)
    return np.ascontiguousarray(np.where(drawable[..., None], gaussians, harmless), np.float32)
