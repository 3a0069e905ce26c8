"""Text on pictures: one typeface, which Pillow brings along, in the sizes and colours of a page."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from PIL import ImageFont

if TYPE_CHECKING:
    from PIL import ImageDraw

__all__ = ["GREY", "HAIRLINE", "INK", "PAPER", "fit_text", "text_width", "write", "write_right"]

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
