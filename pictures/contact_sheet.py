"""Many images on one page, each original beside its rendering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from ..rendering.arrays import render_numpy
from .page import GREY, INK, PAPER, text_width, write, write_right
from .view import enlarge, to_pixels

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Thumbnail", "draw_contact_sheet"]

_LEAST_SIDE, _LARGEST_SIDE = 128, 256
_PAGE = 1500  # pixels that a full row comes near to
_MARGIN, _GAP, _CAPTION, _HEADER = 28, 22, 40, 84
_TITLE, _NAME, _NOTE = 24, 17, 13  # text sizes


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image on the sheet: its name, its PSNR in dB, its original uint8 [S, S, 3] where it is at hand."""

    name: str
    psnr: float
    original: npt.NDArray[np.uint8] | None


def draw_contact_sheet(
    title: str,
    note: str,
    thumbnails: Sequence[Thumbnail],
    gaussians: npt.NDArray[np.float32],
    size: int,
) -> Image.Image:
    """Draw a sheet.

    Args:
        title: In large letters above all.
        note: A line below the title.
        thumbnails: n of them, in order.
        gaussians: Their sets, float32 [n, N, 9].
        size: Side of their canvas in pixels.
    """
    side = min(size * math.ceil(_LEAST_SIDE / size), _LARGEST_SIDE)
    cell = side if all(one.original is None for one in thumbnails) else 2 * side + 2
    columns = max(1, min(len(thumbnails), _PAGE // (cell + _GAP)))
    rows = math.ceil(len(thumbnails) / columns)
    width = 2 * _MARGIN + math.ceil(max(columns * (cell + _GAP) - _GAP, text_width(note, _NAME)))
    page = Image.new("RGB", (width, _MARGIN + _HEADER + rows * (side + _CAPTION)), PAPER)
    draw = ImageDraw.Draw(page)
    write(draw, (_MARGIN, _MARGIN - 4), title, _TITLE, INK, width - 2 * _MARGIN)
    write(draw, (_MARGIN, _MARGIN + 30), note, _NAME, GREY, width - 2 * _MARGIN)
    renderings = render_numpy(gaussians, size, size)
    for place, (thumbnail, rendering) in enumerate(zip(thumbnails, renderings, strict=True)):
        row, column = divmod(place, columns)
        left, top = _MARGIN + column * (cell + _GAP), _MARGIN + _HEADER - 16 + row * (side + _CAPTION)
        right = left + cell
        page.paste(enlarge(to_pixels(rendering), side), (right - side, top))
        if thumbnail.original is not None:
            page.paste(enlarge(Image.fromarray(thumbnail.original), side), (left, top))
        psnr = f"{thumbnail.psnr:.1f} dB"
        write_right(draw, (right, top + side + 5), psnr, _NOTE, INK)
        room = cell - text_width(psnr, _NOTE) - _GAP // 2
        write(draw, (left, top + side + 5), thumbnail.name, _NOTE, GREY, room)
    return page
