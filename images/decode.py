"""Decode: the bytes of an image file to the pinned target of a fit.

The decode pool's processes import this module, so it imports nothing but Pillow and numpy.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import threading
import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

# Pillow loads these only after a first failure, and then loads every decoder that it has.
from PIL import AvifImagePlugin as _AvifImagePlugin  # noqa: F401  # pyright: ignore[reportUnusedImport]
from PIL import Image, UnidentifiedImageError
from PIL import TiffImagePlugin as _TiffImagePlugin  # noqa: F401  # pyright: ignore[reportUnusedImport]
from PIL import WebPImagePlugin as _WebPImagePlugin  # noqa: F401  # pyright: ignore[reportUnusedImport]

from . import more_formats
from .color import Color, Profile, in_srgb
from .mend import mended

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "MAX_PIXELS",
    "Crop",
    "DecodeError",
    "Decoded",
    "canvas_of",
    "decode_image",
    "decode_mask",
    "open_image",
    "read_image",
]

Crop = Literal["none", "center"]

MAX_PIXELS = 2**28
_WHITE = 128  # at least, somewhere on the object of a mask
"""An image whose header declares more pixels is refused before any of them is decoded."""

# Named, so that nothing else that Pillow knows (PostScript runs a program) is tried on a stranger's file.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "PPM")
_ORIENTATION_TAG = 0x0112
_BITS_TAG, _PHOTOMETRIC_TAG, _PLANES_TAG = 258, 262, 284  # of TIFF
_WHITE_IS_ZERO, _SEPARATE = 0, 2
_UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_READ_ERRORS = {
    errno.ENOENT: "it does not exist",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EISDIR: "it is a folder",
    errno.ELOOP: "it is a link that leads to itself",
}


class DecodeError(Exception):
    """An image that cannot be decoded; `str(error)` is a short fixed reason without any path.

    `kind` is a word for what failed, of those that docs/format.md lists.
    """

    def __init__(self, reason: str, kind: str = "image") -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Decoded:
    """The target of a fit.

    Attributes:
        pixels: uint8 `[S, S, 3]`, sRGB.
        width: Of the upright image in pixels, before any crop.
        height: Likewise.
        sha256: Of the file's bytes, in hex.
        stat: Length in bytes and time in ns of the file that it was read from, where that was looked at.
        profile: What became of its embedded colour profile.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    sha256: str
    stat: tuple[int, int] | None = None
    profile: Profile = "none"


def read_image(path: str | os.PathLike[str]) -> bytes:
    """Read a regular file whole; never waits for a pipe or device that is named like an image.

    Raises:
        DecodeError: It cannot be read.
    """
    with open_image(path) as file:
        return file.read()


@contextmanager
def open_image(path: str | os.PathLike[str]) -> Generator[io.FileIO]:
    """Open a regular file; what the system says against it, or against reading it, becomes a fixed reason.

    Raises:
        DecodeError: It cannot be read.
    """
    try:
        with io.FileIO(path, opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DecodeError("the file cannot be read: it is no regular file", "read")
            yield file
    except OSError as error:
        # Not strerror: its words differ between systems, while rows are promised the same bytes.
        code = error.errno or 0
        why = _READ_ERRORS.get(code) or errno.errorcode.get(code, "unknown error")
        raise DecodeError(f"the file cannot be read: {why}", "read") from error


def decode_image(data: bytes, size: int, crop: Crop = "none", color: Color = "srgb") -> Decoded:
    """Decode an image to the pinned target: upright, 8-bit sRGB, Pillow BICUBIC to `size` x `size`.

    Transparent pixels are composited over white, 16-bit gray is scaled to 8 bits, and of an animation the
    first frame is taken. Bytes tell the format, not a name. A JPEG that lacks nothing but its end mark, and a
    PNG whose text or profile is damaged or too large, are read.

    Args:
        data: The file's bytes: JPEG, PNG, GIF, WebP, AVIF, TIFF, BMP or PPM; with extras HEIC and JPEG XL.
        size: S, the side of the target in pixels.
        crop: "none" squeezes the whole image onto the square, "center" takes the largest centred square.
        color: "srgb" converts by an embedded colour profile, see `in_srgb`; "raw" takes the numbers.

    Raises:
        DecodeError: The bytes are no such image, are damaged, declare more than 2^28 pixels, or hold pixels
            that have no meaning as RGB.
        MemoryError: There is not enough memory for the full-size image.
    """
    if not data:
        raise DecodeError("the file is empty")
    try:
        upright, profile = _upright(data, color)
    except DecodeError:
        sound = _mended(data)
        if sound is None:
            raise
        upright, profile = _upright(sound, color)
        profile = "ignored" if b"iCCP" in data and b"iCCP" not in sound else profile
    return _resized(upright, size, crop, hashlib.sha256(data).hexdigest(), profile)


def canvas_of(image: Image.Image, size: int, crop: Crop = "none", color: Color = "srgb") -> Decoded:
    """Bring a picture that Pillow has read to the pinned target, as `decode_image` does with a file.

    Raises:
        DecodeError: Its pixels cannot be read, or have no meaning as RGB.
    """
    with _fixed_reasons():
        rgb, profile = _to_rgb(image, color)
        upright = _turned_upright(rgb, _orientation(image))
    return _resized(upright, size, crop, "", profile)


def _resized(upright: Image.Image, size: int, crop: Crop, digest: str, profile: Profile) -> Decoded:
    with _fixed_reasons():
        whole = upright if crop == "none" else _center_square(upright)
        pixels = np.array(whole.resize((size, size), Image.Resampling.BICUBIC))
    return Decoded(pixels, *upright.size, digest, profile=profile)


def _upright(data: bytes, color: Color) -> tuple[Image.Image, Profile]:
    """The whole image, turned upright, in 8-bit RGB, and what became of its colour profile."""
    formats = (*_FORMATS, *more_formats.needed_for(data))
    with _fixed_reasons(), Image.open(io.BytesIO(data), formats=formats) as image:
        image.load()
        rgb, profile = _to_rgb(image, color)
        return _turned_upright(rgb, _orientation(image)), profile


def _mended(data: bytes) -> bytes | None:
    """The file as it can be read, if all of its pixels are there."""
    try:
        return mended(data, lambda tried: np.asarray(_upright(tried, "raw")[0]))
    except DecodeError:
        return None


def decode_mask(data: bytes, size: int, crop: Crop = "none") -> Decoded:
    """Decode a mask, registered with the image that `decode_image` makes of the image it belongs to.

    Args:
        data: The file's bytes: a PNG of one channel, white inside and black outside; gray is part of both.
        size: As for the image.
        crop: As for the image.

    Raises:
        DecodeError: It is no such PNG.
    """
    with _fixed_reasons(), Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        plain = image.mode in ("1", "L") and not image.has_transparency_data
        brightest = int(np.asarray(image.convert("L")).max())
    if not plain or 0 < brightest < _WHITE:
        raise DecodeError("it is no PNG of one channel with 255 on the object and 0 elsewhere")
    return decode_image(data, size, crop, "raw")


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


class _PillowSettings:
    """Pillow's limit and warnings as decoding wants them while any thread decodes: they are the process's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._before = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._threads += 1
            if self._threads == 1:
                self._before.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
                self._before.enter_context(warnings.catch_warnings())
                Image.MAX_IMAGE_PIXELS = MAX_PIXELS
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                self._before.close()


_pillow_settings = _PillowSettings()


@contextmanager
def _fixed_reasons() -> Generator[None]:
    """Give what decoders raise on bad bytes a fixed reason, and let Pillow refuse at our number of pixels."""
    try:
        with _pillow_settings:
            yield
    except (DecodeError, MemoryError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DecodeError("the image declares more than 2^28 pixels") from error
    except UnidentifiedImageError as error:
        raise DecodeError("the file is not an image of a known format") from error
    except (
        Exception
    ) as error:  # on damaged bytes decoders raise nearly anything: OSError, SyntaxError, KeyError
        raise DecodeError("the image is truncated or damaged") from error


def _to_rgb(image: Image.Image, color: Color) -> tuple[Image.Image, Profile]:
    """Return an image in 8-bit sRGB over white, and what became of its colour profile."""
    _refuse_wrong_reading(image)
    opaque = _plain(image)
    rgb, profile = in_srgb(opaque, image.info.get("icc_profile") if color == "srgb" else None)
    alpha = _alpha(image)
    if alpha is None:
        return rgb, profile
    rgb.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgb).convert("RGB"), profile


def _plain(image: Image.Image) -> Image.Image:
    """Return the colours of an image in a mode that profiles speak of: L, RGB or CMYK."""
    if _is_gray16(image):
        return _from_gray16(image)
    if image.mode in ("I", "F"):
        raise DecodeError("pixels of 32-bit integers or floats have no fixed range")
    if image.mode in ("1", "L", "LA"):
        return image.convert("L")
    if image.mode == "CMYK":
        return image
    return (image.convert("RGBA") if image.has_transparency_data else image).convert("RGB")


def _alpha(image: Image.Image) -> Image.Image | None:
    """Return how opaque each pixel is, mode L; None where all are."""
    extent = getattr(image, "dispose_extent", None) if image.format == "GIF" else None
    if extent is not None and tuple(extent) != (0, 0, *image.size):  # outside of the frame is nothing
        inside = Image.new("L", image.size, 0)
        shown = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        inside.paste(255 if shown is None else shown.crop(extent), tuple(extent))
        return inside
    if not image.has_transparency_data:
        return None
    if _is_gray16(image):
        clear = np.asarray(image).astype(np.uint32) == image.info["transparency"]
        return Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))
    return image.convert("RGBA").getchannel("A")


def _refuse_wrong_reading(image: Image.Image) -> None:
    """Refuse a TIFF that Pillow reads wrongly without a word."""
    if image.format != "TIFF":
        return
    tags: dict[int, object] = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_TAG)
    if tags.get(_PLANES_TAG) == _SEPARATE and isinstance(bits, tuple) and max(map(int, bits)) > 8:
        raise DecodeError("a TIFF of 16 bits whose channels lie apart: store it with the channels together")


def _is_gray16(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _from_gray16(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255.
    gray = (np.asarray(image).astype(np.uint32) + 128) // 257
    if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:
        gray = 255 - gray
    return Image.fromarray(gray.astype(np.uint8))


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged metadata does not make the pixels any worse
        return None


def _turned_upright(image: Image.Image, orientation: object) -> Image.Image:
    # Not ImageOps.exif_transpose: it also rewrites the metadata, and fails where some other tag is damaged.
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _center_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
