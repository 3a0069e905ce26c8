"""Real pictures to measure on: scikit-image's photographs, or a folder of the user's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gvit.commands.demo import PHOTOS
from gvit.fitting.config import FitConfig
from gvit.fitting.fitter import Fitter
from gvit.images.decode import decode_image
from gvit.images.sources.folder import FolderSource
from gvit.schemas import decode
from gvit.schemas.extras import require

__all__ = ["crops", "fitted_sets", "photographs"]


def photographs(size: int, folder: Path | None = None, last: int | None = None) -> npt.NDArray[np.uint8]:
    """Targets of a fit, uint8 [B, S, S, 3].

    Args:
        size: S.
        folder: Images to take, in name order; None takes the photographs in scikit-image's wheel.
        last: Only so many from the end.

    Raises:
        GvitError: scikit-image is missing, or the folder holds no image.
    """
    if folder is not None:
        source = FolderSource(folder)
        files = [source.path_of(entry) for entry in source.scan().entries][-(last or 0) :]
        return np.stack([decode_image(file.read_bytes(), size, color="raw").pixels for file in files])
    require("bench", "skimage")  # it brings photographs and SSIM
    data = resources.files("skimage") / "data"
    return np.stack([decode_image((data / name).read_bytes(), size, color="raw").pixels for name in PHOTOS])


def crops(count: int, size: int, folder: Path | None = None) -> npt.NDArray[np.uint8]:
    """Targets of a fit: pieces of photographs, half as large as these at least, uint8 [count, S, S, 3].

    Args:
        count: How many.
        size: S.
        folder: Images to take whole in their place, in name order, over and over.

    Raises:
        GvitError: scikit-image is missing, or the folder holds no image.
    """
    if folder is not None:
        found = photographs(size, folder)
        return found[np.arange(count) % len(found)]
    rng = np.random.default_rng(0)
    photos = photographs(2 * size)
    corners = rng.integers(0, size + 1, (count, 2))
    return np.stack([photos[k % len(photos)][y : y + size, x : x + size] for k, (y, x) in enumerate(corners)])


def fitted_sets(targets: npt.NDArray[np.uint8], num_gaussians: int) -> npt.NDArray[np.float32]:
    """Sets fitted to targets with preset fast, float32 [B, N, 9]."""
    config = FitConfig(num_gaussians=num_gaussians, size=targets.shape[1], preset="fast")
    fits = Fitter(config, "float32", 1, "cpu").fit(targets, [str(i) for i in range(len(targets))])
    return decode(fits.stored, "float32")
