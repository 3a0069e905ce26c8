"""The compact encoding: ten bytes per Gaussian, read back by table.

A Gaussian is a little-endian 64-bit word and a little-endian 16-bit word. From the lowest bit up:

    bits  field    value of code q
    11    x        -1 + 2 q / 2047
    11    y        -1 + 2 q / 2047
     8    sx       2^-12 * 2^(16 q / 255)
     8    aspect   2^(7 q / 255), sy = sx / aspect
     9    r        1/2 + sinh(L + (H - L) q / 511) / 3, L = asinh(-21/2), H = asinh(21/2)
     9    g        likewise
     8    theta    -pi/2 + pi q / 256
     9    b        as r (here the second word begins)
     7    opacity  1/255 + (1 - 1/255) q / 127

All in float64, rounded once to float32 (code 0 of theta: upwards). Colours are finest around 1/2, where most
of them lie. A Gaussian longer than 128 times its width is shortened to that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import GvitError
from .gaussians import COLOR_RANGE, FIELDS, MIN_OPACITY, SX, SY, THETA, canonicalize, field_ranges, min_scale

__all__ = ["COMPACT_BYTES", "COMPACT_MAX_SIZE", "decode_compact", "encode_compact"]

COMPACT_BYTES = 10
COMPACT_MAX_SIZE = 512  # above, its centres are coarser than a quarter of a pixel

_SMALLEST, _SCALE_OCTAVES, _ASPECT_OCTAVES = 2.0**-12, 16.0, 7.0
_MIDDLE, _STRETCH = 0.5, 3.0
_LOW, _HIGH = (math.asinh((bound - _MIDDLE) * _STRETCH) for bound in COLOR_RANGE)
_BITS = {"x": 11, "y": 11, "sx": 8, "aspect": 8, "r": 9, "g": 9, "theta": 8, "b": 9, "opacity": 7}
_FIRST_WORD = 64  # bits

Codes = npt.NDArray[np.uint64]


def _table(name: str) -> npt.NDArray[np.float32]:
    """The value of every code of a field."""
    codes = 1 << _BITS[name]
    share = np.arange(codes) / (codes - 1)
    if name in ("x", "y"):
        values = -1.0 + 2.0 * share
    elif name == "sx":
        values = _SMALLEST * 2.0 ** (_SCALE_OCTAVES * share)
    elif name == "aspect":
        values = 2.0 ** (_ASPECT_OCTAVES * share)
    elif name == "opacity":
        values = MIN_OPACITY + (1.0 - MIN_OPACITY) * share
    elif name == "theta":
        values = -math.pi / 2 + math.pi * np.arange(codes) / codes
        values[0] = np.nextafter(
            np.float32(values[0]), np.float32(0.0)
        )  # float32 would round it out of range
    else:
        values = _MIDDLE + np.sinh(_LOW + (_HIGH - _LOW) * share) / _STRETCH
    return values.astype(np.float32)


_TABLES = {name: _table(name) for name in _BITS}


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
    """Return sets ``[..., N, 9]`` as bytes uint8 ``[..., N, 10]``.

    Raises:
        GvitError: a value is not finite; no code says so.
    """
    if not np.isfinite(gaussians).all():
        raise GvitError("the compact encoding cannot store values that are not finite")
    low, high = field_ranges(size)
    values = canonicalize(gaussians).astype(np.float64).clip(low, high)
    wide, narrow = _scale_codes(values[..., SX], values[..., SY], size)
    bent = np.arcsinh((values[..., 5:8] - _MIDDLE) * _STRETCH)
    turns = np.uint64(1 << _BITS["theta"])
    codes = {
        "x": _code("x", 0.5 * (values[..., 0] + 1.0)),
        "y": _code("y", 0.5 * (values[..., 1] + 1.0)),
        "sx": wide,
        "aspect": narrow,
        **{name: _code(name, (bent[..., c] - _LOW) / (_HIGH - _LOW)) for c, name in enumerate("rgb")},
        "theta": np.rint((values[..., THETA] / math.pi + 0.5) * turns).astype(np.uint64) % turns,
        "opacity": _code("opacity", (values[..., 8] - MIN_OPACITY) / (1.0 - MIN_OPACITY)),
    }
    first, second = np.zeros(values.shape[:-1], "<u8"), np.zeros(values.shape[:-1], "<u2")
    for name, word, shift in _places():
        if word == 0:
            first |= codes[name] << np.uint64(shift)
        else:
            second |= (codes[name] << np.uint64(shift)).astype(np.uint16)
    stored = np.empty((*first.shape, COMPACT_BYTES), dtype=np.uint8)
    stored[..., :8] = first[..., None].view(np.uint8)
    stored[..., 8:] = second[..., None].view(np.uint8)
    return stored


def _places() -> Iterator[tuple[str, int, int]]:
    """Field, word and lowest bit in it, in order."""
    at = 0
    for name, bits in _BITS.items():
        yield name, at // _FIRST_WORD, at % _FIRST_WORD
        at += bits


def decode_compact(stored: npt.NDArray[Any], out: npt.NDArray[np.float32]) -> None:
    """Write the sets in bytes uint8 ``[..., N, 10]`` into ``out``, float32 ``[..., N, 9]``."""
    first = np.ascontiguousarray(stored[..., :8]).view("<u8")[..., 0]
    second = np.ascontiguousarray(stored[..., 8:]).view("<u2")[..., 0]
    values: dict[str, npt.NDArray[np.float32]] = {}
    for name, word, shift in _places():
        codes = (second if word else first) >> shift
        values[name] = _TABLES[name][codes & ((1 << _BITS[name]) - 1)]
    values["sy"] = values["sx"] / values["aspect"]
    for column, name in enumerate(FIELDS):
        out[..., column] = values[name]
