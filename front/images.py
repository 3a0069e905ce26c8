"""Anything that people call an image, as the canvas that is fitted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..images.decode import DecodeError, canvas_of, decode_image, read_image
from ..schemas.errors import GvitError

if TYPE_CHECKING:
    from torch import Tensor

    from ..images.color import Color
    from ..images.decode import Crop

__all__ = ["Canvases", "ImageLike", "canvases"]

OneImage: TypeAlias = "str | Path | Image.Image | npt.NDArray[Any] | Tensor"
ImageLike: TypeAlias = "OneImage | Sequence[OneImage]"
"""A path, PIL image, array `[H, W, 3]` or tensor `[3, H, W]`; a batch of these two; or a list of any."""

_DIMENSIONS_OF_ONE, _DIMENSIONS_OF_BATCH = 3, 4


@dataclass(frozen=True, slots=True)
class Canvases:
    """Images brought to one size.

    Attributes:
        pixels: uint8 `[B, S, S, 3]`, sRGB.
        aspects: Width / height of each before that, float32 `[B]`.
        names: What each is called in a sentence.
        single: Whether one image was given, and no batch of one.
    """

    pixels: npt.NDArray[np.uint8]
    aspects: npt.NDArray[np.float32]
    names: list[str]
    single: bool


def canvases(images: ImageLike, size: int, crop: Crop = "none", color: Color = "srgb") -> Canvases:
    """Bring images to size x size pixels, as an encode does.

    Raises:
        GvitError: One is no image, of another type, shape or range; or there is none.
    """
    single, each = _one_by_one(images)
    if not each:
        raise GvitError("there is no image: the list or batch is empty")
    made = [_canvas(image, f"image {i}", size, crop, color) for i, image in enumerate(each)]
    return Canvases(
        np.stack([pixels for pixels, _, _ in made]),
        np.array([aspect for _, aspect, _ in made], np.float32),
        [name for _, _, name in made],
        single,
    )


def _one_by_one(images: ImageLike) -> tuple[bool, Sequence[OneImage]]:
    if isinstance(images, (str, Path, Image.Image)):
        return True, [images]
    if _is_tensor(images):
        tensor = cast("Tensor", images)
        if tensor.ndim not in (_DIMENSIONS_OF_ONE, _DIMENSIONS_OF_BATCH):
            raise GvitError(f"a tensor of images must be [3, H, W] or [B, 3, H, W], not {list(tensor.shape)}")
        single = tensor.ndim == _DIMENSIONS_OF_ONE
        return single, [tensor] if single else list(tensor)
    if isinstance(images, np.ndarray):
        if images.ndim not in (_DIMENSIONS_OF_ONE, _DIMENSIONS_OF_BATCH):
            raise GvitError(f"an array of images must be [H, W, 3] or [B, H, W, 3], not {list(images.shape)}")
        single = images.ndim == _DIMENSIONS_OF_ONE
        return single, [images] if single else list(images)
    if isinstance(images, Sequence):
        return False, images
    raise GvitError(
        f"an image is a path, a PIL image, an array, a tensor, or a list, not {type(images).__name__}"
    )


def _canvas(
    image: OneImage, name: str, size: int, crop: Crop, color: Color
) -> tuple[npt.NDArray[np.uint8], float, str]:
    """Return the canvas of an image, its width / height, and what to call it."""
    if isinstance(image, (str, Path)):
        try:
            decoded = decode_image(read_image(image), size, crop, color)
        except DecodeError as error:
            raise GvitError(f"{os.fspath(image)}: {error}") from error
        return decoded.pixels, decoded.width / decoded.height, os.fspath(image)
    if _is_tensor(image):
        image = _channels_last(cast("Tensor", image), name)
    if isinstance(image, np.ndarray):
        image = Image.fromarray(_in_8_bits(image, name))
    if not isinstance(image, Image.Image):
        raise GvitError(f"{name} is no path, PIL image, array or tensor, but {type(image).__name__}")
    try:
        decoded = canvas_of(image, size, crop, color)
    except DecodeError as error:
        raise GvitError(f"{name}: {error}") from error
    return decoded.pixels, decoded.width / decoded.height, name


def _is_tensor(value: object) -> bool:
    # without importing torch, which images on a disk do not need
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def _channels_last(tensor: Tensor, name: str) -> npt.NDArray[Any]:
    if tensor.ndim != _DIMENSIONS_OF_ONE or tensor.shape[0] != 3:
        raise GvitError(f"{name} must be a tensor [3, H, W], not {list(tensor.shape)}")
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).permute(1, 2, 0).numpy()


def _in_8_bits(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    if array.ndim != _DIMENSIONS_OF_ONE or array.shape[2] != 3 or 0 in array.shape:
        raise GvitError(f"{name} must be an array [H, W, 3], not {list(array.shape)}")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise GvitError(f"{name} is of {array.dtype}: give uint8 in 0..255, or floats in 0..1")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0.0 and high <= 1.0):
        raise GvitError(f"{name} has floats from {low:g} to {high:g}: they must be in 0..1; or give uint8")
    return np.round(array * 255.0).astype(np.uint8)
