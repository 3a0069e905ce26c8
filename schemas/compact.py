"""The compact encoding: nine bytes per Gaussian, read back by table.

A Gaussian is a little-endian 64-bit word and a byte. From the word's lowest bit up:

    bits  field    value of code q
    11    x        -1 + 2 q / 2047
    11    y        -1 + 2 q / 2047
     8    sx       2^-12 * 2^(16 q / 255)
     7    aspect   2^(7 q / 127), sy = sx / aspect
     7    r        1/2 + sinh(L + (H - L) q / 127) / 3, L = asinh(-21/2), H = asinh(21/2)
     7    g        likewise
     7    b        likewise
     6    opacity  1/255 + (1 - 1/255) q / 63

and the byte is theta: -pi/2 + pi q / 256. All in float64, rounded once to float32 (code 0 of theta: upwards).
Colours are finest around 1/2, where most of them lie. A Gaussian longer than 128 times its width is shortened
to that.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import GvitError
from .gaussians import COLOR_RANGE, MIN_OPACITY, SX, SY, THETA, canonicalize, field_ranges, min_scale

__all__ = ["COMPACT_BYTES", "COMPACT_MAX_SIZE", "decode_compact", "encode_compact"]

COMPACT_BYTES = 9
COMPACT_MAX_SIZE = 512  # above, its centres are coarser than a quarter of a pixel

_SMALLEST, _SCALE_OCTAVES, _ASPECT_OCTAVES = 2.0**-12, 16.0, 7.0
_MIDDLE, _STRETCH = 0.5, 3.0
_LOW, _HIGH = (math.asinh((bound - _MIDDLE) * _STRETCH) for bound in COLOR_RANGE)
_BITS = {"x": 11, "y": 11, "sx": 8, "aspect": 7, "r": 7, "g": 7, "b": 7, "opacity": 6}
_THETA_CODES = 256

Codes = npt.NDArray[np.uint64]


def _table(name: str) -> npt.NDArray[np.float32]:
    """The value of every code of a field of the word."""
    share = np.arange(1 << _BITS[name]) / ((1 << _BITS[name]) - 1)
    if name in ("x", "y"):
        values = -1.0 + 2.0 * share
    elif name == "sx":
        values = _SMALLEST * 2.0 ** (_SCALE_OCTAVES * share)
    elif name == "aspect":
        values = 2.0 ** (_ASPECT_OCTAVES * share)
    elif name == "opacity":
        values = MIN_OPACITY + (1.0 - MIN_OPACITY) * share
    else:
        values = _MIDDLE + np.sinh(_LOW + (_HIGH - _LOW) * share) / _STRETCH
    return values.astype(np.float32)


_TABLES = {name: _table(name) for name in _BITS}
_THETAS = (-math.pi / 2 + math.pi * np.arange(_THETA_CODES) / _THETA_CODES).astype(np.float32)
_THETAS[0] = np.nextafter(_THETAS[0], np.float32(0.0))  # float32 rounds -pi/2 down, out of the range


def _code(name: str, share: npt.NDArray[np.float64]) -> Codes:
    """The nearest code of a value given as its share 0..1 of the (bent) range of the field."""
    return np.rint(share.clip(0.0, 1.0) * ((1 << _BITS[name]) - 1)).astype(np.uint64)


def _scale_codes(sx: npt.NDArray[np.float64], sy: npt.NDArray[np.float64], size: int) -> tuple[Codes, Codes]:
    """Codes of sx and aspect whose decoded sx and sy are not below the smallest scale at this size."""
    smallest = min_scale(size)
    sy = np.maximum(sy, smallest)
    sx = np.clip(sx, sy, sy * 2.0**_ASPECT_OCTAVES)
    wide = _code("sx", np.log2(sx / _SMALLEST) / _SCALE_OCTAVES)
    wide += _TABLES["sx"][wide] < smallest
    decoded = _TABLES["sx"][wide]
    # from the decoded sx, so that its rounding does not enter sy
    narrow = _code("aspect", np.log2(decoded / np.minimum(sy, decoded)) / _ASPECT_OCTAVES)
    narrow -= (decoded / _TABLES["aspect"][narrow] < smallest) & (narrow > 0)
    return wide, narrow


def encode_compact(gaussians: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.uint8]:
    """Return sets ``[..., N, 9]`` as bytes uint8 ``[..., N, 9]``.

    Raises:
        GvitError: a value is not finite; no code says so.
    """
    if not np.isfinite(gaussians).all():
        raise GvitError("the compact encoding cannot store values that are not finite")
    low, high = field_ranges(size)
    values = canonicalize(gaussians).astype(np.float64).clip(low, high)
    wide, narrow = _scale_codes(values[..., SX], values[..., SY], size)
    bent = np.arcsinh((values[..., 5:8] - _MIDDLE) * _STRETCH)
    codes = {
        "x": _code("x", 0.5 * (values[..., 0] + 1.0)),
        "y": _code("y", 0.5 * (values[..., 1] + 1.0)),
        "sx": wide,
        "aspect": narrow,
        **{name: _code(name, (bent[..., c] - _LOW) / (_HIGH - _LOW)) for c, name in enumerate("rgb")},
        "opacity": _code("opacity", (values[..., 8] - MIN_OPACITY) / (1.0 - MIN_OPACITY)),
    }
    words, shift = np.zeros(values.shape[:-1], dtype="<u8"), 0
    for name, bits in _BITS.items():
        words |= codes[name] << np.uint64(shift)
        shift += bits
    turn = np.rint((values[..., THETA] / math.pi + 0.5) * _THETA_CODES)
    stored = np.empty((*words.shape, COMPACT_BYTES), dtype=np.uint8)
    stored[..., :8] = words[..., None].view(np.uint8)
    stored[..., 8] = turn.astype(np.int64) % _THETA_CODES
    return stored


def decode_compact(stored: npt.NDArray[Any], out: npt.NDArray[np.float32]) -> None:
    """Write the sets in bytes uint8 ``[..., N, 9]`` into ``out``, float32 ``[..., N, 9]``."""
    words = np.ascontiguousarray(stored[..., :8]).view("<u8")[..., 0]
    values: dict[str, npt.NDArray[np.float32]] = {}
    shift = 0
    for name, bits in _BITS.items():
        values[name] = _TABLES[name][(words >> np.uint64(shift)) & np.uint64((1 << bits) - 1)]
        shift += bits
    values["sy"] = values["sx"] / values["aspect"]
    for column, name in enumerate(("x", "y", "sx", "sy")):
        out[..., column] = values[name]
    out[..., THETA] = _THETAS[stored[..., 8]]
    for column, name in enumerate(("r", "g", "b", "opacity"), start=THETA + 1):
        out[..., column] = values[name]
