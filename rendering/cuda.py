"""The CUDA backend: our own kernels on torch's tensors.

A warp blends one tile of 16 x 16 pixels front to back and walks it again for the gradient. Nothing is sorted,
nothing added atomically, and nothing waits for the host: the same sets give the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .compiler import RENDER
from .launcher import Kernels, kernels_of

__all__ = [
    "MOMENTS",
    "RECORD",
    "chunks_of",
    "operator_kernels",
    "project",
    "render_gradient",
    "render_image",
    "tile_grid",
    "tiles_of",
]

RECORD = 16
"""float32 values of a Gaussian on the screen, see `Record` in kernels/raster.cuh."""
MOMENTS = 9
_TILE = 16
_MOMENT_BYTES = 1 << 30  # of scratch memory in a backward pass; more images are taken in parts
_PROJECT_THREADS = 128


def tiles_of(height: int, width: int) -> int:
    """Return how many tiles an image has."""
    return -(-height // _TILE) * -(-width // _TILE)


def chunks_of(count: int) -> int:
    """Return how many words of 32 bits hold a bit for each Gaussian."""
    return -(-count // 32)


def operator_kernels(device: int) -> Kernels:
    """Return the kernels of the differentiable operator on a CUDA device.

    Raises:
        GvitError: There is no such device, or the kernels cannot be had.
    """
    return kernels_of(RENDER, device)


def project(kernels: Kernels, sets: Tensor, height: int, width: int) -> Tensor:
    """Put sets [B, N, 9] on the screen: records [B, N, 16]."""
    batch, count = sets.shape[:2]
    records = sets.new_empty(batch, count, RECORD)
    threads = min(kernels.threads, _PROJECT_THREADS)
    grid = (-(-batch * count // threads), 1)
    kernels.launch("project", grid, threads, sets, records, batch * count, height, width)
    return records


def render_image(kernels: Kernels, sets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Render float32 sets [B, N, 9], contiguous; return image [B, 3, H, W] and coverage [B, H, W]."""
    batch, count = sets.shape[:2]
    image, coverage = sets.new_empty(batch, 3, height, width), sets.new_empty(batch, height, width)
    if not count:
        return image.zero_(), coverage.zero_()
    if batch:
        records = project(kernels, sets, height, width)
        grid, threads = tile_grid(kernels, height, width, batch)
        kernels.launch("forward", grid, threads, records, image, coverage, count, height, width)
    return image, coverage


def render_gradient(
    kernels: Kernels, sets: Tensor, image: Tensor, coverage: Tensor, upstream: Tensor
) -> Tensor:
    """Return dL/d(sets) [B, N, 9] of dL/d(image) [B, 3, H, W], given what `render_image` took and gave."""
    gradient = torch.empty_like(sets)
    (batch, count), (height, width) = sets.shape[:2], image.shape[2:]
    if not batch or not count:
        return gradient
    tiles, words = tiles_of(height, width), chunks_of(count)
    step = max(1, min(batch, _MOMENT_BYTES // (4 * MOMENTS * tiles * count)))
    partial = sets.new_empty(step, tiles, count, MOMENTS)
    hits = torch.empty(step, tiles, words, dtype=torch.int32, device=sets.device)
    threads = min(kernels.threads, _PROJECT_THREADS)
    for first in range(0, batch, step):
        part = slice(first, first + step)
        some = sets[part]
        records = project(kernels, some, height, width)
        grid, tile_threads = tile_grid(kernels, height, width, len(some))
        inputs = (records, image[part], coverage[part], upstream[part], partial, hits)
        kernels.launch("backward", grid, tile_threads, *inputs, count, height, width)
        over_sets = (-(-count // threads), len(some))
        outputs = (some, records, partial, hits, gradient[part])
        kernels.launch("gather", over_sets, threads, *outputs, count, height, width)
    return gradient


def tile_grid(kernels: Kernels, height: int, width: int, batch: int) -> tuple[tuple[int, int], int]:
    """Return blocks and threads of a block for a kernel that gives each tile of each image a warp."""
    blocks = -(-tiles_of(height, width) // kernels.tile_warps)
    return (blocks, batch), min(kernels.threads, 32 * kernels.tile_warps)
