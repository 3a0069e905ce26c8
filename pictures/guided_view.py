"""One image before and after guidance: its original, both renderings, and where its Gaussians went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..rendering.arrays import render_numpy
from ..rendering.fidelity import psnr
from .displacement import Displacement, draw_displacement
from .page import Panel, draw_page, panel_side
from .view import Subject, enlarge, to_pixels

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["GuidedView", "draw_guided_view"]


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
    return GuidedView(draw_page(subject.title, subject.note, panels, side), before, after, shift)


def _quality(rendering: npt.NDArray[np.float32], original: npt.NDArray[np.uint8] | None) -> float | None:
    return None if original is None else psnr(rendering.transpose(2, 0, 1), original)


def _short(pixels: float) -> str:
    return f"{pixels:.1f}" if pixels >= 10.0 else f"{pixels:.2f}" if pixels >= 0.1 else f"{pixels:.1g}"


def _movement(moved: Displacement, shift: float, count: int) -> Panel:
    arrows = f", arrows x {moved.factor}" if moved.shown else ""
    visible = f"{moved.shown} of {count} visible" if moved.shown else "none visible"
    note = f"mean shift {_short(shift)} pixels, {visible}"
    return Panel(f"stored (pale) to guided{arrows}", note, moved.picture)
