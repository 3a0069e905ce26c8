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
    "in_shape",
    "panel_side",
    "shape_of",
    "text_width",
    "wrap_text",
    "write",
    "write_right",
]

_LEAST_SIDE, _LARGEST_SIDE = 320, 640
_MARGIN, _GAP = 28, 20
_TITLE, _NAME, _NOTE = 24, 17, 14  # text sizes
_HEADER, _CAPTION, _LEADING = 74, 56, 20
_LEAST_CELL = 300  # so that captions of a tall image find room


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


def shape_of(side: int, aspect: float) -> tuple[int, int]:
    """Return width and height in pixels of a picture of this width / height whose longer side is `side`."""
    return max(1, round(side * min(aspect, 1.0))), max(1, round(side * min(1.0 / aspect, 1.0)))


def in_shape(picture: Image.Image, shape: tuple[int, int]) -> Image.Image:
    """Return a picture of a square canvas in the shape that its image truly has."""
    return picture if picture.size == shape else picture.resize(shape, Image.Resampling.LANCZOS)


def draw_page(title: str, note: str, panels: Sequence[Panel], side: int, aspect: float = 1.0) -> Image.Image:
    """Draw panels in a row, with a header and captions, all text in full.

    Args:
        title: In large letters above all.
        note: A line below it; wrapped where it is longer than the page is wide.
        panels: Their pictures are `side` x `side` pixels, of the square canvas that was fitted.
        side: The longer side of a panel in pixels.
        aspect: True width / height, in which panels are shown.
    """
    shape = shape_of(side, aspect)
    cell = max(shape[0], _LEAST_CELL)
    width = 2 * _MARGIN + len(panels) * cell + (len(panels) - 1) * _GAP
    lines = wrap_text(note, _NAME, width - 2 * _MARGIN)
    header = _HEADER + (len(lines) - 1) * _LEADING
    captions = [wrap_text(panel.note, _NOTE, _caption_room(panel, cell)) for panel in panels]
    below = _CAPTION + (max(map(len, captions)) - 1) * _LEADING
    page = Image.new("RGB", (width, _MARGIN + header + shape[1] + below), PAPER)
    draw = ImageDraw.Draw(page)
    write(draw, (_MARGIN, _MARGIN - 4), title, _TITLE, INK, width - 2 * _MARGIN)
    _write_lines(draw, (_MARGIN, _MARGIN + 30), lines, _NAME)
    for number, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        _place(page, draw, panel, caption, (_MARGIN + number * (cell + _GAP), _MARGIN + header - 8), shape)
    return page


def _caption_room(panel: Panel, cell: int) -> int:
    return cell - (0 if panel.scale is None else panel.scale.bar.width + _GAP)


def _write_lines(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], lines: Sequence[str], size: int
) -> None:
    left, top = place
    for number, line in enumerate(lines):
        draw.text((left, top + number * _LEADING), line, fill=GREY, font=_font(size), anchor="la")


def _place(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    panel: Panel,
    caption: Sequence[str],
    corner: tuple[int, int],
    shape: tuple[int, int],
) -> None:
    (left, top), (width, height) = corner, shape
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=HAIRLINE, fill=None)
    if panel.picture is None:
        middle = top + height // 2 - _NOTE
        write(draw, (left + _GAP, middle), "not at hand", _NAME, GREY, width - 2 * _GAP)
    else:
        page.paste(in_shape(panel.picture, shape), corner)
    cell = max(width, _LEAST_CELL)
    write(draw, (left, top + height + 8), panel.name, _NAME, INK, cell)
    _write_lines(draw, (left, top + height + 30), caption, _NOTE)
    if panel.scale is not None:
        _draw_scale(page, draw, panel.scale, (left + cell, top + height + 10))


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


def wrap_text(text: str, size: int, width: float) -> list[str]:
    """Return the lines of a text of so many pixels at most; a word that is longer is shortened."""
    if text_width(text, size) <= width:
        return [text]
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if text_width(longer, size) <= width:
            lines[-1] = longer
        elif lines[-1]:
            lines.append(fit_text(word, size, width))
        else:
            lines[-1] = fit_text(word, size, width)
    return lines


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
