"""One image and its Gaussians side by side: original, rendering, ellipses, error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from .cpu import render_numpy
from .ellipses import DEVIATIONS, draw_ellipses
from .lettering import GREY, HAIRLINE, INK, PAPER, write, write_right

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Subject", "draw_view", "enlarge", "error_map", "to_pixels"]

_LEAST_SIDE, _LARGEST_SIDE = 320, 640
_MARGIN, _GAP = 28, 20
_TITLE, _NAME, _NOTE = 24, 17, 14  # text sizes
_HEADER, _CAPTION = 74, 56
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
    """

    title: str
    note: str
    gaussians: npt.NDArray[np.float32]
    size: int
    original: npt.NDArray[np.uint8] | None
    absence: str = ""


@dataclass(frozen=True, slots=True)
class _Panel:
    name: str
    note: str
    picture: Image.Image | None
    bar: bool = False


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
    worst = 10.0**-10  # a perfect rendering has 100 dB
    psnr = -10.0 * math.log10(max(float(squared.mean()), worst))
    return Image.fromarray(_in_colour(np.sqrt(squared.mean(axis=-1)) / _ERROR_SHOWN)), psnr


def _in_colour(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Colour values [...] of 0..1, and beyond 1 as 1: [..., 3]."""
    stops = np.linspace(0.0, 1.0, len(_ERROR_COLOURS))
    channels = [np.interp(values, stops, _ERROR_COLOURS[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def panel_side(size: int) -> int:
    """Return how large a canvas of size x size pixels is shown: a whole multiple, unless it is very large."""
    return min(size * math.ceil(_LEAST_SIDE / size), _LARGEST_SIDE)


def draw_view(subject: Subject) -> Image.Image:
    """Draw the four panels of a subject, with a header and captions."""
    side = panel_side(subject.size)
    panels = _make_panels(subject, side)
    width = 2 * _MARGIN + len(panels) * side + (len(panels) - 1) * _GAP
    page = Image.new("RGB", (width, _MARGIN + _HEADER + side + _CAPTION), PAPER)
    draw = ImageDraw.Draw(page)
    write(draw, (_MARGIN, _MARGIN - 4), subject.title, _TITLE, INK, width - 2 * _MARGIN)
    write(draw, (_MARGIN, _MARGIN + 30), subject.note, _NAME, GREY, width - 2 * _MARGIN)
    for number, panel in enumerate(panels):
        _place(page, draw, panel, (_MARGIN + number * (side + _GAP), _MARGIN + _HEADER - 8), side)
    return page


def _make_panels(subject: Subject, side: int) -> tuple[_Panel, _Panel, _Panel, _Panel]:
    size, count = subject.size, len(subject.gaussians)
    (rendering,) = render_numpy(subject.gaussians[None], size, size)
    canvas = f"{size} x {size} pixels"
    if subject.original is None:
        original = _Panel("original", subject.absence, None)
        error = _Panel("error", "", None)
    else:
        difference, psnr = error_map(rendering, subject.original)
        original = _Panel("original", canvas, enlarge(Image.fromarray(subject.original), side))
        error = _Panel("error", f"PSNR {psnr:.2f} dB", enlarge(difference, side), bar=True)
    return (
        original,
        _Panel("rendering", canvas, enlarge(to_pixels(rendering), side)),
        _Panel(
            _gaussians(count),
            f"drawn to {DEVIATIONS} standard deviations",
            draw_ellipses(subject.gaussians, side),
        ),
        error,
    )


def _gaussians(count: int) -> str:
    return "1 Gaussian" if count == 1 else f"{count} Gaussians"


def _place(
    page: Image.Image, draw: ImageDraw.ImageDraw, panel: _Panel, corner: tuple[int, int], side: int
) -> None:
    left, top = corner
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=HAIRLINE, fill=None)
    if panel.picture is None:
        middle = top + side // 2 - _NOTE
        write(draw, (left + _GAP, middle), "not at hand", _NAME, GREY, side - 2 * _GAP)
    else:
        page.paste(panel.picture, corner)
    write(draw, (left, top + side + 8), panel.name, _NAME, INK, side)
    write(draw, (left, top + side + 30), panel.note, _NOTE, GREY, side)
    if panel.bar:
        _draw_bar(page, draw, (left + side, top + side + 10))


def _draw_bar(page: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int]) -> None:
    """Draw the error's colours and their range, right aligned to a corner."""
    width, height = _BAR
    right, top = corner
    ramp = np.broadcast_to(np.linspace(0.0, 1.0, width), (height, width))
    page.paste(Image.fromarray(_in_colour(ramp)), (right - width, top))
    write(draw, (right - width, top + height + 4), "0", _NOTE, GREY, width)
    write_right(draw, (right, top + height + 4), f"{_ERROR_SHOWN} and more", _NOTE, GREY)
