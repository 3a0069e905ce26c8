"""The fits that ours is measured against, on the same kernels where they have kernels in common.

`plain` is the textbook fit of the same equation: same start, one canvas, Adam with betas 0.9 and 0.99 and a
cosine, nothing moved. `accumulated` is GaussianImage's blending instead (Zhang et al. 2024): the image is the
sum of opacity times falloff times colour, without order, transmittance or division, fitted with the same
optimiser from the same start.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from gvit.fitting.cpu import fit_image, sample_start, to_strips
from gvit.fitting.optimise import Rates, descend, gather_gradients, place_on_screen
from gvit.fitting.relocate import Relocation
from gvit.rendering.cpu import render_batch
from gvit.rendering.jit import Floats, inlined, kernel
from gvit.rendering.lanes import LANES, exp2, fill, fma, load, lower, select_less, store, total, upper
from gvit.rendering.strips import SCREEN_FIELDS, Workspace, add_moments, bin_strips, make_workspace, whitened

__all__ = ["fit_accumulated", "fit_plain"]

PLAIN = Rates(
    centre=0.2,
    shape=0.06,
    colour=0.04,
    opacity=0.1,
    beta1=0.9,
    beta2=0.99,
    floor=0.02,
    min_log_scale=math.log(0.3),
)
_ALPHA_MIN = np.float32(1 / 255)
_NOTHING_MOVES = Relocation(share=0.0, margin=1.0, opacity_logit=0.0, spread=1.0)


def _workspace(num_gaussians: int, size: int) -> Workspace:
    return make_workspace(-(-num_gaussians // LANES) * LANES, size, size)


def fit_plain(pixels: npt.NDArray[np.uint8], num_gaussians: int, steps: int, seed: int) -> Floats:
    """Fit uint8 [S, S, 3] with the textbook fit; returns its rendering, float32 [3, S, S], not clipped."""
    size = pixels.shape[0]
    fields = np.empty((num_gaussians, 9), np.float32)
    stages = np.array([(size, steps, 0)], np.int64)
    taken = np.zeros(1, np.int64)
    fit_image(
        pixels, stages, 0.0, seed, PLAIN, _NOTHING_MOVES, _workspace(num_gaussians, size), fields, taken
    )
    return render_batch(fields[None], size, size, threads=1)[0]


@inlined
def _sum_strip(screen: Floats, strip: int, size: int, space: Workspace) -> None:
    column = load(space.column, 0)
    for k in range(3 * size):
        store(space.colour, k * 16, fill(0.0))
    for j in range(space.counts[strip]):
        i, row, end = space.spans[strip, j, 0], space.spans[strip, j, 1], space.spans[strip, j, 2]
        u, v = whitened(screen, i, strip, row, column)
        log2_alpha = screen[11, i] - u * u
        for k in range(row, end):
            alpha = exp2(log2_alpha - v * v)
            alpha = select_less(alpha, _ALPHA_MIN, 0.0, alpha)
            v = v + screen[10, i]
            for c in range(3):
                at = k * 48 + 16 * c
                store(space.colour, at, fma(alpha, screen[5 + c, i], load(space.colour, at)))


@inlined
def _compare_sum(target: Floats, strip: int, size: int, space: Workspace) -> float:
    error = fill(0.0)
    inside = select_less(load(space.column, 0), float(size - strip * LANES), 1.0, 0.0)
    for k in range(3 * size):
        value = load(space.colour, k * 16)
        difference = (upper(lower(value, 1.0), 0.0) - load(target, strip * size * 48 + k * 16)) * inside
        error = fma(difference, difference, error)
        difference = select_less(value, 0.0, 0.0, select_less(1.0, value, 0.0, difference))
        store(space.gradient, k * 16, difference)
    return float(total(error))


@inlined
def _sum_strip_backward(screen: Floats, strip: int, space: Workspace) -> None:
    column = load(space.column, 0)
    for j in range(space.counts[strip]):
        i, row, end = space.spans[strip, j, 0], space.spans[strip, j, 1], space.spans[strip, j, 2]
        u, v = whitened(screen, i, strip, row, column)
        log2_alpha = screen[11, i] - u * u
        r, g, b = screen[5, i], screen[6, i], screen[7, i]
        h0, h_v, h_vv = fill(0.0), fill(0.0), fill(0.0)
        to_r, to_g, to_b = fill(0.0), fill(0.0), fill(0.0)
        for k in range(row, end):
            alpha = exp2(log2_alpha - v * v)
            alpha = select_less(alpha, _ALPHA_MIN, 0.0, alpha)
            at = k * 48
            grad_r, grad_g = load(space.gradient, at), load(space.gradient, at + 16)
            grad_b = load(space.gradient, at + 32)
            to_r, to_g, to_b = fma(alpha, grad_r, to_r), fma(alpha, grad_g, to_g), fma(alpha, grad_b, to_b)
            h = alpha * (grad_r * r + grad_g * g + grad_b * b)
            h0, h_v, h_vv = h0 + h, h_v + h * v, fma(h * v, v, h_vv)
            v = v + screen[10, i]
        m = i * 144
        add_moments(space.moments, m, u, h0, h_v, h_vv)
        store(space.moments, m + 96, load(space.moments, m + 96) + to_r)
        store(space.moments, m + 112, load(space.moments, m + 112) + to_g)
        store(space.moments, m + 128, load(space.moments, m + 128) + to_b)


@kernel
def _fit_sum(
    planes: Floats,
    target: Floats,
    count: int,
    steps: int,
    seed: int,
    rates: Rates,
    space: Workspace,
    image: Floats,
) -> None:
    """Fit planes [3, S, S] as an accumulated sum, and write the last rendering to image [3, S, S]."""
    size = planes.shape[1]
    params = np.zeros((9, (count + LANES - 1) // LANES * LANES), np.float32)
    first, second, gradients = np.zeros_like(params), np.zeros_like(params), np.zeros_like(params)
    screen = np.zeros((SCREEN_FIELDS, params.shape[1]), np.float32)
    sample_start(planes, params, count, np.full(1, seed, np.uint64))
    params[8, :count] = 0.0  # opacities add up here: half of each to start with
    for step in range(1, steps + 2):
        place_on_screen(params, screen, 1.0)
        bin_strips(screen, count, size, size, space)
        space.moments[:] = 0
        for strip in range((size + LANES - 1) // LANES):
            _sum_strip(screen, strip, size, space)
            if step > steps:
                for k in range(3 * size):
                    for x in range(min(LANES, size - strip * LANES)):
                        image[k % 3, k // 3, strip * LANES + x] = space.colour[k * 16 + x]
            else:
                _compare_sum(target, strip, size, space)
                _sum_strip_backward(screen, strip, space)
        if step <= steps:
            gather_gradients(screen, space.moments, gradients)
            decay = rates.floor + (1.0 - rates.floor) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
            descend(params, first, second, gradients, float(size), step, decay, rates)


def fit_accumulated(pixels: npt.NDArray[np.uint8], num_gaussians: int, steps: int, seed: int) -> Floats:
    """Fit uint8 [S, S, 3] as an accumulated sum; returns its rendering, float32 [3, S, S], not clipped."""
    size = pixels.shape[0]
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / np.float32(255.0)
    image = np.empty_like(planes)
    space = _workspace(num_gaussians, size)
    _fit_sum(planes, to_strips(planes), num_gaussians, steps, seed, PLAIN, space, image)
    return image
