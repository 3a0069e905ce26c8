"""A page of panels side by side: a title, a line below it, and pictures with captions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

__all__ = [
    "GREY",
    "HAIRLINE",
    "INK",
    "PAPER",
    "Panel",
    "Scale",
    "draw_page",
    "fit_text",
    "panel_side",
    "text_width",
    "write",
    "write_right",
]

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


Colour = tuple[int, int, int]

PAPER: Colour = (255, 255, 255)
INK: Colour = (33, 37, 41)
GREY: Colour = (108, 117, 125)
HAIRLINE: Colour = (206, 212, 218)

_ELLIPSIS = "..."


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> float:
    """Return how many pixels wide a line is at a size."""
    return _font(size).getlength(text)


def fit_text(text: str, size: int, width: float) -> str:
    """Return the text, its middle left out where it is wider than `width` pixels at this size."""
    if text_width(text, size) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        head, tail = (kept + 1) // 2, kept // 2
        shorter = text[:head] + _ELLIPSIS + text[len(text) - tail :]
        if text_width(shorter, size) <= width:
            return shorter
    return ""


def write(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, colour: Colour, width: float
) -> None:
    """Write one line whose upper left corner is at `place`, shortened to `width` pixels."""
    draw.text(place, fit_text(text, size, width), fill=colour, font=_font(size), anchor="la")


def write_right(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, colour: Colour
) -> None:
    """Write one line whose upper right corner is at `place`."""
    draw.text(place, text, fill=colour, font=_font(size), anchor="ra")
