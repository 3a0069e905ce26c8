"""A Gaussian: its nine fields, their units and ranges, and its canonical form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DatasetError, GvitError

__all__ = [
    "COLOR_RANGE",
    "FIELDS",
    "MAX_SCALE",
    "MIN_OPACITY",
    "NUM_FIELDS",
    "RULE",
    "BlendRule",
    "GuidedSet",
    "canonicalize",
    "check_gaussians",
    "field_ranges",
    "min_scale",
]

FIELDS = ("x", "y", "sx", "sy", "theta", "r", "g", "b", "opacity")
"""Columns of a set ``[N, 9]``; row order is depth order, row 0 in front."""

NUM_FIELDS = len(FIELDS)

MIN_OPACITY = 1 / 255
"""Below it a Gaussian is skipped everywhere, so a stored one would be dead."""

MAX_SCALE = 65504.0
"""Largest standard deviation in canvas units: the largest float16."""

COLOR_RANGE = (-3.0, 4.0)
"""sRGB is nominally 0..1; three units beyond on either side is the sanity limit of what is stored."""

SX, SY, THETA = 2, 3, 4


@dataclass(frozen=True, slots=True)
class GuidedSet:
    """A set after guidance.

    Attributes:
        gaussians: float32 [N, 9], row by row the Gaussians of the stored set.
        mode: What moved them, "refine" or "direct".
        epochs: Epochs of training that they or the refiner had.
    """

    gaussians: npt.NDArray[np.float32]
    mode: str
    epochs: int


def min_scale(size: int) -> float:
    """Return the smallest standard deviation in canvas units: a quarter of a pixel at ``size`` pixels.

    Raises:
        GvitError: ``size`` is not positive.
    """
    if size < 1:
        raise GvitError(f"size must be at least 1 pixel, not {size}")
    return 0.5 / size


def field_ranges(size: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the lowest and the highest value of each field as two float64 ``[9]``.

    Both ends belong to the range, except the upper end of theta: it turns within ``[-pi/2, pi/2)``.
    """
    scale, color = (min_scale(size), MAX_SCALE), COLOR_RANGE
    ranges = [
        *((-1.0, 1.0), (-1.0, 1.0), scale, scale, (-math.pi / 2, math.pi / 2)),
        *(color, color, color, (MIN_OPACITY, 1.0)),
    ]
    low, high = np.array(ranges, dtype=np.float64).T
    return low, high


def canonicalize(gaussians: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return the same Gaussians with ``sx >= sy`` and theta in ``[-pi/2, pi/2)``.

    The axes are swapped by turning theta by a quarter; a Gaussian is the same after a half turn. All else,
    and what is canonical already, keeps its bits.

    Args:
        gaussians: ``[..., 9]``, any float type.

    Returns:
        float32 ``[..., 9]``, a new array.
    """
    canonical = np.array(gaussians, dtype=np.float32)
    sx, sy = canonical[..., SX].copy(), canonical[..., SY].copy()
    swapped = sx < sy
    canonical[..., SX] = np.where(swapped, sy, sx)
    canonical[..., SY] = np.where(swapped, sx, sy)
    theta = canonical[..., THETA].astype(np.float64) + np.where(swapped, math.pi / 2, 0.0)
    turned = swapped | (theta < -math.pi / 2) | (theta >= math.pi / 2)
    with np.errstate(invalid="ignore"):  # an infinite angle becomes NaN; check_gaussians names it
        theta -= math.pi * np.floor((theta + math.pi / 2) / math.pi)
    # float32(pi/2) lies above pi/2, so a value next to either end may round out of the range
    limit = np.nextafter(np.float32(math.pi / 2), np.float32(0))
    wrapped = np.clip(theta.astype(np.float32), -limit, limit)
    canonical[..., THETA] = np.where(turned, wrapped, canonical[..., THETA])
    return canonical


def check_gaussians(array: npt.NDArray[Any], size: int) -> None:
    """Check that decoded sets are what the schema promises.

    Args:
        array: ``[..., N, 9]``, any float type, N at least 1.
        size: side of the fit's canvas in pixels; it sets the smallest scale.

    Raises:
        DatasetError: another shape or type, a value that is not finite or out of its range (both compared
            as float32), or ``sx < sy``. It names row, field, value and range.
    """
    if array.ndim < 2 or array.shape[-1] != NUM_FIELDS or array.shape[-2] < 1:
        raise DatasetError(f"a set of Gaussians has shape [N, {NUM_FIELDS}], not {list(array.shape)}")
    if not np.issubdtype(array.dtype, np.floating):
        raise DatasetError(f"a set of Gaussians holds floating-point numbers, not {array.dtype}")
    values = array.astype(np.float32, copy=False)
    low, high = (bound.astype(np.float32) for bound in field_ranges(size))
    inside = (values >= low) & (values <= high)  # NaN compares false
    inside[..., THETA] &= values[..., THETA] < high[THETA]
    if not inside.all():
        *place, column = (int(i) for i in np.argwhere(~inside)[0])
        end = ")" if column == THETA else "]"
        wanted = f"[{low[column]:.7g}, {high[column]:.7g}{end}"
        value = values[(*place, column)]
        raise DatasetError(f"{_place(place)}: {FIELDS[column]} = {value:.7g} is not in {wanted}")
    thin = values[..., SX] < values[..., SY]
    if thin.any():
        place = [int(i) for i in np.argwhere(thin)[0]]
        sx, sy = values[(*place, SX)], values[(*place, SY)]
        raise DatasetError(f"{_place(place)}: sx = {sx:.7g} is less than sy = {sy:.7g}")


def _place(place: list[int]) -> str:
    *sets, row = place
    return f"set {sets[0] if len(sets) == 1 else sets}, row {row}" if sets else f"row {row}"


@dataclass(frozen=True, slots=True)
class BlendRule:
    """The constants of front-to-back blending, un-premultiplied.

    With ``alpha_i = min(alpha_max, opacity_i * exp(-sigma_i))``, Gaussians with ``alpha_i < alpha_min``
    skipped and the walk stopped before ``T * (1 - alpha_i) <= transmittance_min``::

        C = sum_i T_i alpha_i c_i,   A = sum_i T_i alpha_i,   image = (1 + epsilon) C / (A + epsilon)

    ``C`` and ``A`` are gsplat 1.5's ``rasterize_to_pixels``. All constants are pure numbers.
    """

    rule: str = "over-unpremultiplied"
    alpha_max: float = 0.999
    alpha_min: float = MIN_OPACITY
    transmittance_min: float = 1e-4
    epsilon: float = 0.01


RULE = BlendRule()
"""The rule of schema version 1."""
