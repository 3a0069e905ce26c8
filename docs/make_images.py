"""Draw the picture of the README, from a photograph that scikit-image brings along.

    python docs/make_images.py

One column per number of Gaussians: the rendering above, the Gaussians themselves as ellipses below.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from gvit.fitting.config import FitConfig
from gvit.fitting.fitter import Fitter
from gvit.images.decode import decode_image
from gvit.pictures.ellipses import draw_ellipses
from gvit.pictures.page import GREY, INK, PAPER, write
from gvit.pictures.view import to_pixels
from gvit.rendering.arrays import render_numpy
from gvit.schemas import decode

if TYPE_CHECKING:
    import numpy as np

PHOTO = "chelsea.png"
COUNTS = (64, 256, 1024)
SIZE = 224
GAP, CAPTION = 12, 46
COLOURS = 256  # of the file's palette, dithered: a third of the bytes
OUTPUT = Path(__file__).parent / "images" / "gaussians.png"


def draw() -> Image.Image:
    """Return the picture: a column for the photograph, then one for each of COUNTS."""
    target = decode_image((resources.files("skimage") / "data" / PHOTO).read_bytes(), SIZE, "center").pixels
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
    picture = draw()
    palette = picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=4)
    picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(OUTPUT, optimize=True)
