"""Storage encodings: how a float32 set becomes bytes that, read back, are still inside every range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .compact import COMPACT_BYTES, COMPACT_MAX_SIZE, decode_compact, encode_compact
from .errors import GvitError
from .gaussians import NUM_FIELDS, canonicalize, field_ranges

__all__ = [
    "ENCODINGS",
    "Encoding",
    "decode",
    "default_encoding",
    "encode",
    "get_encoding",
    "representable_ranges",
]

FLOAT16_MAX_SIZE = 512  # above, half-precision centres are coarser than a tenth of a pixel

WIDEN_STEP = 1 << 16  # values that stay in a core's cache from one pass to the next
HALF_BITS = np.int32(0x0FFFE000 - (1 << 31))  # in a float32's bits: the sign, and fifteen of a half
HALF_TO_FLOAT = np.float32(2.0**112)
BEYOND_HALF = 65536.0


@dataclass(frozen=True, slots=True)
class Encoding:
    """One way to store sets.

    Attributes:
        name: as in the manifest.
        dtype: little-endian storage type.
        columns: length of the last axis of a stored array ``[..., N, columns]``.
        max_size: largest canvas in pixels that it is exact enough for, None for any.
        encode: (float32 ``[..., N, 9]``, size) -> stored ``[..., N, columns]``.
        decode: (stored ``[..., N, columns]``, out) writes float32 ``[..., N, 9]`` into ``out``, contiguous.
    """

    name: str
    dtype: np.dtype[Any]
    columns: int
    max_size: int | None
    encode: Callable[[npt.NDArray[np.float32], int], npt.NDArray[Any]]
    decode: Callable[[npt.NDArray[Any], npt.NDArray[np.float32]], None]


def _float_encoding(dtype: str, max_size: int | None) -> Encoding:
    kind: np.dtype[Any] = np.dtype(dtype)

    def encode_floats(gaussians: npt.NDArray[np.float32], size: int) -> npt.NDArray[Any]:
        # The ends are representable and rounding is monotonic, so rounding after the clip stays inside
        # and keeps sx >= sy.
        low, high = representable_ranges(kind, size)
        clipped = np.clip(canonicalize(gaussians), low, high)
        return np.where(np.isfinite(gaussians), clipped, np.nan).astype(kind)

    return Encoding(kind.name, kind, NUM_FIELDS, max_size, encode_floats, _widen)


def _widen(stored: npt.NDArray[Any], out: npt.NDArray[np.float32]) -> None:
    """Write floats as float32, exactly; float16 at a multiple of the speed of numpy's own conversion.

    The bits of a half, moved to the place of a float's, are that number times 2^-112.
    """
    if stored.dtype.itemsize != 2:
        out[...] = stored
        return
    source, target = np.ascontiguousarray(stored).reshape(-1), out.reshape(-1)
    for begin in range(0, source.size, WIDEN_STEP):
        piece, floats = source[begin : begin + WIDEN_STEP], target[begin : begin + WIDEN_STEP]
        bits = floats.view(np.int32)
        np.left_shift(piece.view(np.int16), 13, out=bits, dtype=np.int32)
        np.bitwise_and(bits, HALF_BITS, out=bits)  # drops the copies of the sign between sign and exponent
        np.multiply(floats, HALF_TO_FLOAT, out=floats)
        if max(floats.max(), -floats.min()) >= BEYOND_HALF:  # infinite or NaN, whose exponent is special
            floats[:] = piece


def representable_ranges(dtype: np.dtype[Any], size: int) -> list[npt.NDArray[np.float32]]:
    """Return the lowest and highest values of ``dtype`` inside the exact range of each field."""
    low, high = field_ranges(size)
    inner_low, inner_high = low.astype(dtype), high.astype(dtype)
    up, down = inner_low.dtype.type(np.inf), inner_low.dtype.type(-np.inf)
    inner_low = np.where(inner_low < low, np.nextafter(inner_low, up), inner_low)
    inner_high = np.where(inner_high > high, np.nextafter(inner_high, down), inner_high)
    return [inner_low.astype(np.float32), inner_high.astype(np.float32)]


ENCODINGS: dict[str, Encoding] = {
    encoding.name: encoding
    for encoding in (
        _float_encoding("<f2", FLOAT16_MAX_SIZE),
        _float_encoding("<f4", None),
        Encoding(
            "compact", np.dtype(np.uint8), COMPACT_BYTES, COMPACT_MAX_SIZE, encode_compact, decode_compact
        ),
    )
}
"""Every storage encoding by name."""


def get_encoding(name: str) -> Encoding:
    """Return the encoding of that name.

    Raises:
        GvitError: there is none; the sentence lists those that there are.
    """
    if name not in ENCODINGS:
        raise GvitError(f"unknown storage encoding {name!r}: choose one of {', '.join(ENCODINGS)}")
    return ENCODINGS[name]


def default_encoding(size: int) -> str:
    """Return float16 for canvases up to 512 pixels, float32 above."""
    return "float16" if size <= FLOAT16_MAX_SIZE else "float32"


def encode(gaussians: npt.NDArray[np.float32], encoding: str, size: int) -> npt.NDArray[Any]:
    """Store sets: canonical, clipped to their ranges and rounded so that what is decoded is inside them.

    Args:
        gaussians: float32 ``[..., N, 9]``. Infinite and NaN values are stored as NaN, for
            ``check_gaussians`` to find, and do not touch their neighbours.
        encoding: a name of ``ENCODINGS``.
        size: side of the fit's canvas in pixels.

    Returns:
        The stored array ``[..., N, columns]`` of the encoding. Encoding what was decoded changes nothing.

    Raises:
        GvitError: an unknown encoding, one too coarse for ``size``, or another shape.
    """
    chosen = get_encoding(encoding)
    if chosen.max_size is not None and size > chosen.max_size:
        raise GvitError(
            f"{encoding} is too coarse for size {size}: store as {default_encoding(size)}, "
            f"or choose a size up to {chosen.max_size}"
        )
    if gaussians.ndim < 2 or gaussians.shape[-1] != NUM_FIELDS:
        raise GvitError(f"a set of Gaussians has shape [N, {NUM_FIELDS}], not {list(gaussians.shape)}")
    return chosen.encode(gaussians, size)


def decode(stored: npt.NDArray[Any], encoding: str) -> npt.NDArray[np.float32]:
    """Return stored sets ``[..., N, columns]`` as a new float32 ``[..., N, 9]``.

    Raises:
        GvitError: an unknown encoding, or an array of another type or width.
    """
    chosen = get_encoding(encoding)
    if stored.ndim < 2 or stored.shape[-1] != chosen.columns or stored.dtype != chosen.dtype:
        raise GvitError(
            f"{encoding} is stored as {chosen.dtype} [N, {chosen.columns}], "
            f"not {stored.dtype} {list(stored.shape)}"
        )
    gaussians = np.empty((*stored.shape[:-1], NUM_FIELDS), dtype=np.float32)
    chosen.decode(stored, gaussians)
    return gaussians
