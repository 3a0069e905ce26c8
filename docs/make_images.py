"""Draw the pictures of README and docs, from a photograph that scikit-image brings along.

    python docs/make_images.py

gaussians.png has one column per number of Gaussians: the rendering above, the Gaussians as ellipses below.
reading.png shows how a classifier reads a set: where, and the picture that the stem draws.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from gvit.fitting.config import FitConfig
from gvit.fitting.fitter import Fitter
from gvit.images.decode import decode_image
from gvit.pictures.ellipses import draw_ellipses
from gvit.pictures.page import GREY, INK, PAPER, write
from gvit.pictures.view import to_pixels
from gvit.rendering.arrays import render_numpy
from gvit.schemas import decode

PHOTO = "chelsea.png"
COUNTS = (64, 256, 1024)
SIZE = 224
GAP, CAPTION = 12, 46
COLOURS = 256  # of the file's palette, dithered: a third of the bytes
FOLDER = Path(__file__).parent / "images"
READ, READ_SIDE, SHOWN = (
    256,
    56,
    16,
)  # Gaussians, pixels of the stem's picture, Gaussians whose places are shown
DOT, MARK = 3, (255, 220, 0)


def photograph() -> np.ndarray:
    """Return the pixels, uint8 [SIZE, SIZE, 3]."""
    return decode_image((resources.files("skimage") / "data" / PHOTO).read_bytes(), SIZE, "center").pixels


def draw_gaussians() -> Image.Image:
    """Return the first picture: a column for the photograph, then one for each of COUNTS."""
    target = photograph()
    columns = len(COUNTS) + 1
    width, height = columns * (SIZE + GAP) - GAP, 2 * SIZE + GAP + CAPTION
    page = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(page)
    page.paste(Image.fromarray(target), (0, 0))
    _caption(pen, (0, SIZE), "photograph", f"{SIZE} x {SIZE} pixels")
    for column, count in enumerate(COUNTS, start=1):
        gaussians, psnr = _fit(target, count)
        left = column * (SIZE + GAP)
        page.paste(to_pixels(render_numpy(gaussians[None], SIZE, SIZE)[0]), (left, 0))
        page.paste(draw_ellipses(gaussians, SIZE), (left, SIZE + GAP))
        _caption(pen, (left, 2 * SIZE + GAP), f"{count} Gaussians", f"{psnr:.1f} dB, {count * 18:,} bytes")
    return page


def draw_reading() -> Image.Image:
    """Return the second picture: Gaussians, where some of them are read, and what is read there."""
    gaussians, _ = _fit(photograph(), READ)
    page = Image.new("RGB", (3 * (SIZE + GAP) - GAP, SIZE + CAPTION), PAPER)
    pen = ImageDraw.Draw(page)
    chosen = _spread(gaussians, SHOWN)
    drawn = to_pixels(render_numpy(gaussians[None], READ_SIDE, READ_SIDE)[0])
    picture = drawn.resize((SIZE, SIZE), Image.Resampling.NEAREST)
    columns = [
        (draw_ellipses(gaussians, SIZE), "a set", f"{READ} Gaussians"),
        (draw_ellipses(gaussians[chosen], SIZE), f"{SHOWN} of them", "and where each is read"),
        (picture, "what is read", f"the set, {READ_SIDE} pixels wide"),
    ]
    for column, (picture, name, note) in enumerate(columns):
        left = column * (SIZE + GAP)
        page.paste(picture, (left, 0))
        _caption(pen, (left, SIZE), name, note)
        for x, y in ((gaussians[chosen, :2] + 1.0) * SIZE / 2.0).tolist() if column else []:
            pen.ellipse((left + x - DOT, y - DOT, left + x + DOT, y + DOT), MARK, INK)
    return page


def _spread(gaussians: np.ndarray, count: int) -> list[int]:
    """Return rows of clearly visible Gaussians of middle size that lie far from each other."""
    good = (gaussians[:, 8] > 0.4) & (gaussians[:, 2] < 0.25) & (gaussians[:, 3] > 0.03)
    good &= (np.abs(gaussians[:, :2]) < 0.9).all(axis=1)
    rows = np.flatnonzero(good)
    chosen = [int(rows[0])]
    while len(chosen) < min(count, len(rows)):
        apart = np.linalg.norm(gaussians[rows, None, :2] - gaussians[None, chosen, :2], axis=-1).min(axis=1)
        chosen.append(int(rows[apart.argmax()]))
    return chosen


def _save(picture: Image.Image, name: str) -> None:
    palette = picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=4)
    picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(FOLDER / name, optimize=True)


def _fit(target: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """Return the stored set [N, 9] of an image, and its PSNR in dB."""
    fitter = Fitter(FitConfig(num_gaussians=count, size=SIZE), "float16", threads=1, device="cpu")
    result = fitter.fit(target[None], [PHOTO])
    return decode(result.stored, "float16")[0], float(result.psnr[0])


def _caption(pen: ImageDraw.ImageDraw, corner: tuple[int, int], name: str, note: str) -> None:
    left, top = corner
    write(pen, (left, top + 6), name, 16, INK, SIZE)
    write(pen, (left, top + 27), note, 13, GREY, SIZE)


if __name__ == "__main__":
    _save(draw_gaussians(), "gaussians.png")
    _save(draw_reading(), "reading.png")
