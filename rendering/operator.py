"""The differentiable operator: sets of Gaussians in, images out, on whichever backend fits."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ..schemas.errors import GvitError
from ..schemas.gaussians import NUM_FIELDS
from .cpu import gradient_batch, render_batch
from .reference import render_reference

__all__ = ["Backend", "render"]

Backend: TypeAlias = Literal["auto", "cpu", "cuda", "reference"]


class _CpuRender(torch.autograd.Function):
    """The numba kernels under torch autograd; the backward pass blends again, so only the sets are kept."""

    @staticmethod
    def forward(ctx: Any, gaussians: Tensor, height: int, width: int) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(gaussians)
        sets = gaussians.detach().float().numpy()
        return torch.from_numpy(render_batch(sets, height, width, torch.get_num_threads()))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (gaussians,) = ctx.saved_tensors
        sets = gaussians.detach().float().numpy()
        gradient = gradient_batch(sets, upstream[0].float().numpy(), torch.get_num_threads())
        return torch.from_numpy(gradient).to(gaussians.dtype), None, None


def render(gaussians: Tensor, height: int, width: int, backend: Backend = "auto") -> Tensor:
    """Render sets of 2D Gaussians: alpha compositing front to back, un-premultiplied.

    Args:
        gaussians: [B, N, 9] in canvas units (see `gvit.schemas.FIELDS`); row 0 is in front. What cannot be
            drawn (a field that is not finite, no extent) is left out and receives no gradient.
        height: Rows of the images, at least 1.
        width: Columns of the images, at least 1.
        backend: "cpu" (numba), "cuda" (gsplat), "reference" (dense float64); "auto" goes by the device.

    Returns:
        [B, 3, H, W], float32 (float64 from the reference), not clipped, differentiable once.

    Raises:
        GvitError: The shape is not [B, N, 9], a size is below 1, or the backend does not fit the device.
    """
    if gaussians.ndim != 3 or gaussians.shape[-1] != NUM_FIELDS:
        raise GvitError(f"Gaussians to render must be [B, N, {NUM_FIELDS}], not {list(gaussians.shape)}.")
    if height < 1 or width < 1:
        raise GvitError(f"An image to render must be at least 1 x 1 pixels, not {height} x {width}.")
    if backend == "auto":
        backend = "cuda" if gaussians.is_cuda else "cpu"
    if backend == "reference":
        return render_reference(gaussians, height, width).image
    if backend == "cuda":
        from .cuda import render_cuda  # gsplat is imported only where there is a GPU

        return render_cuda(gaussians, height, width)
    if gaussians.is_cuda:
        raise GvitError("The cpu backend cannot render Gaussians that live on a GPU; use backend='cuda'.")
    return _CpuRender.apply(gaussians, height, width)  # pyright: ignore[reportReturnType]
