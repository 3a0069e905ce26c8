"""The CPU rasteriser's kernels: one image, one thread, in column strips of sixteen pixels.

A strip is sixteen pixels wide, so that one row of it is one vector, and as high as the image. With the
Cholesky factor L of a Gaussian's covariance in pixels, w = L^-1 (p - mean) = (u, v) gives
sigma = (u^2 + v^2) / 2, and u depends on the column alone: inside a strip a Gaussian costs one addition, one
fused multiply-add and one exp2 per row before blending. It is walked only over the rows that its ellipse
alpha >= alpha_min reaches in that strip, which is exact.

The gradient of a Gaussian is nine sums over pixels: with h = dL/d(log alpha), the whitened moments
sum h (1, u, u^2, v, uv, v^2), and sum w_blend dL/dC for the three colours. They are kept per lane until all
strips are done. Going back to front, dL/d(alpha) = T (q - behind), where q = c . dL/dC + dL/dA and `behind`
is what lies behind composed over nothing: no division by 1 - alpha, nothing recomputed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..schemas.gaussians import RULE
from .jit import Floats, Ints, inlined
from .lanes import LANES, Lanes, exp2, fill, fma, load, lower, negative_absolute, select_less, store

__all__ = [
    "MOMENTS",
    "SCREEN_FIELDS",
    "WHITEN",
    "Workspace",
    "backward_strip",
    "bin_strips",
    "forward_strip",
    "make_workspace",
]

SCREEN_FIELDS = 12
"""A Gaussian on the screen: mean x, y (pixels), l11, l21 / l11, l22 of the Cholesky factor (pixels), r, g, b,
opacity, then what the inner loops want of those: WHITEN / l11, WHITEN / l22, log2 opacity."""
MOMENTS = 9
WHITEN = math.sqrt(0.5 * math.log2(math.e))  # folds exp's base change and the 1/2 of sigma into u and v

_ALPHA_MAX = np.float32(RULE.alpha_max)
_ALPHA_MIN = np.float32(RULE.alpha_min)
_TRANSMITTANCE_MIN = np.float32(RULE.transmittance_min)
_ROW_MARGIN = 1e-3  # pixels; float32 rounding must not cut a row that the equation reaches


class Workspace(NamedTuple):
    """Scratch memory of one thread; every array is overwritten, none needs clearing."""

    spans: Ints  # [strips, N, 3] Gaussian, first row, last row + 1, in depth order
    counts: Ints  # [strips]
    transmittance: Floats  # [H * 16] T; negative where the walk has stopped
    colour: Floats  # [H * 48] premultiplied r, g, b
    gradient: Floats  # [H * 64] dL/dC of r, g, b and dL/dA
    behind: Floats  # [H * 16]
    saved: Floats  # [N * H * 32] blend weight and alpha of every pair of a strip, in walking order
    moments: Floats  # [N * 9 * 16]
    column: Floats  # [16] 0..15


def make_workspace(num_gaussians: int, height: int, width: int, *, keep: bool = True) -> Workspace:
    """Scratch memory for images up to height x width with up to num_gaussians Gaussians.

    Without keep there is no room for what a backward pass needs.
    """
    strips = -(-width // LANES)
    pairs = num_gaussians * height if keep else 1
    return Workspace(
        spans=np.empty((strips, num_gaussians, 3), np.int32),
        counts=np.empty(strips, np.int32),
        transmittance=np.empty(height * LANES, np.float32),
        colour=np.empty(height * 3 * LANES, np.float32),
        gradient=np.empty(height * 4 * LANES, np.float32),
        behind=np.empty(height * LANES, np.float32),
        saved=np.empty(pairs * 2 * LANES, np.float32),
        moments=np.empty(num_gaussians * MOMENTS * LANES, np.float32),
        column=np.arange(LANES, dtype=np.float32),
    )


@inlined
def bin_strips(screen: Floats, count: int, height: int, width: int, space: Workspace) -> int:
    """List for every strip the Gaussians that reach it, front to back, with their rows.

    Args:
        screen: [SCREEN_FIELDS, >= count]; Gaussians with opacity < alpha_min are left out.
        count: Gaussians in use.
        height: Rows of the image.
        width: Columns of the image.
        space: Scratch memory; its spans and counts are filled.

    Returns:
        The number of (row of a strip, Gaussian) pairs, sixteen pixels each.
    """
    spans, counts = space.spans, space.counts
    counts[: (width + LANES - 1) // LANES] = 0
    pairs = 0
    for i in range(count):
        opacity = float(screen[8, i])
        if opacity < _ALPHA_MIN:
            continue
        mean_x, mean_y = float(screen[0, i]), float(screen[1, i])
        l11, slope, l22 = float(screen[2, i]), float(screen[3, i]), float(screen[4, i])
        reach2 = 2.0 * math.log(opacity / _ALPHA_MIN)  # u^2 + v^2 on the ellipse
        reach_x = l11 * math.sqrt(reach2)
        first = max(0.0, math.ceil(mean_x - reach_x - 0.5))
        last = min(width - 1.0, math.floor(mean_x + reach_x - 0.5))
        if first > last:
            continue
        l21 = slope * l11
        top_dx = reach_x * l21 / math.sqrt(l21 * l21 + l22 * l22)  # where the ellipse's lowest pixel row lies
        for s in range(int(first) // LANES, int(last) // LANES + 1):
            left = max(s * LANES + 0.5 - mean_x, -reach_x)
            right = min(s * LANES + LANES - 0.5 - mean_x, reach_x)
            dx = min(max(top_dx, left), right)
            high = slope * dx + l22 * math.sqrt(max(0.0, reach2 - (dx / l11) ** 2))
            dx = min(max(-top_dx, left), right)
            low = slope * dx - l22 * math.sqrt(max(0.0, reach2 - (dx / l11) ** 2))
            row = max(0.0, math.ceil(mean_y + low - 0.5 - _ROW_MARGIN))
            end = min(height - 1.0, math.floor(mean_y + high - 0.5 + _ROW_MARGIN)) + 1.0
            if row < end:
                n = counts[s]
                spans[s, n, 0], spans[s, n, 1], spans[s, n, 2] = i, int(row), int(end)
                counts[s] = n + 1
                pairs += int(end - row)
    return pairs


@inlined
def whitened(screen: Floats, i: int, strip: int, row: int, column: Lanes) -> tuple[Lanes, Lanes]:
    """U and v of Gaussian i at the sixteen pixels of a row, times WHITEN.

    The offset is taken in float64: float32 would lose 1e-3 of alpha on thin, tilted Gaussians.
    """
    slope, per_l11, per_l22 = float(screen[3, i]), float(screen[9, i]), float(screen[10, i])
    dx = strip * 16 + 0.5 - screen[0, i]
    dy = row + 0.5 - screen[1, i]
    u = fma(column, np.float32(per_l11), np.float32(dx * per_l11))
    v = fma(column, np.float32(-slope * per_l22), np.float32((dy - slope * dx) * per_l22))
    return u, v


@inlined
def forward_strip(screen: Floats, strip: int, height: int, keep: bool, space: Workspace) -> int:
    """Blend one strip front to back into space.transmittance and space.colour.

    Args:
        screen: [SCREEN_FIELDS, N].
        strip: Index of the strip; its spans must have been binned.
        height: Rows of the image.
        keep: Whether weights and alphas go to space.saved for `backward_strip`.
        space: Scratch memory.

    Returns:
        The end of what was written to space.saved.
    """
    spans, transmittance, colour, saved = space.spans[strip], space.transmittance, space.colour, space.saved
    column = load(space.column, 0)
    for k in range(height):
        store(transmittance, k * 16, fill(1.0))
    for k in range(3 * height):
        store(colour, k * 16, fill(0.0))
    position, stride = 0, 32 if keep else 0
    for j in range(space.counts[strip]):
        i, row, end = spans[j, 0], spans[j, 1], spans[j, 2]
        u, v = whitened(screen, i, strip, row, column)
        log2_alpha = screen[11, i] - u * u
        step = screen[10, i]
        r, g, b = screen[5, i], screen[6, i], screen[7, i]
        for k in range(row, end):
            alpha = lower(exp2(log2_alpha - v * v), _ALPHA_MAX)
            v = v + step
            alpha = select_less(alpha, _ALPHA_MIN, 0.0, alpha)
            before = load(transmittance, k * 16)
            weight = before * alpha
            after = before - weight
            weight = select_less(_TRANSMITTANCE_MIN, after, weight, 0.0)
            alpha = select_less(_TRANSMITTANCE_MIN, after, alpha, 0.0)
            store(
                transmittance,
                k * 16,
                select_less(_TRANSMITTANCE_MIN, after, after, negative_absolute(before)),
            )
            c = k * 48
            store(colour, c, fma(weight, r, load(colour, c)))
            store(colour, c + 16, fma(weight, g, load(colour, c + 16)))
            store(colour, c + 32, fma(weight, b, load(colour, c + 32)))
            store(saved, position, weight)
            store(saved, position + 16, alpha)
            position += stride
    return position


@inlined
def add_moments(moments: Floats, m: int, u: Lanes, h: Lanes, h_v: Lanes, h_vv: Lanes) -> None:
    """Add sums over a strip's rows of h, h v and h v^2, and what they make with u, from index m on."""
    h_u = h * u
    store(moments, m, load(moments, m) + h)
    store(moments, m + 16, load(moments, m + 16) + h_u)
    store(moments, m + 32, fma(h_u, u, load(moments, m + 32)))
    store(moments, m + 48, load(moments, m + 48) + h_v)
    store(moments, m + 64, fma(h_v, u, load(moments, m + 64)))
    store(moments, m + 80, load(moments, m + 80) + h_vv)


@inlined
def backward_strip(screen: Floats, strip: int, height: int, position: int, space: Workspace) -> None:
    """Add one strip's share of every Gaussian's moments to space.moments.

    Args:
        screen: [SCREEN_FIELDS, N].
        strip: Index of the strip that `forward_strip` blended last, with keep.
        height: Rows of the image.
        position: What `forward_strip` returned.
        space: Scratch memory; space.gradient holds dL/dC and dL/dA of the strip.
    """
    spans, gradient, behind = space.spans[strip], space.gradient, space.behind
    saved, moments = space.saved, space.moments
    column = load(space.column, 0)
    for k in range(height):
        store(behind, k * 16, fill(0.0))
    for j in range(space.counts[strip] - 1, -1, -1):
        i, row, end = spans[j, 0], spans[j, 1], spans[j, 2]
        position -= 32 * (end - row)
        u, v = whitened(screen, i, strip, row, column)
        step = screen[10, i]
        r, g, b = screen[5, i], screen[6, i], screen[7, i]
        h0, h_v, h_vv = fill(0.0), fill(0.0), fill(0.0)
        to_r, to_g, to_b = fill(0.0), fill(0.0), fill(0.0)
        o = position
        for k in range(row, end):
            weight, alpha = load(saved, o), load(saved, o + 16)
            o += 32
            c = k * 64
            grad_r, grad_g, grad_b = load(gradient, c), load(gradient, c + 16), load(gradient, c + 32)
            to_r, to_g, to_b = fma(weight, grad_r, to_r), fma(weight, grad_g, to_g), fma(weight, grad_b, to_b)
            rest = load(behind, k * 16)
            ahead = fma(grad_r, r, fma(grad_g, g, fma(grad_b, b, load(gradient, c + 48)))) - rest
            store(behind, k * 16, fma(alpha, ahead, rest))
            h = select_less(alpha, _ALPHA_MAX, weight, 0.0) * ahead
            hv = h * v
            h0, h_v, h_vv = h0 + h, h_v + hv, fma(hv, v, h_vv)
            v = v + step
        add_moments(moments, i * 144, u, h0, h_v, h_vv)
        m = i * 144 + 96
        store(moments, m, load(moments, m) + to_r)
        store(moments, m + 16, load(moments, m + 16) + to_g)
        store(moments, m + 32, load(moments, m + 32) + to_b)
