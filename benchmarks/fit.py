"""Quality and time of a fit, beside the textbook fit and GaussianImage's blending on the same kernels.

    gvit bench fit [--images DIR --last 100] [--size 224] [--num-gaussians 256]

Seconds are those of one core, from decoded pixels to the fitted set, medians over images; all fits of one
image run one after the other, so that other work on the machine disturbs all alike.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity

from gvit.fitting.config import PRESETS, FitConfig
from gvit.fitting.fitter import Fitter, psnr
from gvit.rendering.cpu import render_batch
from gvit.schemas import decode
from gvit.schemas.cores import usable_cores

from .peers import fit_accumulated, fit_plain
from .scenes import photographs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Fit = Callable[[npt.NDArray[np.uint8], str], npt.NDArray[np.float32]]

__all__ = ["run"]


def _ours(preset: str, size: int, num_gaussians: int) -> Fit:
    """A fit of ours: (pixels, key) -> rendering of the stored set, float32 [3, S, S]."""
    fitter = Fitter(FitConfig(num_gaussians=num_gaussians, size=size, preset=preset), "float16", 1, "cpu")

    def fit(pixels: npt.NDArray[np.uint8], key: str) -> npt.NDArray[np.float32]:
        stored = fitter.fit(pixels[None], [key]).stored
        return render_batch(decode(stored, "float16"), size, size, threads=1)[0]

    return fit


def _fits(size: int, num_gaussians: int) -> dict[str, Fit]:
    fits: dict[str, Fit] = {}
    for steps in (PRESETS["fast"], PRESETS["default"]):
        fits[f"accumulated_{steps}"] = lambda p, k, n=steps: fit_accumulated(p, num_gaussians, n, int(k))
        fits[f"plain_{steps}"] = lambda p, k, n=steps: fit_plain(p, num_gaussians, n, int(k))
    for preset in PRESETS:
        fits[preset] = _ours(preset, size, num_gaussians)
    return fits


def _measure(fit: Fit, pixels: npt.NDArray[np.uint8], key: str) -> tuple[float, float, float]:
    """PSNR (dB), SSIM and seconds of one fit of one image."""
    start = time.thread_time()
    image = fit(pixels, key)
    seconds = time.thread_time() - start
    shown = image.clip(0.0, 1.0).transpose(1, 2, 0)
    ssim: Any = structural_similarity(shown, pixels / np.float32(255.0), channel_axis=2, data_range=1.0)
    return psnr(image, pixels), float(ssim), seconds


def run(
    size: int = 224, num_gaussians: int = 256, images: Path | None = None, last: int | None = None
) -> dict[str, Any]:
    """Measure; returns psnr, ssim and seconds_per_image by fit, and ratio_vs_plain at equal steps."""
    targets = photographs(size, images, last)
    fits = _fits(size, num_gaussians)
    for fit in fits.values():
        fit(targets[0], "0")  # compiles

    def measure_all(index: int) -> list[tuple[float, float, float]]:
        return [_measure(fit, targets[index], str(index)) for fit in fits.values()]

    with ThreadPoolExecutor(usable_cores()) as pool:
        measured = np.array(list(pool.map(measure_all, range(len(targets)))))  # [images, fits, 3]
    seconds = {name: statistics.median(measured[:, f, 2]) for f, name in enumerate(fits)}
    return {
        "psnr": {name: float(measured[:, f, 0].mean()) for f, name in enumerate(fits)},
        "ssim": {name: float(measured[:, f, 1].mean()) for f, name in enumerate(fits)},
        "seconds_per_image": seconds,
        "ratio_vs_plain": {
            preset: seconds[preset] / seconds[f"plain_{PRESETS[preset]}"] for preset in ("fast", "default")
        },
        "size": size,
        "gaussians": num_gaussians,
        "images": len(targets),
        "scene": str(images) if images else "scikit-image's photographs",
    }
