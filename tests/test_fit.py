"""The fit: right gradients, right removal costs, valid and reproducible sets, nothing that crashes it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gvit.fitting.config import PRESETS, FitConfig
from gvit.fitting.cpu import to_strips
from gvit.fitting.fitter import Fitter, schedule
from gvit.fitting.optimise import blend_and_compare, gather_gradients, place_on_screen
from gvit.fitting.relocate import removal_costs
from gvit.rendering.cpu import render_batch
from gvit.rendering.reference import render_reference
from gvit.rendering.strips import SCREEN_FIELDS, WHITEN, make_workspace
from gvit.schemas import GvitError, check_gaussians, decode


def photo(size: int, name: str = "astronaut") -> np.ndarray:
    return np.asarray(Image.fromarray(getattr(skimage.data, name)()).convert("RGB").resize((size, size)))


def random_params(count: int, size: int, seed: int) -> np.ndarray:
    """Parameters [9, 16] of a fit, count of them in use."""
    rng = np.random.default_rng(seed)
    params = np.zeros((9, 16), np.float32)
    params[:2] = rng.uniform(0, size, (2, 16))
    params[2], params[4] = np.log(rng.uniform(2.0, 6.0, (2, 16)))
    params[3] = rng.normal(0, 0.5, 16)
    params[5:8] = rng.uniform(0.2, 0.8, (3, 16))
    params[8] = rng.normal(0, 1, 16)
    params[8, count:] = -20.0
    return params


def covariance_render(params: torch.Tensor, size: int, scale: float) -> torch.Tensor:
    """The equation from a fit's parameters, straight from covariances, in float64 [3, s, s]."""
    canvas = round(size * scale)
    l11, l22 = params[2].exp(), params[4].exp()
    factor = torch.stack(
        [torch.stack([l11, torch.zeros_like(l11)], -1), torch.stack([params[3] * l22, l22], -1)], -2
    )
    sigma = scale**2 * factor @ factor.mT
    grid = torch.arange(canvas, dtype=torch.float64) + 0.5
    dx = grid[None, None, :] - scale * params[0][:, None, None]
    dy = grid[None, :, None] - scale * params[1][:, None, None]
    offset = torch.stack(torch.broadcast_tensors(dx, dy), -1)
    power = 0.5 * torch.einsum("nhwi,nij,nhwj->nhw", offset, torch.linalg.inv(sigma), offset)
    alpha = (params[8].sigmoid()[:, None, None] * torch.exp(-power)).clamp(max=0.999)
    alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
    before = torch.cumprod(torch.cat([torch.ones_like(alpha[:1]), 1 - alpha[:-1]]), 0)
    weights = before * alpha
    return 1.01 * torch.einsum("nhw,cn->chw", weights, params[5:8]) / (weights.sum(0) + 0.01)


@pytest.mark.parametrize("canvas", [24, 12, 9])
def test_a_step_follows_the_gradient_of_the_squared_error_in_each_gaussians_own_frame(
    canvas: int,
) -> None:
    size, count = 24, 9
    scale = canvas / size
    params = random_params(count, size, seed=canvas)
    target = np.random.default_rng(1).uniform(0, 1, (3, canvas, canvas)).astype(np.float32)
    space, screen = make_workspace(16, size, size), np.zeros((SCREEN_FIELDS, 16), np.float32)
    gradients = np.zeros((9, 16), np.float32)
    place_on_screen(params, screen, scale)
    error = blend_and_compare(screen, count, to_strips(target), canvas, space)
    gather_gradients(screen, space.moments, gradients)

    # the same through autograd: centre + L e, L (I + E), at e = E = 0
    exact = torch.from_numpy(params[:, :count]).double()
    step = torch.zeros(9, count, dtype=torch.float64, requires_grad=True)
    l11, l22 = exact[2].exp(), exact[4].exp()
    moved = torch.stack(
        [
            exact[0] + l11 * step[0],
            exact[1] + exact[3] * l22 * step[0] + l22 * step[1],
            exact[2] + step[2],
            exact[3] * (step[2] - step[4]).exp() + step[3],
            exact[4] + step[4],
            *(exact[5:] + step[5:]),
        ]
    )
    image = covariance_render(moved, size, scale)
    loss = (image.clamp(0, 1) - torch.from_numpy(target).double()).square().sum()
    assert error == pytest.approx(loss.item(), rel=1e-4)
    loss.backward()
    assert step.grad is not None
    expected = step.grad.numpy()
    ours = 2 * gradients[:, :count] / np.array([WHITEN] * 5 + [1] * 4)[:, None]
    difference = np.linalg.norm(ours - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert difference.max() < 2e-3, difference


@pytest.mark.parametrize("size", [32, 40])
def test_the_cost_of_removing_a_gaussian_is_what_the_error_grows_by_without_it(size: int) -> None:
    count = 12
    params = random_params(count, size, seed=4)
    target = (photo(size) / 255).astype(np.float32).transpose(2, 0, 1).copy()
    space, screen = make_workspace(16, size, size), np.zeros((SCREEN_FIELDS, 16), np.float32)
    strips = to_strips(target)
    place_on_screen(params, screen, 1.0)
    costs, residual = np.empty(count), np.empty((3, size, -(-size // 16) * 16), np.float32)
    removal_costs(screen, strips, size, space, np.empty(size * 80, np.float32), costs, residual)
    whole = blend_and_compare(screen, count, strips, size, space)
    assert np.square(residual[..., :size]).sum() == pytest.approx(whole, rel=1e-4)
    for i in range(count):
        without = screen.copy()
        without[8, i] = 0.0
        grown = blend_and_compare(without, count, strips, size, space) - whole
        assert costs[i] == pytest.approx(grown, abs=1e-3 * whole)


def test_a_fit_beats_its_own_short_version_and_a_longer_one_beats_both() -> None:
    images = np.stack([photo(64), photo(64, "chelsea"), photo(64, "coffee")])
    means = [
        Fitter(FitConfig(num_gaussians=64, size=64, steps=steps), "float32", 2, "cpu")
        .fit(images, ["a", "b", "c"])
        .psnr.mean()
        for steps in (2, 20, 200)
    ]
    assert means[0] + 1 < means[1] < means[2] - 0.3


def test_moving_idle_gaussians_improves_the_picture() -> None:
    images = np.stack([photo(96), photo(96, "chelsea"), photo(96, "coffee"), photo(96, "rocket")])
    fitter = Fitter(FitConfig(num_gaussians=96, size=96, steps=100), "float32", 2, "cpu")
    moving = fitter.fit(images, list("abcd")).psnr
    fitter.stages[:, 2] = 0
    still = fitter.fit(images, list("abcd")).psnr
    assert moving.mean() > still.mean() + 0.1


def test_a_fit_stops_once_its_target_is_reached_and_says_what_it_took() -> None:
    images = np.stack([photo(96), photo(96, "coffee")])
    config = FitConfig(num_gaussians=96, size=96, steps=200)
    whole = Fitter(config, "float32", 1, "cpu").fit(images, ["a", "b"])
    np.testing.assert_allclose(whole.cost, 200, rtol=0.05)
    target = whole.psnr.min() - 1.5
    early = Fitter(replace(config, target_psnr=target), "float32", 1, "cpu").fit(images, ["a", "b"])
    assert (early.psnr >= target - 0.01).all()
    assert (early.psnr < whole.psnr).all()
    assert (early.cost < 0.8 * whole.cost).all()
    never = Fitter(replace(config, target_psnr=90.0), "float32", 1, "cpu").fit(images, ["a", "b"])
    np.testing.assert_array_equal(never.stored, whole.stored)


def test_a_set_depends_on_its_image_and_key_alone() -> None:
    images = np.stack([photo(48), photo(48, "chelsea"), photo(48, "coffee")])
    config = FitConfig(num_gaussians=40, size=48, steps=10)
    together = Fitter(config, "float16", 3, "cpu").fit(images, ["a", "b", "c"])
    alone = Fitter(config, "float16", 1, "cpu").fit(images[1:2], ["b"])
    np.testing.assert_array_equal(together.stored[1], alone.stored[0])
    assert together.psnr[1] == alone.psnr[0]
    other_key = Fitter(config, "float16", 1, "cpu").fit(images[1:2], ["z"])
    assert (other_key.stored[0] != alone.stored[0]).any()


def test_the_psnr_reported_is_that_of_the_stored_values_in_the_reference_renderer() -> None:
    images = np.stack([photo(40), photo(40, "coffee")])
    result = Fitter(FitConfig(num_gaussians=64, size=40, steps=20), "float16", 2, "cpu").fit(
        images, ["a", "b"]
    )
    for stored, psnr, image in zip(result.stored, result.psnr, images, strict=True):
        shown = (
            render_reference(torch.from_numpy(decode(stored, "float16"))[None], 40, 40).image[0].clamp(0, 1)
        )
        error = np.square(shown.permute(1, 2, 0).numpy() - image / 255).mean()
        assert psnr == pytest.approx(-10 * math.log10(error), abs=0.01)


FLAT = {
    "black": np.zeros((32, 32, 3), np.uint8),
    "white": np.full((32, 32, 3), 255, np.uint8),
    "orange": np.full((32, 32, 3), (200, 120, 30), np.uint8),
}


@pytest.mark.parametrize("name", FLAT)
def test_a_flat_image_is_fitted_nearly_exactly(name: str) -> None:
    result = Fitter(FitConfig(num_gaussians=64, size=32, preset="fast"), "float16", 1, "cpu").fit(
        FLAT[name][None], ["k"]
    )
    assert result.errors == [None]
    assert result.psnr[0] > 45


@settings(max_examples=25)
@given(
    size=st.integers(8, 50),
    count=st.integers(1, 16),
    steps=st.integers(1, 6),
    seed=st.integers(0, 2**32),
    contrast=st.sampled_from([0, 1, 30, 255]),
)
def test_any_image_gives_a_valid_set(size: int, count: int, steps: int, seed: int, contrast: int) -> None:
    pixels = (np.random.default_rng(seed).integers(0, contrast + 1, (1, size, size, 3))).astype(np.uint8)
    config = FitConfig(num_gaussians=count, size=size, steps=steps, seed=seed)
    result = Fitter(config, "float16", 1, "cpu").fit(pixels, ["k"])
    assert result.errors == [None]
    gaussians = decode(result.stored[0], "float16")
    check_gaussians(gaussians, size)
    assert np.isfinite(render_batch(gaussians[None], size, size)).all()
    assert 0 < result.psnr[0] <= 100


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [8, 32, 33, 224, 512])
def test_a_schedule_costs_what_the_steps_say_and_ends_on_the_full_canvas(preset: str, size: int) -> None:
    config = FitConfig(num_gaussians=4, size=size, preset=preset)
    stages = schedule(config)
    assert (stages[:, 1] >= 1).all()
    cost = sum(
        steps + 2.2 * rounds if canvas == size else 0.36 * steps + 0.65 * rounds
        for canvas, steps, rounds in stages
    )
    assert cost == pytest.approx(config.cost, rel=0.1)
    assert stages[-1, 0] == size
    assert (np.diff(stages[:, 0]) > 0).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 7),
        ("size", 4096),
        ("num_gaussians", 0),
        ("num_gaussians", 20000),
        ("steps", 0),
        ("steps", 10**6),
        ("seed", -1),
        ("target_psnr", 120),
    ],
)
def test_a_config_out_of_range_names_field_value_and_range(field: str, value: int) -> None:
    with pytest.raises(GvitError, match=rf"{field.replace('_', '-')} must be from \d+ to \d+, not {value}"):
        FitConfig(**{field: value})


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(GvitError, match=r"fast, default, best"):
        FitConfig(preset="slow")


def test_steps_that_no_preset_has_are_called_custom() -> None:
    assert FitConfig(steps=77).preset == "custom"
    assert FitConfig(preset="fast").cost == PRESETS["fast"]
    assert FitConfig(preset="fast", steps=50) == FitConfig(preset="fast")
