"""One image and its Gaussians side by side: original, rendering, ellipses, error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..rendering.arrays import psnr, render_numpy
from .ellipses import DEVIATIONS, draw_ellipses
from .page import Panel, Scale, draw_page, panel_side

__all__ = ["Subject", "draw_view", "enlarge", "error_map", "to_pixels"]

_BAR = (160, 10)  # of the error's colours, in pixels

_ERROR_SHOWN = 0.25
"""Errors from here on have the last colour."""

_ERROR_COLOURS = np.array(
    [[0, 0, 4], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]], np.float64
)
"""Evenly spaced points of matplotlib's map "magma"."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a view is of.

    Attributes:
        title: Its name.
        note: A line about it.
        gaussians: The set, float32 [N, 9].
        size: Side S of its canvas in pixels.
        original: The pixels that it was fitted to, uint8 [S, S, 3], or ...
        absence: ... a few words on why they are not shown.
        aspect: Width / height of what the canvas holds, in which it is shown.
    """

    title: str
    note: str
    gaussians: npt.NDArray[np.float32]
    size: int
    original: npt.NDArray[np.uint8] | None
    absence: str = ""
    aspect: float = 1.0


def to_pixels(image: npt.NDArray[np.float32]) -> Image.Image:
    """Return an image float [H, W, 3] in 0..1 as a picture."""
    return Image.fromarray((image * 255.0).round().astype(np.uint8))


def enlarge(picture: Image.Image, side: int) -> Image.Image:
    """Bring a picture to side x side pixels: enlarged, each pixel stays a sharp square."""
    shrinks = side < picture.width
    return picture.resize((side, side), Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST)


def error_map(
    rendering: npt.NDArray[np.float32], original: npt.NDArray[np.uint8]
) -> tuple[Image.Image, float]:
    """Return a picture of the error of each pixel, and the PSNR.

    Args:
        rendering: float [S, S, 3] in 0..1.
        original: uint8 [S, S, 3].

    Returns:
        A pixel's root mean square error over its channels in colour, black to yellow for 0 to 0.25 and more;
        -10 log10 of the mean squared error over all pixels and channels, in dB.
    """
    squared = np.square(rendering.astype(np.float64) - original / 255.0)
    picture = Image.fromarray(_in_colour(np.sqrt(squared.mean(axis=-1)) / _ERROR_SHOWN))
    return picture, psnr(rendering.transpose(2, 0, 1), original)


def _in_colour(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Colour values [...] of 0..1, and beyond 1 as 1: [..., 3]."""
    stops = np.linspace(0.0, 1.0, len(_ERROR_COLOURS))
    channels = [np.interp(values, stops, _ERROR_COLOURS[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def draw_view(subject: Subject) -> Image.Image:
    """Draw the four panels of a subject, with a header and captions."""
    side = panel_side(subject.size)
    return draw_page(subject.title, subject.note, _make_panels(subject, side), side, subject.aspect)


def _make_panels(subject: Subject, side: int) -> tuple[Panel, Panel, Panel, Panel]:
    size, count = subject.size, len(subject.gaussians)
    (rendering,) = render_numpy(subject.gaussians[None], size, size)
    canvas = f"{size} x {size} pixels"
    if subject.original is None:
        original = Panel("original", subject.absence, None)
        error = Panel("error", "", None)
    else:
        difference, quality = error_map(rendering, subject.original)
        original = Panel("original", canvas, enlarge(Image.fromarray(subject.original), side))
        error = Panel("error", f"PSNR {quality:.2f} dB", enlarge(difference, side), _error_scale())
    return (
        original,
        Panel("rendering", canvas, enlarge(to_pixels(rendering), side)),
        Panel(
            _gaussians(count),
            f"drawn to {DEVIATIONS} standard deviations",
            draw_ellipses(subject.gaussians, side),
        ),
        error,
    )


def _gaussians(count: int) -> str:
    return "1 Gaussian" if count == 1 else f"{count} Gaussians"


def _error_scale() -> Scale:
    width, height = _BAR
    ramp = np.broadcast_to(np.linspace(0.0, 1.0, width), (height, width))
    return Scale(Image.fromarray(_in_colour(ramp)), "0", f"{_ERROR_SHOWN} and more")
