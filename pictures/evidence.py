"""An image as a classifier saw it: its pixels, its Gaussians, where the evidence lies, the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .ellipses import draw_ellipses
from .page import GREY, INK, PAPER, Panel, draw_page, panel_side, shape_of, write, write_right
from .view import enlarge

__all__ = ["draw_evidence"]

_FOR, _AGAINST = (0.80, 0.35, 0.05), (0.10, 0.35, 0.75)
_PALE = 0.93
_ALL = 95  # percentile of the evidence that has the full colour
_LINE, _BAR = 44, 8


def draw_evidence(
    title: str,
    pixels: npt.NDArray[np.uint8],
    gaussians: npt.NDArray[np.float32],
    evidence: npt.NDArray[np.float32],
    guesses: Sequence[tuple[str, float]],
    aspect: float = 1.0,
) -> Image.Image:
    """Draw a page of four panels.

    Args:
        title: What the image is called.
        pixels: What was fitted, uint8 [S, S, 3].
        gaussians: Its set, float32 [N, 9].
        evidence: How much each of them speaks for the first class, float32 [N].
        guesses: Names of classes and their probabilities, the likeliest first; not empty.
        aspect: True width / height of the image.
    """
    side = panel_side(pixels.shape[0])
    name, chance = guesses[0]
    panels = (
        Panel(
            "image", f"{pixels.shape[0]} x {pixels.shape[0]} pixels", enlarge(Image.fromarray(pixels), side)
        ),
        Panel("Gaussians", f"{len(gaussians)}, drawn to 1.5 deviations", draw_ellipses(gaussians, side)),
        Panel("evidence", "orange for it, blue against", draw_ellipses(_coloured(gaussians, evidence), side)),
        Panel("classes", "probability", _guesses(guesses, shape_of(side, aspect))),
    )
    return draw_page(title, f"{name} {chance:.1%}", panels, side, aspect)


def _coloured(
    gaussians: npt.NDArray[np.float32], evidence: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return a set whose colours say how much each Gaussian speaks for a class or against it."""
    largest = float(np.percentile(np.abs(evidence), _ALL)) or 1.0
    amount = np.clip(np.abs(evidence) / largest, 0.0, 1.0)[:, None]
    colours = np.where(evidence[:, None] > 0, _FOR, _AGAINST)
    shown = gaussians.copy()
    shown[:, 5:8] = _PALE + amount * (colours - _PALE)
    shown[:, 8] = 0.15 + 0.75 * amount[:, 0]
    return shown


def _guesses(guesses: Sequence[tuple[str, float]], shape: tuple[int, int]) -> Image.Image:
    side, height = shape
    page = Image.new("RGB", shape, PAPER)
    draw = ImageDraw.Draw(page)
    for number, (name, chance) in enumerate(guesses[: height // _LINE]):
        top = 12 + number * _LINE
        write(draw, (12, top), name, 16, INK, side - 100)
        write_right(draw, (side - 12, top), f"{chance:.1%}", 16, GREY)
        draw.rectangle((12, top + 22, 12 + (side - 24) * chance, top + 22 + _BAR), fill=(214, 96, 32))
    return page
