"""The batched torch fit, over a dense rasteriser: gradients, costs and quality of the CPU kernels."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from gvit.fitting import batched as fit_torch
from gvit.fitting.batched import Canvas, fit_batch
from gvit.fitting.config import FitConfig
from gvit.fitting.cpu import fit_end, fit_start, to_strips
from gvit.fitting.fitter import RATES, RELOCATION, Fitter, schedule
from gvit.fitting.optimise import blend_and_compare, gather_gradients, place_on_screen
from gvit.fitting.relocate import removal_costs
from gvit.rendering.arrays import psnr
from gvit.rendering.cpu import render_batch
from gvit.rendering.gsplat import project
from gvit.rendering.operator import render
from gvit.rendering.strips import SCREEN_FIELDS, WHITEN, make_workspace

SIZE, COUNT = 32, 48


def rasterize_dense(
    means: Tensor, conics: Tensor, radii: Tensor, colours: Tensor, opacities: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """gsplat's equation, every pixel against every Gaussian within its radii."""
    dx = (torch.arange(width) + 0.5) - means[..., 0, None, None]
    dy = (torch.arange(height) + 0.5)[:, None] - means[..., 1, None, None]
    xx, xy, yy = conics[..., None, None].unbind(2)
    alpha = opacities[..., None, None] * (-0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy).exp()
    alpha = alpha.clamp(max=0.999)
    inside = (dx.abs() <= radii[..., 0, None, None] + 1) & (dy.abs() <= radii[..., 1, None, None] + 1)
    alpha = torch.where((alpha < 1 / 255) | ~inside, 0.0, alpha)
    after = (1 - alpha).cumprod(1)
    weights = alpha * torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
    weights = torch.where(after > 1e-4, weights, 0.0)
    colour = torch.einsum("bnhw,bnc->bhwc", weights, colours)
    return colour, weights.sum(1)[..., None]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    photos = (getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket"))
    return np.stack([np.asarray(Image.fromarray(p).convert("RGB").resize((SIZE, SIZE))) for p in photos])


def starts(images: np.ndarray) -> np.ndarray:
    params = np.zeros((len(images), 9, COUNT), np.float32)
    for b, image in enumerate(images):
        fit_start(np.ascontiguousarray(image), np.uint64(b), COUNT, params[b])
    return params


def canvas_of(images: np.ndarray) -> Canvas:
    return Canvas(SIZE, 1.0, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255)


def test_gradients_and_errors_are_those_of_the_cpu_kernels(images: np.ndarray) -> None:
    params = starts(images)
    rng = np.random.default_rng(0)
    params[:, 3] = rng.normal(0, 0.5, params[:, 3].shape)
    params[:, 4] += rng.normal(0, 0.3, params[:, 4].shape).astype(np.float32)
    canvas = canvas_of(images)
    ours = torch.from_numpy(params).transpose(1, 2)
    move = torch.zeros_like(ours, requires_grad=True)
    errors = fit_torch._errors(fit_torch._place(ours, move, 1.0), canvas, rasterize_dense)
    (gradient,) = torch.autograd.grad(errors.sum(), move)
    for b in range(len(images)):
        space, screen = make_workspace(COUNT, SIZE, SIZE), np.zeros((SCREEN_FIELDS, COUNT), np.float32)
        expected = np.zeros((9, COUNT), np.float32)
        place_on_screen(params[b], screen, 1.0)
        error = blend_and_compare(screen, COUNT, to_strips(canvas.targets[b].numpy()), SIZE, space)
        gather_gradients(screen, space.moments, expected)
        expected *= 2 / np.array([WHITEN] * 5 + [1] * 4, np.float32)[:, None]
        assert errors[b].item() == pytest.approx(error, rel=1e-4)
        np.testing.assert_allclose(gradient[b].T, expected, atol=2e-3 * np.abs(expected).max())


def test_removal_costs_are_those_of_the_cpu_kernel(images: np.ndarray) -> None:
    params, canvas = starts(images), canvas_of(images)
    ours = torch.from_numpy(params).transpose(1, 2)
    costs, residual = fit_torch._removal_costs(fit_torch._place(ours, torch.zeros_like(ours), 1.0), canvas)
    for b in range(len(images)):
        space, screen = make_workspace(COUNT, SIZE, SIZE), np.zeros((SCREEN_FIELDS, COUNT), np.float32)
        expected, expected_residual = np.empty(COUNT), np.empty((3, SIZE, SIZE), np.float32)
        place_on_screen(params[b], screen, 1.0)
        target = to_strips(canvas.targets[b].numpy())
        removal_costs(
            screen, target, SIZE, space, np.empty(SIZE * 80, np.float32), expected, expected_residual
        )
        np.testing.assert_allclose(costs[b], expected, atol=2e-3 * np.abs(expected).max())
        np.testing.assert_allclose(residual[b], expected_residual, atol=1e-4)


def test_a_batch_is_fitted_as_well_as_on_the_cpu(images: np.ndarray) -> None:
    config = FitConfig(num_gaussians=COUNT, size=SIZE, steps=40)
    stages = [(int(c), int(s), int(r)) for c, s, r in schedule(config)]
    start = torch.from_numpy(starts(images)).transpose(1, 2).contiguous()
    fitted = fit_batch(canvas_of(images).targets, start, stages, RATES, RELOCATION, rasterize_dense)
    fields = np.empty((len(images), COUNT, 9), np.float32)
    for b in range(len(images)):
        fit_end(np.ascontiguousarray(fitted[b].T.numpy()), SIZE, fields[b])
    ours = [
        psnr(image, target) for image, target in zip(render_batch(fields, SIZE, SIZE), images, strict=True)
    ]
    cpu = Fitter(config, "float32", 2, "cpu").fit(images, list("abcd")).psnr
    assert np.mean(ours) > cpu.mean() - 0.3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_fits_as_well_as_the_cpu(images: np.ndarray) -> None:
    config = FitConfig(num_gaussians=COUNT, size=SIZE, steps=60)
    gpu = Fitter(config, "float16", 2, "cuda").fit(images, list("abcd"))
    cpu = Fitter(config, "float16", 2, "cpu").fit(images, list("abcd"))
    assert gpu.errors == [None] * len(images)
    assert gpu.psnr.mean() > cpu.psnr.mean() - 0.3


def test_the_projection_for_gsplat_draws_the_equation() -> None:
    rng = np.random.default_rng(0)
    sets = torch.from_numpy(rng.uniform(0.1, 0.9, (2, 20, 9)).astype(np.float32))
    sets[..., 4] -= 0.5
    means, conics, radii = project(sets, 24, 40)
    colour, coverage = rasterize_dense(means, conics, radii, sets[..., 5:8], sets[..., 8], 24, 40)
    image = (1.01 * colour / (coverage + 0.01)).permute(0, 3, 1, 2)
    torch.testing.assert_close(image, render(sets, 24, 40), atol=1e-4, rtol=0)
