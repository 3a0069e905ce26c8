"""Every backend draws the equation of the reference, forward and backward; the reference draws it right."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gvit.rendering.cpu import render_batch
from gvit.rendering.operator import render
from gvit.rendering.reference import render_reference
from gvit.schemas import GvitError

VECTORS = dict(np.load(Path(__file__).parent / "data" / "vectors.npz", allow_pickle=False))
NAMES = sorted(key.removesuffix("_gaussians") for key in VECTORS if key.endswith("_gaussians"))

FORWARD = 1e-4
BACKWARD = 1e-3  # |difference| / |gradient|, per field

Backend = Callable[[Tensor, int, int], Tensor]


def on_cuda(gaussians: Tensor, height: int, width: int) -> Tensor:
    return render(gaussians.cuda(), height, width, backend="cuda").cpu()


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def with_gsplat(gaussians: Tensor, height: int, width: int) -> Tensor:
    try:
        return render(gaussians.cuda(), height, width, backend="gsplat").cpu()
    except GvitError as error:
        pytest.skip(str(error))


@pytest.fixture(
    params=[
        "cpu",
        pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu]),
        pytest.param("gsplat", marks=[pytest.mark.gpu, needs_gpu]),
    ]
)
def backend(request: pytest.FixtureRequest) -> Backend:
    backends: dict[str, Backend] = {"cuda": on_cuda, "gsplat": with_gsplat}
    return backends.get(request.param, lambda g, h, w: render(g, h, w, backend="cpu"))


def random_sets(
    seed: int,
    batch: int,
    number: int,
    scales: tuple[float, float],
    opacities: tuple[float, float] = (0.02, 1.0),
) -> Tensor:
    rng = np.random.default_rng(seed)
    sets = np.empty((batch, number, 9))
    sets[..., :2] = rng.uniform(-1.3, 1.3, (batch, number, 2))
    sets[..., 2:4] = np.exp(rng.uniform(*np.log(scales), (batch, number, 2)))
    sets[..., 4] = rng.uniform(-np.pi / 2, np.pi / 2, (batch, number))
    sets[..., 5:8] = rng.uniform(0, 1, (batch, number, 3))
    sets[..., 8] = rng.uniform(*opacities, (batch, number))
    return torch.from_numpy(sets.astype(np.float32))


def test_one_round_gaussian_is_the_formula_worked_by_hand() -> None:
    gaussians = torch.tensor([[[0.0, 0.0, 0.5, 0.5, 0.0, 0.2, 0.4, 0.6, 0.8]]])
    image = render_reference(gaussians, 4, 4).image
    # pixel (2, 1) has its centre at canvas (0.25, -0.25): sigma = (0.25^2 + 0.25^2) / 2 / 0.5^2 = 1/4
    alpha = 0.8 * math.exp(-0.25)
    expected = torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64) * (1.01 * alpha / (alpha + 0.01))
    torch.testing.assert_close(image[0, :, 1, 2], expected, rtol=1e-6, atol=0)


def test_row_zero_is_in_front() -> None:
    front = [0.0, 0.0, 0.5, 0.5, 0.0, 1.0, 0.0, 0.0, 0.9]
    back = [0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 1.0, 0.9]
    centre = render_reference(torch.tensor([[front, back]]), 5, 5).image[0, :, 2, 2]
    assert centre[0] > 5 * centre[2]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("seed", range(20))
def test_the_reference_passes_gradcheck_away_from_thresholds(seed: int) -> None:
    # wide, so that alpha stays over 1/255 everywhere, and faint, so that the walk never stops
    sets = random_sets(seed, 1, 4, (0.9, 2.0), (0.1, 0.6)).double()
    sets[..., :2] *= 0.7
    assert render_reference(sets, 8, 8).smooth.all()
    sets.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: render_reference(s, 8, 8).image, (sets,))


SCENES = {
    "plain": (3, 40, 48, 48, (0.02, 0.5), (0.02, 1.0)),
    "odd size": (2, 64, 33, 50, (0.01, 0.3), (0.02, 1.0)),
    "tall": (2, 30, 100, 7, (0.02, 3.0), (0.02, 1.0)),
    "sub-pixel": (2, 100, 32, 32, (0.002, 0.03), (0.3, 1.0)),
    "canvas-sized": (2, 20, 32, 32, (0.5, 8.0), (0.02, 1.0)),
    "nearly clear": (2, 60, 32, 32, (0.05, 0.5), (1 / 255, 0.02)),
    "opaque": (2, 60, 32, 32, (0.05, 0.5), (0.98, 1.0)),
    "one": (4, 1, 16, 16, (0.1, 2.0), (0.02, 1.0)),
    "thin and tilted": (2, 24, 64, 64, (0.004, 1.0), (0.3, 1.0)),
    "many": (1, 400, 64, 64, (0.01, 0.2), (0.02, 1.0)),
}


@pytest.mark.parametrize("scene", SCENES)
def test_a_backend_agrees_with_the_reference_forward_and_backward(backend: Backend, scene: str) -> None:
    batch, number, height, width, scales, opacities = SCENES[scene]
    sets = random_sets(len(scene), batch, number, scales, opacities)
    exact = sets.double().requires_grad_()
    reference = render_reference(exact, height, width)
    smooth = reference.smooth[:, None].expand_as(reference.image)
    assert smooth.float().mean() > 0.9
    ours = sets.clone().requires_grad_()
    image = backend(ours, height, width)
    assert (image.double() - reference.image).abs()[smooth].max() < FORWARD
    upstream = torch.from_numpy(np.random.default_rng(1).normal(size=image.shape)) * smooth
    reference.image.backward(upstream)
    image.backward(upstream.float())
    assert exact.grad is not None
    assert ours.grad is not None
    difference = (ours.grad - exact.grad).norm(dim=(0, 1)) / exact.grad.norm(dim=(0, 1))
    assert difference.max() < BACKWARD, difference


@pytest.mark.parametrize("name", NAMES)
def test_a_backend_draws_the_vectors(backend: Backend, name: str) -> None:
    expected, smooth = VECTORS[f"{name}_image"], VECTORS[f"{name}_smooth"]
    image = backend(torch.from_numpy(VECTORS[f"{name}_gaussians"])[None], *smooth.shape)[0].numpy()
    assert np.abs(image - expected)[:, smooth].max() < FORWARD


def test_there_are_ten_vectors_and_the_reference_still_draws_them() -> None:
    assert len(NAMES) == 10
    for name in NAMES:
        smooth = VECTORS[f"{name}_smooth"]
        result = render_reference(torch.from_numpy(VECTORS[f"{name}_gaussians"])[None], *smooth.shape)
        np.testing.assert_allclose(result.image[0].numpy(), VECTORS[f"{name}_image"], atol=1e-6)
        np.testing.assert_array_equal(result.smooth[0].numpy(), smooth)


@pytest.mark.parametrize("field", range(9))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out_and_harms_nobody(backend: Backend, field: int, value: float) -> None:
    sets = random_sets(0, 2, 6, (0.1, 0.5))
    broken = sets.clone()
    broken[0, 2, field] = value
    broken.requires_grad_()
    image = backend(broken, 20, 20)
    without = sets.clone()
    without[0, 2, 8] = 0.0
    torch.testing.assert_close(image, backend(without, 20, 20), rtol=0, atol=1e-6)
    image.square().sum().backward()
    assert broken.grad is not None
    assert broken.grad.isfinite().all()
    assert (broken.grad[0, 2] == 0).all()


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-30, 1e30])
def test_a_degenerate_scale_is_left_out(backend: Backend, scale: float) -> None:
    sets = random_sets(0, 1, 6, (0.1, 0.5))
    sets[0, 0, 3] = scale
    without = sets.clone()
    without[0, 0, 8] = 0.0
    torch.testing.assert_close(backend(sets, 20, 20), backend(without, 20, 20))


def test_a_set_renders_the_same_whoever_else_is_in_the_batch_and_whatever_the_threads() -> None:
    sets = random_sets(3, 7, 50, (0.02, 0.5))
    together = render_batch(sets.numpy(), 40, 40, threads=3)
    alone = [render_batch(one[None].numpy(), 40, 40, threads=1) for one in sets]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_an_empty_batch_and_an_empty_set_render_as_nothing(backend: Backend) -> None:
    assert backend(torch.zeros(0, 5, 9), 8, 8).shape == (0, 3, 8, 8)
    assert (backend(torch.zeros(2, 0, 9), 8, 8) == 0).all()


@pytest.mark.parametrize("shape", [(4, 9), (1, 4, 8), (9,)])
def test_a_wrong_shape_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(GvitError, match=r"\[B, N, 9\]"):
        render(torch.zeros(shape), 8, 8)


def test_a_size_below_one_is_named() -> None:
    with pytest.raises(GvitError, match="0 x 8"):
        render(torch.zeros(1, 1, 9), 0, 8)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_cuda_backend_says_so() -> None:
    with pytest.raises(GvitError, match="CPU"):
        render(torch.zeros(1, 1, 9), 8, 8, backend="cuda")


def test_a_freshly_compiled_kernel_gives_the_same_bits_as_a_cached_one(tmp_path: Path) -> None:
    program = (
        "import hashlib, numpy as np\n"
        "from gvit.rendering.cpu import gradient_batch, render_batch\n"
        "rng = np.random.default_rng(0)\n"
        "sets = np.abs(rng.normal(0.3, 0.2, (1, 60, 9))).astype(np.float32)\n"
        "image = render_batch(sets, 48, 48)\n"
        "print(hashlib.sha256(image.tobytes() + gradient_batch(sets, image).tobytes()).hexdigest())\n"
    )
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    fresh, cached = (
        subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    )
    assert fresh == cached
