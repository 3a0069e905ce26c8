"""Gaussians that do little move to where the error is: what gradients alone cannot do.

The cost of removing each Gaussian is exact (the image without it, from what lies behind it). The gain of a
new one is a matched filter: a blob of standard deviation s, of the best colour, at a place whose residual
smoothed by s is R lowers the squared error by about 4 pi s^2 |R|^2. The cheapest go to the best places while
it pays.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..rendering.jit import Floats, inlined
from ..rendering.lanes import LANES, Lanes, absolute, fill, fma, load, lower, select_less, store, total, upper
from ..rendering.strips import Workspace, bin_strips, forward_strip
from ..schemas.gaussians import RULE

__all__ = ["Relocation", "relocate", "removal_costs"]

_EPSILON = RULE.epsilon


class Relocation(NamedTuple):
    """When and how Gaussians move."""

    share: float  # of the Gaussians at most, each time
    margin: float  # gain over cost
    opacity_logit: float  # of the newly placed
    spread: float  # suppression around a chosen place, in its own scales


@inlined
def _squared_error(value: Lanes, target: Lanes) -> Lanes:
    """Of a value, clipped to 0..1."""
    difference = upper(lower(value, 1.0), 0.0) - target
    return difference * difference


@inlined
def removal_costs(
    screen: Floats,
    target: Floats,
    size: int,
    space: Workspace,
    behind: Floats,
    costs: np.ndarray,
    residual: Floats,
) -> None:
    """What the squared error would grow by without each Gaussian [n], and the residual planes [3, S, S + 15].

    Args:
        screen: [SCREEN_FIELDS, n].
        target: [strips, S, 3, 16] flat.
        size: S.
        space: Scratch memory.
        behind: [S * 80] scratch: premultiplied colour and coverage of what lies behind, error with all.
        costs: [n] out.
        residual: [3, S, 16 * strips] out, target minus image.
    """
    bin_strips(screen, costs.size, size, size, space)
    costs[:] = 0
    for strip in range((size + LANES - 1) // LANES):
        position = forward_strip(screen, strip, size, True, space)
        at = strip * size * 48
        inside = select_less(load(space.column, 0), float(size - strip * LANES), 1.0, 0.0)
        behind[:] = 0
        for k in range(size):
            error = fill(0.0)
            factor = (1.0 + _EPSILON) / (1.0 - absolute(load(space.transmittance, k * 16)) + _EPSILON)
            for c in range(3):
                value = upper(lower(load(space.colour, k * 48 + 16 * c) * factor, 1.0), 0.0)
                place = (c * size + k) * residual.shape[2] + strip * LANES
                difference = load(target, at + k * 48 + 16 * c) - value
                store(residual, place, difference)
                error = fma(difference, difference, error)
            store(behind, k * 80 + 64, error)
        for j in range(space.counts[strip] - 1, -1, -1):
            i, row, end = space.spans[strip, j, 0], space.spans[strip, j, 1], space.spans[strip, j, 2]
            position -= 32 * (end - row)
            grown = fill(0.0)
            for k in range(row, end):
                weight = load(space.saved, position + 32 * (k - row))
                alpha = load(space.saved, position + 32 * (k - row) + 16)
                covered = 1.0 - absolute(load(space.transmittance, k * 16)) + _EPSILON
                rest = load(behind, k * 80 + 48)
                error = fill(0.0)
                without = (1.0 + _EPSILON) / (covered - weight + weight * rest)
                store(behind, k * 80 + 48, fma(alpha, 1.0 - rest, rest))
                for c in range(3):
                    colour = load(space.colour, k * 48 + 16 * c)
                    back = load(behind, k * 80 + 16 * c)
                    towards = screen[5 + c, i] - back
                    wanted = load(target, at + k * 48 + 16 * c)
                    error = error + _squared_error((colour - weight * towards) * without, wanted)
                    store(behind, k * 80 + 16 * c, fma(alpha, towards, back))
                grown = fma(error - load(behind, k * 80 + 64), inside, grown)
            costs[i] += total(grown)


@inlined
def _smooth(plane: Floats, size: int, reach: int, out: Floats, line: Floats) -> None:
    """Convolve a plane [S, >= S] with [1, 2, 1] / 4 at distance `reach`, both ways; edges repeat."""
    for y in range(size):
        above, below = max(y - reach, 0), min(y + reach, size - 1)
        for x in range(size):
            line[x] = 0.25 * (plane[above, x] + plane[below, x]) + 0.5 * plane[y, x]
        for x in range(size):
            out[y, x] = 0.25 * (line[max(x - reach, 0)] + line[min(x + reach, size - 1)]) + 0.5 * line[x]


@inlined
def _gain_maps(residual: Floats, size: int, gain: Floats, scale: Floats) -> None:
    """The best gain at every pixel [S, S] and the standard deviation that brings it.

    Repeated binomial smoothing gives s^2 = 1/2, 1, 3 and 5 pixels.
    """
    smooth, next_smooth = np.empty_like(residual), np.empty_like(residual)
    line = np.empty(size, np.float32)
    gain[:] = 0
    variance = 0.0
    for level in range(3):
        reach = 1 if level < 2 else 2
        variance += 0.5 * reach * reach
        factor = np.float32(4.0 * math.pi * variance)
        for c in range(3):
            _smooth(residual[c] if level == 0 else smooth[c], size, reach, next_smooth[c], line)
        smooth, next_smooth = next_smooth, smooth
        deviation = np.float32(math.sqrt(variance))
        for y in range(size):
            for x in range(size):
                r, g, b = smooth[0, y, x], smooth[1, y, x], smooth[2, y, x]
                value = factor * (r * r + g * g + b * b)
                if value > gain[y, x]:
                    gain[y, x] = value
                    scale[y, x] = deviation


@inlined
def _take_best(gain: Floats, scale: Floats, spread: float) -> tuple[int, int, float]:
    """The place of the largest gain, which is then suppressed around that place."""
    size = gain.shape[0]
    best, y, x = np.float32(-1.0), 0, 0
    for row in range(size):
        largest = gain[row].max()
        if largest > best:
            best, y = largest, row
    for column in range(size):
        if gain[y, column] == best:
            x = column
            break
    width = spread * scale[y, x]
    reach = math.ceil(2.0 * width)
    for v in range(max(0, y - reach), min(size, y + reach + 1)):
        for u in range(max(0, x - reach), min(size, x + reach + 1)):
            d2 = float((v - y) * (v - y) + (u - x) * (u - x))
            gain[v, u] *= 1.0 - math.exp(-0.5 * d2 / (width * width))
    return y, x, float(best)


@inlined
def _bring_to_front(rows: Floats, order: np.ndarray) -> None:
    """Permute the columns of rows [9, n]."""
    count = order.size
    old = np.empty(count, np.float32)
    for f in range(rows.shape[0]):
        old[:] = rows[f, :count]
        for i in range(count):
            rows[f, i] = old[order[i]]


@inlined
def _front_order(moved: np.ndarray, count: int) -> np.ndarray:
    """The moved first, then the others as they were, int64 [count]."""
    order, n = np.empty(count, np.int64), moved.size
    is_moved = np.zeros(count, np.uint8)
    for k in range(moved.size):
        order[k] = moved[k]
        is_moved[moved[k]] = 1
    for i in range(count):
        if not is_moved[i]:
            order[n] = i
            n += 1
    return order


@inlined
def relocate(
    params: Floats,
    first: Floats,
    second: Floats,
    screen: Floats,
    count: int,
    target: Floats,
    size: int,
    scale: float,
    space: Workspace,
    how: Relocation,
) -> int:
    """Move the cheapest Gaussians to the best places, in front of all others; returns how many moved.

    Args:
        params: [9, n] parameters (see `optimise`), updated and reordered.
        first: [9, n] Adam's first moments, likewise; 0 for the moved.
        second: [9, n] its second moments, likewise.
        screen: [SCREEN_FIELDS, n], the parameters placed on the canvas of this size.
        count: Gaussians in use.
        target: [strips, S, 3, 16] flat.
        size: S, the canvas.
        scale: Its share of the full canvas.
        space: Scratch memory.
        how: Limits.
    """
    residual = np.empty((3, size, (size + LANES - 1) // LANES * LANES), np.float32)
    costs, behind = np.empty(count), np.empty(size * 80, np.float32)
    removal_costs(screen, target, size, space, behind, costs, residual)
    gain, width = np.empty((size, size), np.float32), np.empty((size, size), np.float32)
    _gain_maps(residual, size, gain, width)
    cheapest = np.argsort(costs, kind="mergesort")
    moved = 0
    for n in range(int(how.share * count)):
        y, x, best = _take_best(gain, width, how.spread)
        i = cheapest[n]
        if best <= how.margin * max(costs[i], 0.0):
            break
        params[0, i], params[1, i] = (x + 0.5) / scale, (y + 0.5) / scale
        params[2, i] = math.log(width[y, x] / scale)
        params[3, i], params[4, i] = 0.0, params[2, i]
        at = ((x // LANES) * size + y) * 48 + x % LANES
        for c in range(3):
            params[5 + c, i] = target[at + 16 * c]
        params[8, i] = how.opacity_logit
        first[:, i] = 0
        second[:, i] = 0
        moved += 1
    if moved:
        order = _front_order(cheapest[:moved], count)
        for rows in (params, first, second):
            _bring_to_front(rows, order)
    return moved
