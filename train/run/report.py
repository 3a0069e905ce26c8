"""Pictures at the end of a run: its curves, and who was taken for whom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ...pictures.page import fit_text

__all__ = ["LARGEST_CONFUSION", "draw_confusion", "draw_curves"]

LARGEST_CONFUSION = 50
"""Classes up to which a confusion matrix can be read."""

_INK, _PALE, _FAINT = (40, 40, 40), (222, 222, 222), (244, 208, 186)
_COLOURS = {"train": (214, 96, 32), "evaluation": (32, 96, 176)}
_PANEL_WIDTH, _PANEL_HEIGHT, _MARGIN = 520, 340, 60
_CELL, _GAP, _TITLE_ROOM, _LONGEST_LABEL = 34, 8, 90, 260
_SMOOTHED_OVER = 25  # parts of a run

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
    last = max(steps, default=1.0) or 1.0
    heights = round_ticks(1.0 if name == "top1" else max(values, default=1.0) or 1.0)
    top = heights[-1]
    x0, x1 = left + _MARGIN, left + _PANEL_WIDTH - 20
    y0, y1 = _PANEL_HEIGHT - 40, 40

    def place(step: float, value: float) -> tuple[float, float]:
        return x0 + (x1 - x0) * step / last, y0 + (y1 - y0) * min(max(value / top, 0.0), 1.0)

    font = ImageFont.load_default(13)
    for height in heights:
        _, y = place(0.0, height)
        draw.line([(x0, y), (x1, y)], fill=_PALE)
        draw.text((x0 - 6, y), f"{height:g}", fill=_INK, font=font, anchor="rm")
    for step in round_ticks(last):
        if step <= last:
            x, _ = place(step, 0.0)
            draw.line([(x, y0), (x, y0 + 4)], fill=_PALE)
            draw.text((x, y0 + 8), f"{step:g}", fill=_INK, font=font, anchor="mt")
    draw.text(((x0 + x1) / 2, y0 + 24), "step", fill=_INK, font=font, anchor="mt")
    draw.text((x0, 12), name, fill=_INK, font=ImageFont.load_default(16), anchor="lt")
    for number, (kind, line) in enumerate(series.items()):
        draw.text((x1 - 90 * number, 14), kind, fill=_COLOURS[kind], font=font, anchor="rt")
        finite = [point for point in line if np.isfinite(point[1])]
        if kind == "train":
            draw.line([place(*point) for point in finite], fill=_FAINT, width=1)
            finite = smoothed(finite, last / _SMOOTHED_OVER)
        draw.line([place(*point) for point in finite], fill=_COLOURS[kind], width=2)
        for x, y in [place(*point) for point in finite] if len(finite) < 2 else ():
            draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=_COLOURS[kind])


def round_ticks(most: float) -> list[float]:
    """Return 4 to 6 values from 0 on, a round step apart, the last of them no less than `most` above 0."""
    decade = 10.0 ** math.floor(math.log10(most / 5.0))
    step = next(
        decade * factor for factor in (1, 2, 2.5, 5, 10) if decade * factor * 5.0 >= most * (1 - 1e-9)
    )
    return [float(f"{step * number:.12g}") for number in range(math.ceil(most / step - 1e-9) + 1)]


def smoothed(points: Series, width: float) -> Series:
    """Return each point with the mean of those within half of `width` of it."""
    steps, values = (np.array([point[axis] for point in points], np.float64) for axis in (0, 1))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.searchsorted(steps, steps - width / 2, side="left")
    after = np.searchsorted(steps, steps + width / 2, side="right")
    means = (sums[after] - sums[first]) / np.maximum(after - first, 1)
    return list(zip(steps.tolist(), means.tolist(), strict=True))


def draw_confusion(confusion: npt.NDArray[np.int64], classes: Sequence[str], path: Path) -> None:
    """Draw samples by true class (down) and predicted class (across) as a PNG.

    Args:
        confusion: ``[K, K]``.
        classes: K names.
        path: Where to.
    """
    font = ImageFont.load_default(12)
    names = [fit_text(" ".join(name.split()), 12, _LONGEST_LABEL) for name in classes]  # on one line
    label = max(_TITLE_ROOM, *(round(font.getlength(name)) + 2 * _GAP for name in names))
    side = label + _CELL * len(classes) + 20
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    for row, name in enumerate(names):
        middle = label + _CELL * row + _CELL // 2
        draw.text((label - _GAP, middle), name, fill=_INK, font=font, anchor="rm")
        _write_upwards(image, name, (middle, label - _GAP))
        for column in range(len(classes)):
            corner = (label + _CELL * column, label + _CELL * row)
            strong = _COLOURS["evaluation" if row == column else "train"]
            _draw_cell(draw, corner, strong, int(confusion[row, column]), float(shares[row, column]))
    draw.text((_GAP, label - _GAP), "true class", fill=_INK, font=ImageFont.load_default(14), anchor="lb")
    draw.text((label - _GAP, _GAP), "predicted", fill=_INK, font=ImageFont.load_default(14), anchor="rt")
    image.save(path)


def _write_upwards(image: Image.Image, text: str, foot: tuple[int, int]) -> None:
    """Write a text that reads upwards from the middle of its foot."""
    font = ImageFont.load_default(12)
    line = Image.new("L", (math.ceil(font.getlength(text)) + 2, 16), 0)
    ImageDraw.Draw(line).text((0, 8), text, fill=255, font=font, anchor="lm")
    turned = line.transpose(Image.Transpose.ROTATE_90)
    image.paste(_INK, (foot[0] - 8, foot[1] - turned.height), turned)


def _draw_cell(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    strong: tuple[int, int, int],
    count: int,
    share: float,
) -> None:
    x, y = corner
    shade = share**0.5
    red, green, blue = (round(255 + (channel - 255) * shade) for channel in strong)
    draw.rectangle([x, y, x + _CELL - 2, y + _CELL - 2], fill=(red, green, blue))
    if count:
        ink = "white" if shade > 0.6 else _INK
        middle = (x + _CELL / 2 - 1, y + _CELL / 2 - 1)
        draw.text(middle, str(count), fill=ink, font=ImageFont.load_default(12), anchor="mm")
