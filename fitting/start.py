"""Where a fit starts: Gaussians sampled where the picture has detail, the finest in front."""

from __future__ import annotations

import math

import numpy as np

from ..rendering.jit import Floats, inlined

__all__ = ["next_uniform", "sample_start"]

_DETAIL_SHARE = 0.7  # of the Gaussians go by squared gradient, the rest anywhere
_SCALE_PER_DISTANCE = 0.6  # standard deviation, in mean distances to the three nearest neighbours
_NEIGHBOURS = 3
_OPACITY_LOGIT = 2.0  # opacity 0.88


@inlined
def next_uniform(state: np.ndarray) -> float:
    """A number in [0, 1) from a uint64 [1] state: splitmix64 (Steele, Lea and Flood 2014)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * 2.0**-53


@inlined
def _cumulative_detail(planes: Floats) -> np.ndarray:
    """Cumulative sampling weight of the pixels, float64 [S * S], of planes [3, S, S]."""
    size = planes.shape[1]
    light = planes[0] + planes[1] + planes[2]
    weight = np.empty(size * size)
    total = 0.0
    for y in range(size):
        above, below = max(y - 1, 0), min(y + 1, size - 1)
        for x in range(size):
            left, right = max(x - 1, 0), min(x + 1, size - 1)
            dx = light[y, right] - light[y, left]
            dy = light[below, x] - light[above, x]
            weight[y * size + x] = dx * dx + dy * dy
            total += weight[y * size + x]
    per_detail = _DETAIL_SHARE / total if total > 0 else 0.0
    running = 0.0
    for i in range(size * size):
        running += weight[i] * per_detail + (1.0 - _DETAIL_SHARE) / (size * size)
        weight[i] = running
    return weight


@inlined
def _sample_pixels(planes: Floats, count: int, state: np.ndarray) -> np.ndarray:
    """Distinct pixels drawn by detail, int64 [count]."""
    cumulative = _cumulative_detail(planes)
    taken = np.zeros(cumulative.size, np.uint8)
    pixels = np.empty(count, np.int64)
    for n in range(count):
        pixel = cumulative.size
        while pixel >= cumulative.size or taken[pixel]:
            pixel = np.searchsorted(
                cumulative, next_uniform(state) * cumulative[cumulative.size - 1], side="right"
            )
        taken[pixel] = 1
        pixels[n] = pixel
    return pixels


@inlined
def _neighbour_distances(pixels: np.ndarray, size: int) -> np.ndarray:
    """Mean distance of each pixel to its nearest neighbours among the sampled, float64 [count]."""
    distances = np.empty(pixels.size)
    neighbours = min(_NEIGHBOURS, pixels.size - 1)
    near = np.empty(_NEIGHBOURS)
    for n in range(pixels.size):
        near[:] = np.inf
        for m in range(pixels.size):
            if m != n:
                dy = float(pixels[n] // size - pixels[m] // size)
                dx = float(pixels[n] % size - pixels[m] % size)
                d2 = dx * dx + dy * dy
                for k in range(_NEIGHBOURS):
                    if d2 < near[k]:
                        d2, near[k] = near[k], d2
        mean = 0.0
        for k in range(neighbours):
            mean += math.sqrt(near[k]) / neighbours
        distances[n] = mean if neighbours else 0.5 * size
    return distances


@inlined
def sample_start(planes: Floats, params: Floats, count: int, state: np.ndarray) -> None:
    """Fill the parameters of a fit (see `optimise`) with round Gaussians sampled by detail.

    Args:
        planes: [3, S, S], 0..1.
        params: [9, n] out, n >= count.
        count: Number of Gaussians, at most S * S.
        state: uint64 [1], the random state.
    """
    size = planes.shape[1]
    pixels = _sample_pixels(planes, count, state)
    distances = _neighbour_distances(pixels, size)
    order = np.argsort(distances, kind="mergesort")  # stable: ties must not depend on the machine
    for i in range(count):
        pixel = pixels[order[i]]
        y, x = pixel // size, pixel % size
        scale = min(max(_SCALE_PER_DISTANCE * distances[order[i]], 0.5), 0.25 * size)
        params[0, i], params[1, i] = x + 0.5, y + 0.5
        params[2, i], params[3, i], params[4, i] = math.log(scale), 0.0, math.log(scale)
        for c in range(3):
            params[5 + c, i] = planes[c, y, x]
        params[8, i] = _OPACITY_LOGIT
