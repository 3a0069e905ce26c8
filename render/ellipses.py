"""A set of Gaussians drawn as what it is: ellipses in their colours, the front ones on top."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["DEVIATIONS", "draw_ellipses", "ellipse_outlines"]

DEVIATIONS = 1.5
"""Half axes of an ellipse in standard deviations."""

_CORNERS = 48
_OVERSAMPLING = 3
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
    large = side * _OVERSAMPLING
    image = Image.new("RGB", (large, large), _GROUND)
    draw = ImageDraw.Draw(image, "RGBA")
    outlines = ellipse_outlines(gaussians, large)
    colours = (gaussians[:, 5:8].clip(0.0, 1.0) * 255.0).round()
    opacities = (gaussians[:, 8] * 255.0).round()
    for outline, colour, opacity in reversed(list(zip(outlines, colours, opacities, strict=True))):
        red, green, blue = (int(value) for value in colour)
        rim = (int(red * _RIM), int(green * _RIM), int(blue * _RIM), 255)
        corners = [(float(x), float(y)) for x, y in outline]
        draw.polygon(corners, fill=(red, green, blue, int(opacity)), outline=rim, width=_OVERSAMPLING - 1)
    return image.resize((side, side), Image.Resampling.LANCZOS)
