"""A page of panels side by side: a title, a line below it, and pictures with captions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from .lettering import GREY, HAIRLINE, INK, PAPER, write, write_right

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Panel", "Scale", "draw_page", "panel_side"]

_LEAST_SIDE, _LARGEST_SIDE = 320, 640
_MARGIN, _GAP = 28, 20
_TITLE, _NAME, _NOTE = 24, 17, 14  # text sizes
_HEADER, _CAPTION = 74, 56


@dataclass(frozen=True, slots=True)
class Scale:
    """What the colours of a panel mean: a bar of them, and what its two ends stand for."""

    bar: Image.Image
    least: str
    most: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A picture with a name and a note below it; None for one that is not at hand."""

    name: str
    note: str
    picture: Image.Image | None
    scale: Scale | None = None


def panel_side(size: int) -> int:
    """Return how large a canvas of size x size pixels is shown: a whole multiple, unless it is very large."""
    return min(size * math.ceil(_LEAST_SIDE / size), _LARGEST_SIDE)


def draw_page(title: str, note: str, panels: Sequence[Panel], side: int) -> Image.Image:
    """Draw panels of `side` x `side` pixels in a row, with a header and captions."""
    width = 2 * _MARGIN + len(panels) * side + (len(panels) - 1) * _GAP
    page = Image.new("RGB", (width, _MARGIN + _HEADER + side + _CAPTION), PAPER)
    draw = ImageDraw.Draw(page)
    write(draw, (_MARGIN, _MARGIN - 4), title, _TITLE, INK, width - 2 * _MARGIN)
    write(draw, (_MARGIN, _MARGIN + 30), note, _NAME, GREY, width - 2 * _MARGIN)
    for number, panel in enumerate(panels):
        _place(page, draw, panel, (_MARGIN + number * (side + _GAP), _MARGIN + _HEADER - 8), side)
    return page


def _place(
    page: Image.Image, draw: ImageDraw.ImageDraw, panel: Panel, corner: tuple[int, int], side: int
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
    if panel.scale is not None:
        _draw_scale(page, draw, panel.scale, (left + side, top + side + 10))


def _draw_scale(page: Image.Image, draw: ImageDraw.ImageDraw, scale: Scale, corner: tuple[int, int]) -> None:
    """Draw a bar of colours and what its ends mean, right aligned to a corner."""
    right, top = corner
    left, below = right - scale.bar.width, top + scale.bar.height + 4
    page.paste(scale.bar, (left, top))
    write(draw, (left, below), scale.least, _NOTE, GREY, scale.bar.width)
    write_right(draw, (right, below), scale.most, _NOTE, GREY)
