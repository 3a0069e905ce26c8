"""Render + backward on one core, beside dense torch on the same sets.

    gvit bench render [--size 224] [--num-gaussians 256]

The scene is real: sets fitted to scikit-image's photographs. Dense torch evaluates the same equation, every
pixel against every Gaussian, in float32 with autograd. Medians of several repeats; both use one thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gvit.rendering.cpu import render_batch
from gvit.rendering.operator import render
from gvit.schemas import RULE

from .scenes import fitted_sets, photographs

__all__ = ["run"]

_REPEATS = 7
_DENSE_REPEATS = 3


def _dense(gaussians: torch.Tensor, size: int) -> torch.Tensor:
    """The equation in a few lines of torch, [B, N, 9] -> [B, 3, S, S]."""
    grid = (torch.arange(size) + 0.5) * (2.0 / size) - 1.0
    x, y, sx, sy, theta, *_ = gaussians[..., None, None].unbind(2)
    dx, dy = grid - x, grid[:, None] - y
    u = (theta.cos() * dx + theta.sin() * dy) / sx
    v = (theta.cos() * dy - theta.sin() * dx) / sy
    alpha = (gaussians[..., 8, None, None] * torch.exp(-0.5 * (u * u + v * v))).clamp(max=RULE.alpha_max)
    alpha = torch.where(alpha < RULE.alpha_min, 0.0, alpha)
    after = torch.cumprod(1.0 - alpha, dim=1)
    weights = alpha * torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)
    weights = torch.where(after > RULE.transmittance_min, weights, 0.0)
    colour = torch.einsum("bnhw,bnc->bchw", weights, gaussians[..., 5:8])
    return (1.0 + RULE.epsilon) * colour / (weights.sum(1, keepdim=True) + RULE.epsilon)


def _milliseconds(step: Callable[[], object], repeats: int) -> float:
    step()
    times: list[float] = []
    for _ in range(repeats):
        start = time.thread_time()
        step()
        times.append(time.thread_time() - start)
    return 1e3 * statistics.median(times)


def pairs_per_pixel(gaussians: np.ndarray, size: int) -> float:
    """How many Gaussians reach a pixel (alpha >= alpha_min), mean over pixels and sets [B, N, 9]."""
    grid = (np.arange(size) + 0.5) * (2.0 / size) - 1.0
    reached = 0
    for x, y, sx, sy, theta, _, _, _, opacity in gaussians.reshape(-1, 9).astype(np.float64):
        dx, dy = grid - x, (grid - y)[:, None]
        u = (np.cos(theta) * dx + np.sin(theta) * dy) / sx
        v = (np.cos(theta) * dy - np.sin(theta) * dx) / sy
        reached += int((opacity * np.exp(-0.5 * (u * u + v * v)) >= RULE.alpha_min).sum())
    return reached / (len(gaussians) * size * size)


def run(size: int = 224, num_gaussians: int = 256) -> dict[str, Any]:
    """Measure; returns core_ms, ratio_vs_dense, pairs_per_pixel and what they were measured on."""
    sets = fitted_sets(photographs(size), num_gaussians)
    ours, one = torch.from_numpy(sets).requires_grad_(), torch.from_numpy(sets[:1].copy()).requires_grad_()

    def render_and_back() -> None:
        torch.autograd.backward(render(ours, size, size).sum())

    def dense_and_back() -> None:
        torch.autograd.backward(_dense(one, size).sum())

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        both = _milliseconds(render_and_back, _REPEATS)
        forward = _milliseconds(lambda: render_batch(sets, size, size, threads=1), _REPEATS)
        dense = _milliseconds(dense_and_back, _DENSE_REPEATS)
    finally:
        torch.set_num_threads(threads)
    core_ms = both / len(sets)
    return {
        "core_ms": core_ms,
        "ratio_vs_dense": dense / core_ms,
        "pairs_per_pixel": pairs_per_pixel(sets, size),
        "forward_core_ms": forward / len(sets),
        "dense_core_ms": dense,
        "size": size,
        "gaussians": num_gaussians,
        "images": len(sets),
        "scene": "scikit-image's photographs, fitted with preset fast",
    }
