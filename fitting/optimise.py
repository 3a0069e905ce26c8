"""One gradient step of a fit on one canvas: blend, squared error, backward, Adam.

A Gaussian's parameters [9]: centre x, y in pixels of the full canvas, log l11, shear l21 / l22, log l22 of
the Cholesky factor L (pixels), r, g, b, logit of the opacity. The step is taken in the Gaussian's own frame,
centre + L e and L (I + E) with E lower triangular, where the gradient is the whitened moments themselves: the
same rate fits a speck and a sky. Parameters are [9, n], n a multiple of sixteen, a vector of Gaussians at a
time.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ..rendering.jit import Floats, inlined
from ..rendering.lanes import (
    LANES,
    absolute,
    exp2,
    fill,
    fma,
    load,
    lower,
    select_less,
    sqrt,
    store,
    total,
    upper,
)
from ..rendering.strips import WHITEN, Workspace, backward_strip, bin_strips, forward_strip
from ..schemas.gaussians import RULE

__all__ = ["EPSILON2", "LOGIT_MAX", "LOGIT_MIN", "Rates", "blend_and_compare", "descend", "place_on_screen"]

_LOG2E = math.log2(math.e)
_EPSILON = RULE.epsilon
EPSILON2 = (
    1e-8  # of a squared gradient; far below what a visible error gives, and keeps the square root off 0
)
LOGIT_MIN, LOGIT_MAX = math.log(1 / 254) + 0.1, 6.0


class Rates(NamedTuple):
    """Step sizes of Adam at the start of the schedule, and its constants."""

    centre: float  # own standard deviations
    shape: float  # log-scale and shear
    colour: float
    opacity: float  # logit
    beta1: float
    beta2: float
    floor: float  # share of the rate left at the end of the cosine
    min_log_scale: float  # log pixels of the full canvas


@inlined
def place_on_screen(params: Floats, screen: Floats, scale: float) -> None:
    """Parameters [9, n] to the screen [SCREEN_FIELDS, n] of a canvas `scale` times as large."""
    n = params.shape[1]
    for i in range(0, n, LANES):
        l11 = exp2(load(params, 2 * n + i) * _LOG2E) * scale
        l22 = exp2(load(params, 4 * n + i) * _LOG2E) * scale
        store(screen, i, load(params, i) * scale)
        store(screen, n + i, load(params, n + i) * scale)
        store(screen, 2 * n + i, l11)
        store(screen, 3 * n + i, load(params, 3 * n + i) * l22 / l11)
        store(screen, 4 * n + i, l22)
        for f in range(5, 8):
            store(screen, f * n + i, load(params, f * n + i))
        store(screen, 8 * n + i, 1.0 / (1.0 + exp2(load(params, 8 * n + i) * -_LOG2E)))
        store(screen, 9 * n + i, WHITEN / l11)
        store(screen, 10 * n + i, WHITEN / l22)
    for i in range(n):
        screen[11, i] = math.log2(screen[8, i])


@inlined
def compare_strip(target: Floats, strip: int, height: int, width: int, space: Workspace) -> float:
    """Squared error of the strip last blended, clipped to 0..1, and its gradient into space.gradient.

    Args:
        target: [strips, H, 3, 16] flat.
        strip: Index of the strip.
        height: Rows of the canvas.
        width: Columns; pixels beyond it do not count.
        space: Scratch memory.
    """
    inside = select_less(load(space.column, 0), float(width - strip * LANES), 1.0, 0.0)
    error = fill(0.0)
    at = strip * height * 48
    for k in range(height):
        per_coverage = 1.0 / (1.0 - absolute(load(space.transmittance, k * 16)) + _EPSILON)
        to_coverage = fill(0.0)
        for c in range(3):
            value = load(space.colour, k * 48 + 16 * c) * per_coverage * (1.0 + _EPSILON)
            shown = upper(lower(value, 1.0), 0.0)
            difference = (shown - load(target, at + k * 48 + 16 * c)) * inside
            error = fma(difference, difference, error)
            # a value beyond the range that the clip brings to the target has no gradient
            difference = select_less(value, 0.0, 0.0, select_less(1.0, value, 0.0, difference))
            per_value = difference * per_coverage
            store(space.gradient, k * 64 + 16 * c, per_value * (1.0 + _EPSILON))
            to_coverage = fma(per_value, value, to_coverage)
        store(space.gradient, k * 64 + 48, 0.0 - to_coverage)
    return float(total(error))


@inlined
def blend_and_compare(screen: Floats, count: int, target: Floats, size: int, space: Workspace) -> float:
    """Squared error of a canvas size x size, and every Gaussian's moments into space.moments."""
    bin_strips(screen, count, size, size, space)
    space.moments[:] = 0
    error = 0.0
    for strip in range((size + LANES - 1) // LANES):
        position = forward_strip(screen, strip, size, True, space)
        error += compare_strip(target, strip, size, size, space)
        backward_strip(screen, strip, size, position, space)
    return error


@inlined
def gather_gradients(screen: Floats, moments: Floats, gradients: Floats) -> None:
    """Moments to gradients [9, n] in each Gaussian's own frame, to a factor of 2 WHITEN that Adam cancels.

    There the centre's gradient is (sum h u, sum h v), the factor's (sum h u^2, sum h u v, sum h v^2).
    """
    opacities = screen[8]
    for i in range(opacities.size):
        m = i * 9 * LANES
        gradients[0, i] = total(load(moments, m + 16))
        gradients[1, i] = total(load(moments, m + 48))
        gradients[2, i] = total(load(moments, m + 32)) / WHITEN
        gradients[3, i] = total(load(moments, m + 64)) / WHITEN
        gradients[4, i] = total(load(moments, m + 80)) / WHITEN
        for c in range(3):
            gradients[5 + c, i] = total(load(moments, m + 96 + 16 * c))
        gradients[8, i] = total(load(moments, m)) * (1.0 - opacities[i])


@inlined
def descend(
    params: Floats,
    first: Floats,
    second: Floats,
    gradients: Floats,
    size: float,
    step: int,
    decay: float,
    rates: Rates,
) -> None:
    """One Adam step (Kingma and Ba 2015) of all parameters, centre and shape in the Gaussian's own frame.

    Args:
        params: [9, n], updated.
        first: [9, n], running mean of the gradients, updated.
        second: [9, n], running mean of their squares, updated.
        gradients: [9, n]; replaced by the directions taken.
        size: S, the full canvas; centres stay on it.
        step: Number of this step, from 1.
        decay: Factor on all rates.
        rates: Step sizes.
    """
    n = params.shape[1]
    unbias1 = 1.0 / (1.0 - rates.beta1**step)
    unbias2 = 1.0 / (1.0 - rates.beta2**step)
    for i in range(0, 9 * n, LANES):
        gradient = load(gradients, i)
        mean = fma(load(first, i) - gradient, rates.beta1, gradient)
        square = fma(load(second, i) - gradient * gradient, rates.beta2, gradient * gradient)
        store(first, i, mean)
        store(second, i, square)
        store(gradients, i, mean * unbias1 / sqrt(fma(square, unbias2, EPSILON2)) * -decay)
    for i in range(0, n, LANES):
        l11 = exp2(load(params, 2 * n + i) * _LOG2E)
        l22 = exp2(load(params, 4 * n + i) * _LOG2E)
        shear = load(params, 3 * n + i)
        e1, e2 = load(gradients, i) * rates.centre, load(gradients, n + i) * rates.centre
        store(params, i, upper(lower(fma(l11, e1, load(params, i)), size), 0.0))
        store(params, n + i, upper(lower(fma(l22, fma(shear, e1, e2), load(params, n + i)), size), 0.0))
        e11, e22 = load(gradients, 2 * n + i) * rates.shape, load(gradients, 4 * n + i) * rates.shape
        e21 = load(gradients, 3 * n + i) * rates.shape
        store(params, 3 * n + i, fma(shear, exp2((e11 - e22) * _LOG2E), e21))
        store(params, 2 * n + i, upper(load(params, 2 * n + i) + e11, rates.min_log_scale))
        store(params, 4 * n + i, upper(load(params, 4 * n + i) + e22, rates.min_log_scale))
        for f in range(5, 8):
            store(params, f * n + i, fma(load(gradients, f * n + i), rates.colour, load(params, f * n + i)))
        logit = fma(load(gradients, 8 * n + i), rates.opacity, load(params, 8 * n + i))
        store(params, 8 * n + i, upper(lower(logit, LOGIT_MAX), LOGIT_MIN))
