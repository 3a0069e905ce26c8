"""Colours as an image's embedded ICC profile means them, in sRGB.

What is converted, and how, is part of the format (docs/format.md): relative colorimetric with black point
compensation, in 8 bits, by LittleCMS as Pillow has it. A profile that moves no colour of a probe by more than
2 of 255 counts as sRGB, and the numbers stay as they are: 8-bit rounding alone moves some by 1.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
from PIL import Image, ImageCms

__all__ = ["Color", "Profile", "in_srgb"]

Color = Literal["srgb", "raw"]
"""Whether embedded profiles are honoured, or the numbers taken as they are."""

Profile = Literal["none", "srgb", "converted", "ignored"]
"""What became of the profile of an image; it is ignored where it is damaged or not for such pixels."""

_NEAR = 2  # of 255
_MODE_OF_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_LEVELS = 9


def in_srgb(image: Image.Image, profile: object) -> tuple[Image.Image, Profile]:
    """Return an image of mode L, RGB or CMYK in sRGB, as mode RGB, and what became of its profile.

    Args:
        image: Of 8 bits.
        profile: As Pillow has it, bytes, or nothing.
    """
    if not profile:
        return image.convert("RGB"), "none"
    found = _conversion(profile, image.mode) if isinstance(profile, bytes) else _Conversion("ignored")
    if found.transform is None:
        return image.convert("RGB"), found.profile
    converted = ImageCms.applyTransform(image, found.transform)
    assert converted is not None  # it is None only when it is done in place  # noqa: S101
    return converted, found.profile


@dataclass(frozen=True, slots=True)
class _Conversion:
    """What is done with images of a profile; no transform where their numbers stay."""

    profile: Profile
    transform: ImageCms.ImageCmsTransform | None = None


@lru_cache(maxsize=32)  # of cameras and editors, few are in a dataset
def _conversion(profile: bytes, mode: str) -> _Conversion:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _MODE_OF_SPACE.get(cast("Any", source.profile).xcolor_space.strip()) != mode:
            return _Conversion("ignored")
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode != "CMYK" and _is_srgb(transform, mode):
            return _Conversion("srgb")
    except Exception:  # of a damaged profile anything may come: its pixels are none the worse
        return _Conversion("ignored")
    return _Conversion("converted", transform)


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    levels = np.linspace(0, 255, _LEVELS).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    colours = ramp if mode == "L" else np.concatenate([grid, ramp])
    probe = Image.fromarray(colours[None] if mode == "RGB" else colours[None, :, 0])
    converted = ImageCms.applyTransform(probe, transform)
    moved = np.abs(np.asarray(converted).astype(int) - colours)
    return int(moved.max()) <= _NEAR
