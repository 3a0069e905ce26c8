"""The fit on a CUDA device with gsplat as its renderer: starts on the CPU's cores, the rest on the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from ..rendering.gsplat import rasterize_gsplat, render_gsplat
from ..schemas.gaussians import NUM_FIELDS
from .batched import fit_batch
from .cpu import fit_end, fit_start

if TYPE_CHECKING:
    from .optimise import Rates
    from .relocate import Relocation

__all__ = ["fit_with_gsplat", "render_with_gsplat"]


def fit_with_gsplat(
    pixels: npt.NDArray[np.uint8],
    seeds: Sequence[int],
    num_gaussians: int,
    stages: npt.NDArray[np.int64],
    rates: Rates,
    relocation: Relocation,
    threads: int,
) -> npt.NDArray[np.float32]:
    """Fit sets to images uint8 [B, S, S, 3] on the current CUDA device; canonical fields float32 [B, N, 9].

    Raises:
        GvitError: There is no CUDA device, or gsplat's kernels cannot be built.
    """
    params = np.zeros((len(pixels), NUM_FIELDS, num_gaussians), np.float32)

    def begin(b: int) -> None:
        fit_start(np.ascontiguousarray(pixels[b]), np.uint64(seeds[b]), num_gaussians, params[b])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(begin, range(len(pixels))))
    targets = torch.from_numpy(np.ascontiguousarray(pixels)).cuda().permute(0, 3, 1, 2).float().div_(255.0)
    start = torch.from_numpy(params).cuda().transpose(1, 2).contiguous()
    plan = [(int(canvas), int(steps), int(rounds)) for canvas, steps, rounds in stages]
    fitted = fit_batch(targets, start, plan, rates, relocation, rasterize_gsplat)
    ends = np.ascontiguousarray(fitted.transpose(1, 2).cpu().numpy())
    fields = np.empty((len(pixels), num_gaussians, NUM_FIELDS), np.float32)
    for b in range(len(pixels)):
        fit_end(ends[b], pixels.shape[1], fields[b])
    return fields


def render_with_gsplat(gaussians: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """Render sets [B, N, 9] on the current CUDA device: float32 [B, 3, S, S], not clipped."""
    with torch.no_grad():
        return render_gsplat(torch.from_numpy(gaussians).cuda(), size, size).cpu().numpy()
