"""The differentiable operator: sets of Gaussians in, images out, on whichever backend fits.

It is one node of torch's graph each way, so that torch.compile keeps it, and float32 whatever the autocast.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ..schemas.errors import GvitError
from ..schemas.gaussians import NUM_FIELDS
from .cpu import gradient_batch, render_batch
from .reference import render_reference

__all__ = ["Backend", "render"]

Backend: TypeAlias = Literal["auto", "cpu", "cuda", "gsplat", "reference"]


def render(gaussians: Tensor, height: int, width: int, backend: Backend = "auto") -> Tensor:
    """Render sets of 2D Gaussians: alpha compositing front to back, un-premultiplied.

    Args:
        gaussians: [B, N, 9] in canvas units (see `gvit.schemas.FIELDS`); row 0 is in front. What cannot be
            drawn (a field that is not finite, no extent) is left out and receives no gradient.
        height: Rows of the images, at least 1.
        width: Columns of the images, at least 1.
        backend: "cpu" (numba), "cuda" (our own kernels), "gsplat" (on a GPU), "reference" (dense float64);
            "auto" goes by the device.

    Returns:
        [B, 3, H, W], float32 (float64 from the reference), not clipped, differentiable once.

    Raises:
        GvitError: The shape is not [B, N, 9], a size is below 1, or the backend does not fit the device.
    """
    if gaussians.ndim != 3 or gaussians.shape[-1] != NUM_FIELDS:
        raise GvitError(f"Gaussians to render must be [B, N, {NUM_FIELDS}], not {list(gaussians.shape)}.")
    if height < 1 or width < 1:
        raise GvitError(f"An image to render must be at least 1 x 1 pixels, not {height} x {width}.")
    if backend == "reference":
        return render_reference(gaussians, height, width).image
    if backend in ("cuda", "gsplat") and not gaussians.is_cuda:
        raise GvitError(f"the {backend} backend renders Gaussians that live on a GPU; these live on the CPU")
    if backend == "cpu" and gaussians.is_cuda:
        raise GvitError("The cpu backend cannot render Gaussians that live on a GPU; use backend='cuda'.")
    if backend == "gsplat":
        from .gsplat import render_gsplat  # an extra, which few need

        return render_gsplat(gaussians, height, width)
    return torch.ops.gvit.render(gaussians.float(), height, width)[0]


def _render(sets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the image and, on a GPU, its coverage [B, H, W] for the way back."""
    image = render_batch(sets.detach().numpy(), height, width, torch.get_num_threads())
    return torch.from_numpy(image), sets.new_empty(len(sets), 0, 0)


def _render_on_gpu(sets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    from .cuda import operator_kernels, render_image  # only where there is a GPU

    return render_image(operator_kernels(sets.device.index), sets.contiguous(), height, width)


def _render_fake(sets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    covered = (height, width) if sets.is_cuda else (0, 0)
    return sets.new_empty(len(sets), 3, height, width), sets.new_empty(len(sets), *covered)


def _gradient(sets: Tensor, _image: Tensor, _coverage: Tensor, upstream: Tensor) -> Tensor:
    """Return dL/d(sets) [B, N, 9] of dL/d(image); the CPU blends again rather than remember."""
    gradient = gradient_batch(sets.detach().numpy(), upstream.detach().numpy(), torch.get_num_threads())
    return torch.from_numpy(gradient)


def _gradient_on_gpu(sets: Tensor, image: Tensor, coverage: Tensor, upstream: Tensor) -> Tensor:
    from .cuda import operator_kernels, render_gradient

    kernels = operator_kernels(sets.device.index)
    return render_gradient(kernels, sets.contiguous(), image, coverage, upstream.contiguous())


def _gradient_fake(sets: Tensor, _image: Tensor, _coverage: Tensor, _upstream: Tensor) -> Tensor:
    return torch.empty_like(sets, memory_format=torch.contiguous_format)


def _remember(ctx: Any, inputs: tuple[Tensor, int, int], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401
    ctx.save_for_backward(inputs[0], *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, upstream: Tensor, _coverage: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
    return torch.ops.gvit.render_gradient(*ctx.saved_tensors, upstream.float()), None, None


def _register() -> None:
    """Make both passes known to torch as `torch.ops.gvit`."""
    forward = torch.library.custom_op(
        "gvit::render",
        _render,
        mutates_args=(),
        device_types="cpu",
        schema="(Tensor sets, int height, int width) -> (Tensor, Tensor)",
    )
    forward.register_kernel("cuda", _render_on_gpu)
    forward.register_fake(_render_fake)
    backward = torch.library.custom_op(
        "gvit::render_gradient",
        _gradient,
        mutates_args=(),
        device_types="cpu",
        schema="(Tensor sets, Tensor image, Tensor coverage, Tensor upstream) -> Tensor",
    )
    backward.register_kernel("cuda", _gradient_on_gpu)
    backward.register_fake(_gradient_fake)
    forward.register_autograd(_differentiate, setup_context=_remember)


_register()
