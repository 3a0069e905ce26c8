"""A set of Gaussians drawn as what it is: ellipses in their colours, the front ones on top."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

__all__ = [
    "DEVIATIONS",
    "OVERSAMPLING",
    "blank_canvas",
    "draw_ellipses",
    "ellipse_outlines",
    "finished",
    "paint_ellipses",
]

DEVIATIONS = 1.5
"""Half axes of an ellipse in standard deviations."""

OVERSAMPLING = 3
"""Pixels of a canvas per pixel of the finished picture."""

_CORNERS = 48
_GROUND = (233, 236, 239)
_RIM = 0.72  # brightness of an outline against its ellipse's


def ellipse_outlines(gaussians: npt.NDArray[np.float32], side: int) -> npt.NDArray[np.float64]:
    """Return each Gaussian's outline at 1.5 standard deviations, on a square canvas.

    Args:
        gaussians: [N, 9], canvas units.
        side: Of the canvas in pixels.

    Returns:
        float64 [N, corners, 2], x and y in pixels.
    """
    x, y, sx, sy, theta = (gaussians[:, k, None].astype(np.float64) for k in range(5))
    angle = np.linspace(0.0, 2.0 * np.pi, _CORNERS, endpoint=False)
    u, v = DEVIATIONS * sx * np.cos(angle), DEVIATIONS * sy * np.sin(angle)
    outline = np.stack(
        [x + np.cos(theta) * u - np.sin(theta) * v, y + np.sin(theta) * u + np.cos(theta) * v], axis=-1
    )
    return (outline + 1.0) * side / 2.0


def draw_ellipses(gaussians: npt.NDArray[np.float32], side: int) -> Image.Image:
    """Draw a set [N, 9] on a light square of `side` pixels, each as see-through as its opacity says."""
    canvas = blank_canvas(side)
    paint_ellipses(canvas, gaussians)
    return finished(canvas)


def blank_canvas(side: int) -> Image.Image:
    """Return a light square, larger than `side` pixels until it is `finished`, for smooth edges."""
    return Image.new("RGB", (side * OVERSAMPLING, side * OVERSAMPLING), _GROUND)


def finished(canvas: Image.Image) -> Image.Image:
    """Return a canvas at the size that was asked for."""
    side = canvas.width // OVERSAMPLING
    return canvas.resize((side, side), Image.Resampling.LANCZOS)


def paint_ellipses(
    canvas: Image.Image, gaussians: npt.NDArray[np.float32], *, strength: float = 1.0, paleness: float = 0.0
) -> None:
    """Paint a set [N, 9] over what a blank canvas holds by now.

    Args:
        canvas: From `blank_canvas`.
        gaussians: Canvas units.
        strength: Factor of their opacities, 0 to 1; outlines stay.
        paleness: How far colours go towards the ground, outlines included, 0 to 1.
    """
    draw = ImageDraw.Draw(canvas, "RGBA")
    outlines = ellipse_outlines(gaussians, canvas.width)
    colours = gaussians[:, 5:8].clip(0.0, 1.0).astype(np.float64) * 255.0
    fills = _mixed(colours, paleness)
    rims = _mixed(colours * _RIM, paleness)
    opacities = (gaussians[:, 8] * strength * 255.0).round()
    for outline, fill, rim, opacity in reversed(list(zip(outlines, fills, rims, opacities, strict=True))):
        corners = [(float(x), float(y)) for x, y in outline]
        draw.polygon(corners, fill=(*fill, int(opacity)), outline=(*rim, 255), width=OVERSAMPLING - 1)


def _mixed(colours: npt.NDArray[np.float64], paleness: float) -> list[tuple[int, int, int]]:
    mixed = colours + paleness * (np.array(_GROUND) - colours)
    return [(int(red), int(green), int(blue)) for red, green, blue in mixed.round()]
