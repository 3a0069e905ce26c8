"""`gvit.fit` and `gvit.render`: from images to Gaussians and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..fitting.config import FitConfig, resolve_device
from ..rendering.arrays import render_numpy
from ..schemas.cores import usable_cores
from ..schemas.encoding import decode, default_encoding
from ..schemas.errors import GvitError
from ..schemas.gaussians import NUM_FIELDS
from .images import ImageLike, canvases

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Fit", "fit", "render"]

Sets = TypeVar("Sets", "npt.NDArray[Any]", "Tensor")


@dataclass(frozen=True, slots=True, repr=False)
class Fit:
    """Images as Gaussians.

    Attributes:
        gaussians: float32 `[N, 9]` of one image, `[B, N, 9]` of a batch or list, in the fields and units of
            `gvit.FIELDS`, as an encode would store them.
        psnr: In dB at size x size; a float, or float64 `[B]`.
        size: Side of the canvas in pixels.
    """

    gaussians: npt.NDArray[np.float32]
    psnr: float | npt.NDArray[np.float64]
    size: int

    def __repr__(self) -> str:
        mean = float(np.mean(self.psnr))
        *batch, count, _ = self.gaussians.shape
        of = f"{batch[0]} images, " if batch else ""
        return f"<Fit: {of}{count} Gaussians at {self.size} x {self.size}, {mean:.2f} dB>"


def fit(
    image: ImageLike,
    num_gaussians: int = 256,
    size: int = 224,
    preset: str = "default",
    seed: int = 0,
    device: str = "auto",
) -> Fit:
    """Fit Gaussians to an image, or to each of several.

    Args:
        image: A path, PIL image, array uint8 (0..255) or float (0..1) `[H, W, 3]`, tensor `[3, H, W]`, of any
            size; a batch of arrays or tensors; or a list of any of these. Floats are rounded to 8 bits first.
        num_gaussians: N, per image.
        size: Side of the square canvas in pixels, to which images are resized.
        preset: "fast", "default" or "best".
        seed: Of the fit's random choices.
        device: "auto", "cpu" or "cuda".

    Returns:
        The Gaussians and how well they show the image.

    Raises:
        GvitError: It is no image, or a setting is out of range.
    """
    from ..fitting.fitter import Fitter  # compiles

    config = FitConfig(num_gaussians=num_gaussians, size=size, preset=preset, seed=seed)
    given = canvases(image, size)
    encoding = default_encoding(size)
    fitter = Fitter(config, encoding, usable_cores(), resolve_device(device))
    result = fitter.fit(given.pixels, [str(number) for number in range(len(given.pixels))])
    for name, reason in zip(given.names, result.errors, strict=True):
        if reason is not None:
            raise GvitError(f"{name} cannot be fitted: {reason}")
    sets = decode(result.stored, encoding)
    if given.single:
        return Fit(sets[0], float(result.psnr[0]), size)
    return Fit(sets, result.psnr, size)


def render(sets: Sets, height: int, width: int) -> Sets:
    """Render sets of Gaussians.

    Args:
        sets: An array or tensor of floats `[N, 9]` or `[B, N, 9]`, in the fields and units of `gvit.FIELDS`.
        height: Of the image in pixels.
        width: Likewise.

    Returns:
        float32 `[H, W, 3]` or `[B, H, W, 3]` in 0..1, sRGB; an array of an array, a tensor of a tensor, on
        its device and differentiable.

    Raises:
        GvitError: Another type or shape, or no pixel.
    """
    shape: list[int] = list(getattr(sets, "shape", ()))
    is_array = isinstance(sets, np.ndarray)
    if not is_array and type(sets).__module__.partition(".")[0] != "torch":
        raise GvitError(f"sets to render are an array or a tensor, not {type(sets).__name__}")
    if len(shape) not in (2, 3) or shape[-1] != NUM_FIELDS:
        raise GvitError(f"sets to render are [N, {NUM_FIELDS}] or [B, N, {NUM_FIELDS}], not {shape}")
    if height < 1 or width < 1:
        raise GvitError(f"an image has at least 1 x 1 pixels, not {height} x {width}")
    single = len(shape) == 2
    if isinstance(sets, np.ndarray):
        if not np.issubdtype(sets.dtype, np.floating):
            raise GvitError(f"sets to render are of floats, not of {sets.dtype}")
        images = render_numpy(np.ascontiguousarray(sets[None] if single else sets, np.float32), height, width)
        return images[0] if single else images
    from ..rendering.operator import render as render_tensor

    if not sets.is_floating_point():
        raise GvitError(f"sets to render are of floats, not of {sets.dtype}")
    shown = render_tensor(sets[None] if single else sets, height, width).clamp(0, 1).permute(0, 2, 3, 1)
    return shown[0] if single else shown
