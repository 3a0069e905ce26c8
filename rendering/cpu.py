"""The CPU backend: numba kernels over column strips, images in parallel over threads."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..schemas.cores import usable_cores
from ..schemas.gaussians import RULE
from .drawable import only_drawable
from .jit import Floats, inlined, kernel
from .lanes import LANES, absolute, fill, fma, load, store, total
from .strips import (
    MOMENTS,
    SCREEN_FIELDS,
    WHITEN,
    Workspace,
    backward_strip,
    bin_strips,
    forward_strip,
    make_workspace,
)

__all__ = ["gradient_batch", "render_batch"]

_EPSILON = RULE.epsilon
_ALPHA_MIN = np.float32(RULE.alpha_min)


@inlined
def project(gaussians: Floats, height: int, width: int, screen: Floats) -> None:
    """Gaussians in canvas units to the screen: Sigma = D R S^2 R' D as its Cholesky factor, in float64.

    Args:
        gaussians: [N, 9], all drawable.
        height: Rows of the image.
        width: Columns of the image.
        screen: [SCREEN_FIELDS, N] out.
    """
    half_w, half_h = 0.5 * width, 0.5 * height
    for i in range(gaussians.shape[0]):
        sx, sy, theta = float(gaussians[i, 2]), float(gaussians[i, 3]), float(gaussians[i, 4])
        opacity = float(gaussians[i, 8])
        c, s = math.cos(theta), math.sin(theta)
        l11 = half_w * math.sqrt((c * sx) ** 2 + (s * sy) ** 2)
        slope = half_w * half_h * c * s * (sx - sy) * (sx + sy) / (l11 * l11)
        l22 = half_w * half_h * sx * sy / l11
        screen[0, i] = (gaussians[i, 0] + 1.0) * half_w
        screen[1, i] = (gaussians[i, 1] + 1.0) * half_h
        screen[2, i], screen[3, i], screen[4, i] = l11, slope, l22
        screen[5, i], screen[6, i], screen[7, i] = gaussians[i, 5], gaussians[i, 6], gaussians[i, 7]
        screen[8, i] = opacity
        screen[9, i], screen[10, i] = WHITEN / l11, WHITEN / l22
        screen[11, i] = math.log2(opacity) if opacity > 0 else -1e30


@inlined
def write_strip(strip: int, space: Workspace, row: Floats, image: Floats) -> None:
    """Un-premultiply the strip last blended into image [3, H, W]; row is scratch of 16."""
    height, width = image.shape[1], image.shape[2]
    left = strip * LANES
    columns = min(LANES, width - left)
    for k in range(height):
        factor = (1.0 + _EPSILON) / (1.0 - absolute(load(space.transmittance, k * 16)) + _EPSILON)
        for c in range(3):
            value = load(space.colour, k * 48 + 16 * c) * factor
            if columns == LANES:
                store(image, (c * height + k) * width + left, value)
            else:
                store(row, 0, value)
                for x in range(columns):
                    image[c, k, left + x] = row[x]


@inlined
def read_gradient(strip: int, space: Workspace, row: Floats, image_gradient: Floats) -> None:
    """dL/d(image) [3, H, W] to dL/dC and dL/dA of the strip last blended; row is scratch of 16."""
    height, width = image_gradient.shape[1], image_gradient.shape[2]
    left = strip * LANES
    columns = min(LANES, width - left)
    row[:] = 0
    for k in range(height):
        per_coverage = 1.0 / (1.0 - absolute(load(space.transmittance, k * 16)) + _EPSILON)
        to_coverage = fill(0.0)
        for c in range(3):
            if columns == LANES:
                upstream = load(image_gradient, (c * height + k) * width + left)
            else:
                for x in range(columns):
                    row[x] = image_gradient[c, k, left + x]
                upstream = load(row, 0)
            to_colour = upstream * per_coverage * (1.0 + _EPSILON)
            store(space.gradient, k * 64 + 16 * c, to_colour)
            to_coverage = fma(to_colour * load(space.colour, k * 48 + 16 * c), per_coverage, to_coverage)
        store(space.gradient, k * 64 + 48, 0.0 - to_coverage)


@inlined
def field_gradients(
    gaussians: Floats, screen: Floats, moments: Floats, half_h: float, half_w: float, out: Floats
) -> None:
    """Moments to dL/d(field).

    With n = sum h w and M = sum h w w' (w = L^-1 d): dL/d(mean) = L^-T n and
    dL/dSigma = 1/2 L^-T M L^-1, then the chain through Sigma = D R S^2 R' D. In float64.

    Args:
        gaussians: [N, 9].
        screen: [SCREEN_FIELDS, N].
        moments: [N * 9 * 16].
        half_h: Half the rows of the image.
        half_w: Half its columns.
        out: [N, 9] out.
    """
    for i in range(gaussians.shape[0]):
        if screen[8, i] < _ALPHA_MIN:
            out[i] = 0
            continue
        m = i * 144
        n = float(total(load(moments, m)))
        n_u, n_v = total(load(moments, m + 16)) / WHITEN, total(load(moments, m + 48)) / WHITEN
        n_uu = total(load(moments, m + 32)) / WHITEN**2
        n_uv, n_vv = total(load(moments, m + 64)) / WHITEN**2, total(load(moments, m + 80)) / WHITEN**2
        i11, i22 = 1.0 / float(screen[2, i]), 1.0 / float(screen[4, i])
        i21 = -float(screen[3, i]) * i22
        out[i, 0] = half_w * (i11 * n_u + i21 * n_v)
        out[i, 1] = half_h * i22 * n_v
        g_xx = half_w**2 * (i11 * i11 * n_uu + 2.0 * i11 * i21 * n_uv + i21 * i21 * n_vv)
        g_xy = half_w * half_h * i22 * (i11 * n_uv + i21 * n_vv)
        g_yy = half_h**2 * i22 * i22 * n_vv
        sx, sy, theta = float(gaussians[i, 2]), float(gaussians[i, 3]), float(gaussians[i, 4])
        c, s = math.cos(theta), math.sin(theta)
        out[i, 2] = sx * (c * c * g_xx + 2.0 * c * s * g_xy + s * s * g_yy)
        out[i, 3] = sy * (s * s * g_xx - 2.0 * c * s * g_xy + c * c * g_yy)
        out[i, 4] = (sx - sy) * (sx + sy) * (c * s * (g_yy - g_xx) + (c * c - s * s) * g_xy)
        for f in range(3):
            out[i, 5 + f] = total(load(moments, m + 96 + 16 * f))
        out[i, 8] = n / float(gaussians[i, 8])


@kernel
def render_one(gaussians: Floats, screen: Floats, space: Workspace, row: Floats, image: Floats) -> None:
    """Render one set [N, 9] into image [3, H, W]."""
    height, width = image.shape[1], image.shape[2]
    project(gaussians, height, width, screen)
    bin_strips(screen, gaussians.shape[0], height, width, space)
    for strip in range((width + LANES - 1) // LANES):
        forward_strip(screen, strip, height, False, space)
        write_strip(strip, space, row, image)


@kernel
def gradient_one(
    gaussians: Floats, screen: Floats, space: Workspace, row: Floats, image_gradient: Floats, out: Floats
) -> None:
    """dL/d(image) [3, H, W] of one set [N, 9] to dL/d(field) [N, 9]; blends again rather than remember."""
    height, width = image_gradient.shape[1], image_gradient.shape[2]
    project(gaussians, height, width, screen)
    bin_strips(screen, gaussians.shape[0], height, width, space)
    space.moments[:] = 0
    for strip in range((width + LANES - 1) // LANES):
        position = forward_strip(screen, strip, height, True, space)
        read_gradient(strip, space, row, image_gradient)
        backward_strip(screen, strip, height, position, space)
    field_gradients(gaussians, screen, space.moments, 0.5 * height, 0.5 * width, out)


def _over_images(count: int, threads: int, work: Callable[[range], None]) -> None:
    """Give each thread its contiguous share of the images."""
    threads = max(1, min(threads, count))
    shares = [range(count * t // threads, count * (t + 1) // threads) for t in range(threads)]
    if threads == 1:
        work(shares[0])
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, shares))


def render_batch(gaussians: Floats, height: int, width: int, threads: int | None = None) -> Floats:
    """Render sets [B, N, 9] as float32 [B, 3, H, W], not clipped; see `arrays.render_batch`."""
    sets = only_drawable(gaussians)
    count, num = sets.shape[:2]
    images = np.empty((count, 3, height, width), np.float32)

    def work(share: range) -> None:
        space, screen = (
            make_workspace(num, height, width, keep=False),
            np.empty((SCREEN_FIELDS, num), np.float32),
        )
        row = np.empty(LANES, np.float32)
        for b in share:
            render_one(sets[b], screen, space, row, images[b])

    _over_images(count, threads or usable_cores(), work)
    return images


def gradient_batch(gaussians: Floats, image_gradient: Floats, threads: int | None = None) -> Floats:
    """The vector-Jacobian product of `render_batch`: dL/d(image) [B, 3, H, W] to dL/d(gaussians) [B, N, 9].

    It is 0 for what is not drawn.
    """
    sets = only_drawable(gaussians)
    count, num = sets.shape[:2]
    height, width = image_gradient.shape[2:]
    upstream = np.ascontiguousarray(image_gradient, np.float32)
    gradients = np.zeros((count, num, MOMENTS), np.float32)

    def work(share: range) -> None:
        space, screen = make_workspace(num, height, width), np.empty((SCREEN_FIELDS, num), np.float32)
        row = np.empty(LANES, np.float32)
        for b in share:
            gradient_one(sets[b], screen, space, row, upstream[b], gradients[b])

    _over_images(count, threads or usable_cores(), work)
    return gradients
