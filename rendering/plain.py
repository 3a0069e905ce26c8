"""The plain backend: the equation in NumPy alone, for an install without numba; slow, and right."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..schemas.gaussians import RULE
from .drawable import only_drawable

__all__ = ["render_batch"]

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.float64]


def render_batch(gaussians: Floats, height: int, width: int, threads: int | None = None) -> Floats:  # noqa: ARG001
    """Render sets [B, N, 9] as float32 [B, 3, H, W], not clipped; as `cpu.render_batch`."""
    images = [_render_one(one.astype(np.float64), height, width) for one in only_drawable(gaussians)]
    return np.stack(images) if images else np.empty((0, 3, height, width), np.float32)


def _render_one(gaussians: Pixels, height: int, width: int) -> Floats:
    """Walk a set [N, 9] front to back, each Gaussian over the rectangle in which it shows."""
    colour = np.zeros((height, width, 3))
    transmittance = np.ones((height, width))
    walking = np.ones((height, width), dtype=bool)
    for fields in gaussians[gaussians[:, 8] >= RULE.alpha_min]:
        rows, columns = _rectangle(fields, height, width)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        here = rows, columns
        alpha = _alpha(fields, rows, columns, height, width)
        after = transmittance[here] * (1.0 - alpha)
        stops = (alpha > 0.0) & (after <= RULE.transmittance_min)
        walking[here] &= ~stops  # the stopping one is not blended, nor is any behind it
        alpha[~walking[here]] = 0.0
        colour[here] += (transmittance[here] * alpha)[..., None] * fields[5:8]
        transmittance[here] *= 1.0 - alpha
    coverage = 1.0 - transmittance
    image = (1.0 + RULE.epsilon) * colour / (coverage + RULE.epsilon)[..., None]
    return image.transpose(2, 0, 1).astype(np.float32)


def _rectangle(fields: Pixels, height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns in which alpha may reach 1/255."""
    x, y, sx, sy, theta, *_, opacity = fields.tolist()
    reach = math.sqrt(2.0 * max(math.log(opacity / RULE.alpha_min), 0.0))
    cos, sin = math.cos(theta), math.sin(theta)
    across, down = reach * math.hypot(cos * sx, sin * sy), reach * math.hypot(sin * sx, cos * sy)
    return _pixels(y - down, y + down, height), _pixels(x - across, x + across, width)


def _pixels(low: float, high: float, count: int) -> slice:
    """Return the pixels whose centres lie between two places on the canvas, and one more at either end."""
    first, last = ((end + 1.0) * count / 2.0 - 0.5 for end in (low, high))
    return slice(max(0, math.floor(first)), min(count, math.ceil(last) + 1))


def _alpha(fields: Pixels, rows: slice, columns: slice, height: int, width: int) -> Pixels:
    """Return alpha at the pixel centres, [rows, columns], 0 where the Gaussian is skipped."""
    x, y, sx, sy, theta = fields[:5]
    dx = (np.arange(columns.start, columns.stop) + 0.5) * (2.0 / width) - 1.0 - x
    dy = ((np.arange(rows.start, rows.stop) + 0.5) * (2.0 / height) - 1.0 - y)[:, None]
    cos, sin = math.cos(theta), math.sin(theta)
    u, v = (cos * dx + sin * dy) / sx, (cos * dy - sin * dx) / sy
    alpha = np.minimum(RULE.alpha_max, fields[8] * np.exp(-0.5 * (u * u + v * v)))
    return np.where(alpha < RULE.alpha_min, 0.0, alpha)
