"""The fit of one image on one thread: start, descend coarse to fine, relocate, give back the set."""

from __future__ import annotations

import math

import numpy as np

from ..rendering.jit import Floats, inlined, kernel
from ..rendering.lanes import LANES
from ..rendering.strips import SCREEN_FIELDS, Workspace
from .optimise import Rates, blend_and_compare, descend, gather_gradients, place_on_screen
from .relocate import Relocation, relocate

__all__ = [
    "DETAIL_SHARE",
    "MAX_ASPECT",
    "SCALE_PER_DISTANCE",
    "START_LOGIT",
    "fit_end",
    "fit_image",
    "fit_start",
    "next_uniform",
    "sample_start",
    "to_strips",
]

_HALF_AHEAD = (
    0.8  # a coarse canvas has less detail to miss: its error must be this much lower to count as enough
)
MAX_ASPECT = 128.0  # longer ones are shortened: 0.01 dB, and float32 conics (gsplat's) stay exact


@inlined
def _area_average(planes: Floats, size: int) -> Floats:
    """Planes [3, S, S] averaged over areas to [3, size, size], size <= S."""
    full = planes.shape[1]
    per = full / size
    out, rows = np.zeros((3, size, size), np.float32), np.zeros((3, size, full), np.float32)
    for y in range(size):
        top, bottom = y * per, (y + 1) * per
        for source in range(int(top), min(full, math.ceil(bottom))):
            share = (min(bottom, source + 1.0) - max(top, float(source))) / per
            for c in range(3):
                for x in range(full):
                    rows[c, y, x] += share * planes[c, source, x]
    for x in range(size):
        left, right = x * per, (x + 1) * per
        for source in range(int(left), min(full, math.ceil(right))):
            share = (min(right, source + 1.0) - max(left, float(source))) / per
            for c in range(3):
                for y in range(size):
                    out[c, y, x] += share * rows[c, y, source]
    return out


@inlined
def to_strips(planes: Floats) -> Floats:
    """Planes [3, S, S] as [strips, S, 3, 16] flat, 0 beyond the edge."""
    size = planes.shape[1]
    strips = (size + LANES - 1) // LANES
    out = np.zeros(strips * size * 48, np.float32)
    for y in range(size):
        for c in range(3):
            for x in range(size):
                out[((x // LANES) * size + y) * 48 + c * LANES + x % LANES] = planes[c, y, x]
    return out


@inlined
def _to_fields(params: Floats, size: int, count: int, min_scale: float, out: Floats) -> None:
    """Parameters [9, n] to canonical fields [N, 9]: Sigma = L L' by its eigenvectors, in float64."""
    to_canvas = 2.0 / size
    for i in range(count):
        l11, l22 = math.exp(float(params[2, i])), math.exp(float(params[4, i]))
        l21 = float(params[3, i]) * l22
        xx, xy, yy = l11 * l11, l11 * l21, l21 * l21 + l22 * l22
        half = 0.5 * (xx - yy)
        sx = math.sqrt(0.5 * (xx + yy) + math.sqrt(half * half + xy * xy))
        sy = max(l11 * l22 / sx, min_scale / to_canvas)
        sx = min(sx, MAX_ASPECT * sy)
        theta = 0.5 * math.atan2(2.0 * xy, xx - yy)
        out[i, 0] = params[0, i] * to_canvas - 1.0
        out[i, 1] = params[1, i] * to_canvas - 1.0
        out[i, 2] = max(sx * to_canvas, sy * to_canvas)
        out[i, 3] = sy * to_canvas
        out[i, 4] = theta if theta < 0.5 * math.pi else theta - math.pi
        for c in range(3):
            out[i, 5 + c] = params[5 + c, i]
        out[i, 8] = 1.0 / (1.0 + math.exp(-float(params[8, i])))


@inlined
def _to_planes(pixels: np.ndarray) -> Floats:
    """uint8 [S, S, 3] as float32 planes [3, S, S] in 0..1."""
    size = pixels.shape[0]
    planes = np.empty((3, size, size), np.float32)
    for y in range(size):
        for x in range(size):
            for c in range(3):
                planes[c, y, x] = pixels[y, x, c] * np.float32(1.0 / 255.0)
    return planes


@kernel
def fit_start(pixels: np.ndarray, seed: int | np.uint64, count: int, params: Floats) -> None:
    """The parameters [9, >= count] (see `optimise`) that a fit of uint8 [S, S, 3] starts from."""
    sample_start(_to_planes(pixels), params, count, np.full(1, seed, np.uint64))


@kernel
def fit_end(params: Floats, size: int, fields: Floats) -> None:
    """Parameters [9, >= N] of a fit at S x S as canonical fields float32 [N, 9] out."""
    _to_fields(params, size, fields.shape[0], 0.5 / size, fields)


@kernel
def fit_image(
    pixels: np.ndarray,
    stages: np.ndarray,
    enough: float,
    seed: int | np.uint64,
    rates: Rates,
    relocation: Relocation,
    space: Workspace,
    fields: Floats,
    taken: np.ndarray,
) -> float:
    """Fit a set of Gaussians to an image.

    Args:
        pixels: uint8 [S, S, 3].
        stages: int64 [stages, 3], coarse to fine: size of the canvas, steps on it, rounds of relocation,
            evenly among the steps.
        enough: Squared error (sum over pixels and channels) at which the fit may stop; 0 to go on to the end.
        seed: Of the start.
        rates: Of the descent.
        relocation: Of idle Gaussians.
        space: Scratch memory for N Gaussians at S x S.
        fields: float32 [N, 9] out, canonical (see `gvit.schemas.FIELDS`).
        taken: int64 [stages] out, the steps taken of each stage.

    Returns:
        The squared error of the set.
    """
    size, count = pixels.shape[0], fields.shape[0]
    padded = (count + LANES - 1) // LANES * LANES
    planes = _to_planes(pixels)
    params = np.zeros((9, padded), np.float32)
    first, second, gradients = np.zeros_like(params), np.zeros_like(params), np.zeros_like(params)
    screen = np.zeros((SCREEN_FIELDS, padded), np.float32)
    sample_start(planes, params, count, np.full(1, seed, np.uint64))
    kept, best = params.copy(), np.inf
    total_steps, step = stages[:, 1].sum(), 0
    for s in range(stages.shape[0]):
        canvas = stages[s, 0]
        scale = canvas / size
        target = to_strips(planes if canvas == size else _area_average(planes, canvas))
        steps, rounds = stages[s, 1], stages[s, 2]
        for n in range(1, steps + 1):
            step += 1
            place_on_screen(params, screen, scale)
            error = blend_and_compare(screen, count, target, canvas, space)
            if canvas == size and error < best:  # a step may overshoot: keep the best one
                best = error
                kept[:] = params
            taken[s] = n
            if error <= enough * (1.0 if canvas == size else _HALF_AHEAD * scale * scale):
                break
            gather_gradients(screen, space.moments, gradients)
            decay = rates.floor + (1.0 - rates.floor) * 0.5 * (1.0 + math.cos(math.pi * step / total_steps))
            descend(params, first, second, gradients, float(size), step, decay, rates)
            if n * (rounds + 1) // steps != (n - 1) * (rounds + 1) // steps and n < steps:
                place_on_screen(params, screen, scale)
                relocate(params, first, second, screen, count, target, canvas, scale, space, relocation)
    _to_fields(kept, size, count, 0.5 / size, fields)
    return best


DETAIL_SHARE = 0.7  # of the Gaussians go by squared gradient, the rest anywhere
SCALE_PER_DISTANCE = 0.6  # standard deviation, in mean distances to the three nearest neighbours
_NEIGHBOURS = 3
START_LOGIT = 2.0  # opacity 0.88


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
    per_detail = DETAIL_SHARE / total if total > 0 else 0.0
    running = 0.0
    for i in range(size * size):
        running += weight[i] * per_detail + (1.0 - DETAIL_SHARE) / (size * size)
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
        scale = min(max(SCALE_PER_DISTANCE * distances[order[i]], 0.5), 0.25 * size)
        params[0, i], params[1, i] = x + 0.5, y + 0.5
        params[2, i], params[3, i], params[4, i] = math.log(scale), 0.0, math.log(scale)
        for c in range(3):
            params[5 + c, i] = planes[c, y, x]
        params[8, i] = START_LOGIT
