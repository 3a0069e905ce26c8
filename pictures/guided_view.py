"""One image before and after guidance: its original, both renderings, and where its Gaussians went."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ..rendering.arrays import psnr, render_numpy
from .ellipses import OVERSAMPLING, blank_canvas, finished, paint_ellipses
from .page import PAPER, Panel, draw_page, panel_side
from .view import Subject, enlarge, to_pixels

__all__ = ["Displacement", "GuidedView", "draw_displacement", "draw_guided_view"]


@dataclass(frozen=True, slots=True)
class GuidedView:
    """A picture, and what was measured for it.

    Attributes:
        image: The page.
        psnr_stored: Of the stored set against the original, dB; None where that is not at hand.
        psnr_guided: Of the guided set.
        mean_shift: Of the centres, in pixels of the fit.
    """

    image: Image.Image
    psnr_stored: float | None
    psnr_guided: float | None
    mean_shift: float


def draw_guided_view(subject: Subject, guided: npt.NDArray[np.float32]) -> GuidedView:
    """Draw the original, the stored set and the guided one [N, 9], and how the one became the other."""
    size, side = subject.size, panel_side(subject.size)
    renderings = render_numpy(np.stack([subject.gaussians, guided]), size, size)
    moved = draw_displacement(subject.gaussians, guided, side)
    shift = moved.mean * size
    before, after = (_quality(rendering, subject.original) for rendering in renderings)
    canvas = f"{size} x {size} pixels"
    shown = None if subject.original is None else enlarge(Image.fromarray(subject.original), side)
    stored_picture, guided_picture = (enlarge(to_pixels(rendering), side) for rendering in renderings)
    change = "" if before is None or after is None else f" ({after - before:+.2f})"
    panels = (
        Panel("original", subject.absence if shown is None else canvas, shown),
        Panel("stored", canvas if before is None else f"PSNR {before:.2f} dB", stored_picture),
        Panel("guided", canvas if after is None else f"PSNR {after:.2f} dB{change}", guided_picture),
        _movement(moved, shift, len(guided)),
    )
    page = draw_page(subject.title, subject.note, panels, side, subject.aspect)
    return GuidedView(page, before, after, shift)


def _quality(rendering: npt.NDArray[np.float32], original: npt.NDArray[np.uint8] | None) -> float | None:
    return None if original is None else psnr(rendering.transpose(2, 0, 1), original)


def _short(pixels: float) -> str:
    return f"{pixels:.1f}" if pixels >= 10.0 else f"{pixels:.2f}" if pixels >= 0.1 else f"{pixels:.1g}"


def _movement(moved: Displacement, shift: float, count: int) -> Panel:
    arrows = f", arrows x {moved.factor}" if moved.shown else ""
    visible = f"{moved.shown} of {count} visible" if moved.shown else "none visible"
    note = f"mean shift {_short(shift)} pixels, {visible}"
    return Panel(f"stored (pale) to guided{arrows}", note, moved.picture)


_PALENESS = 0.72
_STRENGTH = 0.7
_LONG, _LONGEST, _SPACING = 0.1, 0.5, 0.6
"""Arrows are enlarged until a quarter of them are longer than the first, or than this share of the room that
each Gaussian has, or one than the second; lengths in parts of the picture's side."""

_VISIBLE = 0.02
"""Least length of an arrow that is drawn, in parts of the picture's side."""

_NOTHING = 1e-5
"""Shifts of fewer parts of the picture's side are rounding."""

_ACCENT = (214, 24, 74)
_LINE, _CASING, _HEAD = 1.8, 4.2, 7.0  # of an arrow, in pixels of the finished picture


@dataclass(frozen=True, slots=True)
class Displacement:
    """A picture of what moved.

    Attributes:
        picture: The set before in pale colours, after in its own, and arrows from old to new centres.
        factor: How many times as long as the shifts the arrows are; 1 where they need not be longer.
        shown: Arrows; the others would be too short to see.
        mean: Mean shift of the centres, as a part of the picture's side.
    """

    picture: Image.Image
    factor: int
    shown: int
    mean: float


def draw_displacement(
    before: npt.NDArray[np.float32], after: npt.NDArray[np.float32], side: int
) -> Displacement:
    """Draw how a set [N, 9] became another, Gaussian by Gaussian, on a square of `side` pixels."""
    starts = (before[:, 0:2].astype(np.float64) + 1.0) / 2.0
    shifts = (after[:, 0:2].astype(np.float64) - before[:, 0:2]) / 2.0
    lengths = np.hypot(*shifts.T)
    factor = _factor(lengths)
    visible = lengths * factor >= _VISIBLE
    canvas = blank_canvas(side)
    paint_ellipses(canvas, before, paleness=_PALENESS)
    paint_ellipses(canvas, after, strength=_STRENGTH)
    arrows = [
        np.stack([start, start + factor * shift]) * canvas.width
        for start, shift in zip(starts[visible], shifts[visible], strict=True)
    ]
    draw = ImageDraw.Draw(canvas)
    for width, colour in ((_CASING, PAPER), (_LINE, _ACCENT)):
        for arrow in arrows:
            _draw_arrow(draw, arrow, width * OVERSAMPLING, colour)
    return Displacement(finished(canvas), factor, len(arrows), float(lengths.mean()))


def _factor(lengths: npt.NDArray[np.float64]) -> int:
    """The largest of 1, 2, 5, 10, 20, ... that keeps arrows within bounds; 1 where nothing moved."""
    if lengths.max() < _NOTHING:
        return 1
    long = min(_LONG, _SPACING / math.sqrt(len(lengths)))
    most = min(long / max(float(np.quantile(lengths, 0.75)), _NOTHING), _LONGEST / float(lengths.max()))
    decade = 10 ** math.floor(math.log10(max(most, 1.0)))
    return max(step * decade for step in (1, 2, 5) if step * decade <= max(most, 1.0))


def _draw_arrow(
    draw: ImageDraw.ImageDraw, arrow: npt.NDArray[np.float64], width: float, colour: tuple[int, int, int]
) -> None:
    """Draw an arrow [2, 2] from its first point to its second, in pixels of the canvas."""
    start, tip = arrow
    length = float(np.hypot(*(tip - start)))
    along = (tip - start) / length
    across = np.array([-along[1], along[0]])
    halo = (width - _LINE * OVERSAMPLING) / 2.0  # a casing surrounds the head, too
    head = min(_HEAD * OVERSAMPLING, 0.6 * length)
    neck, point = tip - (head + halo) * along, tip + 2.0 * halo * along
    side = (0.45 * head + 1.5 * halo) * across
    draw.line([tuple(start), tuple(neck + 0.1 * head * along)], fill=colour, width=round(width))
    draw.polygon([tuple(point), tuple(neck + side), tuple(neck - side)], fill=colour)
