"""Pictures at the end of a run: its curves, and who was taken for whom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

__all__ = ["LARGEST_CONFUSION", "draw_confusion", "draw_curves"]

LARGEST_CONFUSION = 50
"""Classes up to which a confusion matrix can be read."""

_INK, _PALE = (40, 40, 40), (222, 222, 222)
_COLOURS = {"train": (214, 96, 32), "evaluation": (32, 96, 176)}
_PANEL_WIDTH, _PANEL_HEIGHT, _MARGIN = 520, 340, 60
_CELL, _LABEL = 34, 110

Series = list[tuple[float, float]]


def draw_curves(points: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw loss and top-1 over the steps, for training and evaluation, as a PNG.

    Args:
        points: Of metrics.jsonl.
        path: Where to.
    """
    image = Image.new("RGB", (2 * _PANEL_WIDTH, _PANEL_HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    for place, name in enumerate(("loss", "top1")):
        series = {
            kind: [
                (p["step"], p[name]) for p in points if p["kind"] == kind and isinstance(p.get(name), float)
            ]
            for kind in _COLOURS
        }
        _draw_panel(draw, place * _PANEL_WIDTH, name, series)
    image.save(path)


def _draw_panel(draw: ImageDraw.ImageDraw, left: int, name: str, series: dict[str, Series]) -> None:
    values = [value for line in series.values() for _, value in line if np.isfinite(value)]
    steps = [step for line in series.values() for step, _ in line]
    top = 1.0 if name == "top1" else max(values, default=1.0) or 1.0
    last = max(steps, default=1.0) or 1.0
    x0, x1 = left + _MARGIN, left + _PANEL_WIDTH - 20
    y0, y1 = _PANEL_HEIGHT - 40, 40

    def place(step: float, value: float) -> tuple[float, float]:
        return x0 + (x1 - x0) * step / last, y0 + (y1 - y0) * min(max(value / top, 0.0), 1.0)

    font = ImageFont.load_default(13)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        _, y = place(0.0, share * top)
        draw.line([(x0, y), (x1, y)], fill=_PALE)
        draw.text((x0 - 6, y), f"{share * top:.2f}", fill=_INK, font=font, anchor="rm")
        x, _ = place(share * last, 0.0)
        draw.text((x, y0 + 8), f"{share * last:.0f}", fill=_INK, font=font, anchor="mt")
    draw.text(((x0 + x1) / 2, y0 + 24), "step", fill=_INK, font=font, anchor="mt")
    draw.text((x0, 12), name, fill=_INK, font=ImageFont.load_default(16), anchor="lt")
    for number, (kind, line) in enumerate(series.items()):
        draw.text((x1 - 90 * number, 14), kind, fill=_COLOURS[kind], font=font, anchor="rt")
        finite = [place(step, value) for step, value in line if np.isfinite(value)]
        draw.line(finite, fill=_COLOURS[kind], width=2)
        for x, y in finite if len(finite) < 2 else ():
            draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=_COLOURS[kind])


def draw_confusion(confusion: npt.NDArray[np.int64], classes: Sequence[str], path: Path) -> None:
    """Draw samples by true class (down) and class that came first (across) as a PNG.

    Args:
        confusion: ``[K, K]``.
        classes: K names.
        path: Where to.
    """
    side = _LABEL + _CELL * len(classes) + 20
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(12)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    for row, name in enumerate(" ".join(name.split()) for name in classes):  # on one line
        middle = _LABEL + _CELL * row + _CELL // 2
        draw.text((_LABEL - 8, middle), name[:14], fill=_INK, font=font, anchor="rm")
        draw.text((middle, _LABEL - 8), name[:4], fill=_INK, font=font, anchor="mb")
        for column in range(len(classes)):
            _draw_cell(draw, row, column, int(confusion[row, column]), float(shares[row, column]))
    draw.text((8, _LABEL - 24), "true class", fill=_INK, font=font, anchor="lb")
    draw.text((_LABEL, 16), "came first", fill=_INK, font=font, anchor="lt")
    image.save(path)


def _draw_cell(draw: ImageDraw.ImageDraw, row: int, column: int, count: int, share: float) -> None:
    x, y = _LABEL + _CELL * column, _LABEL + _CELL * row
    strong = _COLOURS["evaluation" if row == column else "train"]
    shade = share**0.5
    red, green, blue = (round(255 + (channel - 255) * shade) for channel in strong)
    draw.rectangle([x, y, x + _CELL - 2, y + _CELL - 2], fill=(red, green, blue))
    if count:
        ink = "white" if shade > 0.6 else _INK
        middle = (x + _CELL / 2 - 1, y + _CELL / 2 - 1)
        draw.text(middle, str(count), fill=ink, font=ImageFont.load_default(12), anchor="mm")
