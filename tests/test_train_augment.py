import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import grid_sample
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as tv

from gvit.render.operator import render
from gvit.render.reference import render_reference
from gvit.schemas import MIN_OPACITY, RULE, GvitError
from gvit.train import geometry
from gvit.train.augment import AugmentConfig, augment
from gvit.train.color_jitter import change_color, mean_gray, random_color_change
from gvit.train.keyed_random import uniform

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

OUT = 32  # pixels of an augmented rendering
FINE = 512  # pixels of the rendering that is warped: a Gaussian is at least 15 of them wide
EVERYTHING = AugmentConfig(
    crop_scale=(0.3, 1.0),
    flip=0.5,
    rotate=20,
    translate=0.1,
    zoom=0.2,
    shear=10,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.2,
    grayscale=0.3,
    dropout=0.2,
    min_scale=0.01,
)


def scene(batch: int, n: int = 40, seed: int = 0) -> torch.Tensor:
    """Return smooth sets in front of a canvas-wide Gaussian, so that coverage is full nearly everywhere."""
    draws = uniform(seed, 0, torch.arange(batch), "scene", n * 9).view(batch, n, 9)
    low = torch.tensor([-1, -1, 0.1, 0.06, -math.pi / 2, 0, 0, 0, 0.3])
    high = torch.tensor([1, 1, 0.4, 0.1, math.pi / 2, 1, 1, 1, 0.95])
    sets = low + (high - low) * draws
    sets[:, -1] = torch.tensor([0.0, 0.0, 4.0, 3.0, 0.3, 0.4, 0.6, 0.2, 0.99])
    return sets


def run(sets, aspect=1.0, *, epoch=0, samples=None, **config):
    samples = torch.arange(len(sets)) if samples is None else samples
    aspects = torch.full((len(sets),), aspect)
    return augment(sets, aspects, samples, seed=0, epoch=epoch, config=AugmentConfig(**config))


def warp(sets, mapping: geometry.AffineMap, size: int = OUT) -> torch.Tensor:
    """Render finely, then look up where each pixel of the augmented image comes from."""
    pixels = (torch.arange(size) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(pixels, pixels, indexing="ij")
    xx, xy, yx, yy, x0, y0 = (entry[:, None, None] for entry in mapping)
    u, v, det = x - x0, y - y0, xx * yy - xy * yx
    source = torch.stack([(yy * u - xy * v) / det, (xx * v - yx * u) / det], dim=-1)
    inside = source.abs().amax(-1) < 1 - 1 / FINE  # beyond the outermost pixel centres there is no image
    return grid_sample(render(sets, FINE, FINE), source, align_corners=False), inside


def assert_is_warped(sets, augmented, mapping):
    """Bilinear lookup errs by the curvature of an image, and alpha jumps by 1/255 at a Gaussian's edge."""
    expected, inside = warp(sets, mapping)
    error = (render(augmented, OUT, OUT) - expected).abs().amax(dim=1)[inside]
    assert inside.float().mean() > 0.3
    assert error.mean() < 3e-4
    assert error.max() < 1.5 / 255


@given(st.integers(0, 1000))
@settings(max_examples=15)
def test_a_random_affine_map_of_a_set_is_that_map_of_its_rendering(epoch):
    sets, chance = scene(2, seed=epoch), uniform(1, epoch, torch.arange(2), "map", geometry.AFFINE_DRAWS)
    mapping = geometry.small_affine(chance, rotate=180, translate=0.2, zoom=0.5, shear=30)
    assert_is_warped(sets, geometry.affine(sets, mapping), mapping)


@given(st.integers(0, 1000), st.floats(0.4, 2.5))
@settings(max_examples=15)
def test_a_random_resized_crop_of_a_set_is_that_crop_of_its_rendering(epoch, aspect):
    sets = scene(2, seed=epoch)
    cropped, there = run(sets, aspect, epoch=epoch, crop_scale=(0.1, 1.0))
    chance = uniform(0, epoch, torch.arange(2), "augment/crop", geometry.CROP_DRAWS)
    mapping = geometry.random_crop(torch.full((2,), aspect), chance, (0.1, 1.0), (3 / 4, 4 / 3))
    assert there is not None
    assert_is_warped(sets, cropped, mapping)


@pytest.mark.parametrize("place", [(0, 0), (1, 3), (2, 1)])
def test_a_crop_to_whole_pixels_renders_to_the_same_pixels(place):
    sets = scene(1)
    x, y = (torch.tensor([-1 + 0.5 * (at + 1.0) - 0.25]) for at in place)
    quarter = torch.tensor([0.25])
    cropped = geometry.affine(sets, geometry.crop(quarter, quarter, x, y))
    whole, part = render_reference(sets, 64, 64), render_reference(cropped, 16, 16)
    rows, columns = slice(16 * place[1], 16 * place[1] + 16), slice(16 * place[0], 16 * place[0] + 16)
    smooth = whole.smooth[:, rows, columns] & part.smooth
    error = (part.image - whole.image[..., rows, columns]).abs().amax(dim=1)[smooth]
    assert smooth.float().mean() > 0.9
    assert error.max() < 1e-5


def test_a_quarter_turn_renders_to_the_turned_image():
    sets = scene(3)
    turn = geometry.AffineMap(*(torch.full((3,), v) for v in (0.0, -1.0, 1.0, 0.0, 0.0, 0.0)))
    turned = render_reference(geometry.affine(sets, turn), OUT, OUT)
    plain = render_reference(sets, OUT, OUT)
    error = (turned.image - torch.rot90(plain.image, -1, (2, 3))).abs().amax(dim=1)
    assert error[turned.smooth & torch.rot90(plain.smooth, -1, (1, 2))].max() < 1e-5


def test_a_flip_renders_to_the_mirrored_image_and_twice_is_nothing():
    sets = scene(3)
    sets[0, 0, 4] = -math.pi / 2
    flipped, there = run(sets, flip=1.0)
    assert there is None
    assert (render(flipped, OUT, OUT) - render(sets, OUT, OUT).flip(3)).abs().max() < 1e-5
    assert torch.equal(run(flipped, flip=1.0)[0], sets)


def test_half_of_the_sets_are_flipped_and_the_others_keep_their_bits():
    sets = scene(1).expand(2000, -1, -1)
    flipped, _ = run(sets, flip=0.5)
    kept = (flipped == sets).flatten(1).all(dim=1)
    assert 900 < kept.sum() < 1100
    assert torch.equal(flipped[~kept][..., 0], -sets[~kept][..., 0])


@pytest.mark.parametrize("aspect", [0.4, 1.0, 2.5])
def test_random_crops_are_distributed_as_torchvisions(aspect):
    height = 1000
    width = round(height * aspect)
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    boxes = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    top, left, tall, wide = torch.tensor(boxes, dtype=torch.float64).T
    theirs = torch.stack([left / width, top / height, wide / width, tall / height])
    chance = uniform(0, 0, torch.arange(4000), "crop", geometry.CROP_DRAWS)
    mapping = geometry.random_crop(torch.full((4000,), aspect), chance, (0.08, 1.0), (3 / 4, 4 / 3))
    w, h = 1 / mapping.xx, 1 / mapping.yy
    x, y = -mapping.x0 * w, -mapping.y0 * h
    ours = torch.stack([(x - w + 1) / 2, (y - h + 1) / 2, w, h]).double()
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    assert (ours.quantile(quantiles, dim=1) - theirs.quantile(quantiles, dim=1)).abs().max() < 0.03
    assert (torch.corrcoef(ours) - torch.corrcoef(theirs)).nan_to_num().abs().max() < 0.08


def test_a_crop_never_leaves_the_canvas_even_where_no_ratio_fits():
    chance = uniform(0, 0, torch.arange(500), "crop", geometry.CROP_DRAWS)
    for aspect in (0.05, 20.0):
        mapping = geometry.random_crop(torch.full((500,), aspect), chance, (0.5, 1.0), (3 / 4, 4 / 3))
        for size, shift in (
            (1 / mapping.xx, mapping.x0 / mapping.xx),
            (1 / mapping.yy, mapping.y0 / mapping.yy),
        ):
            assert size.max() <= 1
            assert (shift.abs() + size).max() < 1 + 1e-5


@pytest.mark.parametrize("aspect", [0.5, 2.0])
@pytest.mark.parametrize("frame", ["center", "fit"])
def test_a_circle_of_the_true_image_is_a_circle_again(aspect, frame):
    # A circle of 0.2 of the image's height, squeezed onto the square canvas together with the image.
    sets = scene(1, 1)
    sets[0, 0, :5] = torch.tensor([0.0, 0.0, max(0.2 / aspect, 0.2), min(0.2 / aspect, 0.2), 0.0])
    sets[0, 0, 4] = 0.0 if aspect < 1 else -math.pi / 2
    restored, _ = run(sets, aspect, frame=frame)
    short, long = min(aspect, 1.0), max(aspect, 1.0)
    side = {"center": short, "fit": long if aspect > 1 else 1.0}[frame]  # in parts of the height
    assert restored[0, 0, 2:4].tolist() == pytest.approx([0.2 / side] * 2, rel=1e-5)


def test_the_classical_test_crop_shows_its_fraction_of_the_centred_square():
    sets = torch.tensor([[[0.5, 0.0, 0.1, 0.1, 0.0, 1, 1, 1, 1.0], [0.0, 0.5, 0.1, 0.1, 0.0, 1, 1, 1, 1.0]]])
    seen, _ = run(sets, 2.0, frame="center", center_fraction=0.8)
    assert seen[0, :, :2].flatten().tolist() == pytest.approx([1.25, 0, 0, 0.625])


def test_nothing_is_done_without_augmentation():
    sets = scene(2)
    augmented, there = run(sets, 2.0)
    assert augmented is sets
    assert there is None


def test_what_is_culled_could_not_be_drawn_and_what_is_kept_could():
    sets = scene(8, n=60)
    sets[:, :-1, 2:4] *= 0.3
    cropped, there = run(sets, crop_scale=(0.05, 0.2))
    chance = uniform(0, 0, torch.arange(8), "augment/crop", geometry.CROP_DRAWS)
    mapping = geometry.random_crop(torch.ones(8), chance, (0.05, 0.2), (3 / 4, 4 / 3))
    everything = geometry.affine(sets, mapping)
    assert 0.1 < there.float().mean() < 0.5
    assert torch.equal(cropped[..., 8] > 0, there)
    assert torch.equal(cropped[there], everything[there])
    assert torch.equal(render(cropped, 64, 64), render(everything, 64, 64))
    assert there[(everything[..., :2].abs() < 1).all(dim=-1)].all()


@pytest.mark.parametrize("n", [1, 7])
def test_at_least_one_gaussian_is_left(n):
    sets = scene(300, n + 1)[:, :n]
    sets[..., 2:4] *= 0.1
    for config in ({"crop_scale": (0.01, 0.02)}, {"dropout": 0.95}):
        _, there = run(sets, **config)
        assert there.any(dim=1).all()
        assert (there.sum(dim=1) == 1).any()


def test_dropout_leaves_out_its_share_and_nothing_else_changes():
    sets = scene(200)
    dropped, there = run(sets, dropout=0.3)
    assert 0.68 < there.float().mean() < 0.72
    assert torch.equal(dropped[there], sets[there])
    assert torch.equal(dropped[..., :8], sets[..., :8])
    survivors = sets[:1, there[0]]
    assert torch.equal(render(dropped[:1], OUT, OUT), render(survivors, OUT, OUT))


@given(st.integers(0, 10_000), st.floats(0.3, 3.0))
@settings(max_examples=30)
def test_fields_stay_in_their_ranges(epoch, aspect):
    sets = scene(4, seed=epoch)
    sets[:, ::3, 3] = sets[:, ::3, 2]  # round ones
    sets[:, 1::3, 3] = 1e-4
    augmented, there = augment(
        sets, torch.full((4,), aspect), torch.arange(4), seed=0, epoch=epoch, config=EVERYTHING
    )
    *_, sx, sy, theta, _, _, _, opacity = augmented.unbind(-1)
    assert augmented.dtype == torch.float32
    assert torch.isfinite(augmented).all()
    assert (sx >= sy).all()
    assert sy.min() >= np.float32(0.01)
    assert theta.min() >= np.float32(-math.pi / 2)
    assert theta.max() < math.pi / 2
    assert torch.equal(opacity[there], sets[..., 8][there])
    assert opacity[there].min() >= MIN_OPACITY
    assert not opacity[~there].any()


def coverage(sets) -> torch.Tensor:
    """Return what white Gaussians render to: 1 where coverage is full."""
    return render(torch.cat([sets[..., :5], torch.ones_like(sets[..., :3]), sets[..., 8:]], -1), OUT, OUT)


def test_color_changes_are_linear_in_the_rendering():
    sets = scene(6)[:, :-1]  # coverage is not full
    chance = uniform(0, 0, torch.arange(6), "color", 4)
    change = random_color_change(
        mean_gray(sets), chance, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.3
    )
    probes = torch.cat([torch.zeros(1, 3), torch.eye(3)])  # black and the primaries give the affine map
    sized = torch.cat([torch.zeros(6, 4, 5), probes.expand(6, 4, 3), torch.ones(6, 4, 1)], dim=-1)
    offset, *columns = change_color(sized, change)[..., 5:8].unbind(1)
    matrix = torch.stack([column - offset for column in columns], dim=2)
    plain, changed = render(sets, OUT, OUT), render(change_color(sets, change), OUT, OUT)
    expected = torch.einsum("bij,bjhw->bihw", matrix, plain) + offset[:, :, None, None] * coverage(sets)
    assert (changed - expected).abs().max() < 1e-5
    assert coverage(sets).min() < 0.9 < RULE.alpha_max


@pytest.mark.parametrize(
    ("strengths", "column", "transform"),
    [
        ({"brightness": 0.3}, 0, tv.adjust_brightness),
        ({"contrast": 0.3}, 1, None),
        ({"saturation": 0.3}, 2, tv.adjust_saturation),
    ],
)
def test_factors_mean_what_they_mean_in_torchvision(strengths, column, transform):
    sets = scene(5)
    sets[..., 5:8] = 0.3 + 0.3 * sets[..., 5:8]  # torchvision clips to 0..1
    jittered, _ = run(sets, **strengths)
    factors = 1 + 0.3 * (2 * uniform(0, 0, torch.arange(5), "augment/color", 4)[:, column] - 1)
    plain, changed = render(sets, OUT, OUT), render(jittered, OUT, OUT)
    for image, other, factor in zip(plain, changed, factors.tolist(), strict=True):
        # our pivot of contrast is the set's mean gray, not the image's: both are grays near the middle
        expected = transform(image, factor) if transform else tv.adjust_contrast(image, factor)
        difference = (other - expected).mean((1, 2)) if transform is None else other - expected
        assert difference.abs().max() < (0.03 if transform is None else 2e-4)


def test_the_mean_gray_is_near_that_of_the_rendering():
    sets = scene(20)
    true = (render(sets, OUT, OUT) * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1).mean((1, 2))
    assert (mean_gray(sets) - true).abs().max() < 0.1


def test_grayscale_loses_the_color_of_some_sets_and_leaves_the_bits_of_others():
    sets = scene(1).expand(1000, -1, -1)
    grayed, there = run(sets, grayscale=0.2)
    r, g, b = grayed[..., 5:8].unbind(-1)
    is_gray = ((r == g) & (g == b)).all(dim=1)
    assert there is None
    assert 150 < is_gray.sum() < 250
    assert torch.equal(grayed[~is_gray], sets[~is_gray])
    weights = torch.tensor([0.299, 0.587, 0.114])
    expected = (render(sets[:1], OUT, OUT) * weights[:, None, None]).sum(1)
    assert (render(grayed[is_gray][:1], OUT, OUT)[:, 0] - expected).abs().max() < 1e-5


def test_hue_turns_keep_the_gray():
    sets = scene(10)
    turned, _ = run(sets, hue=0.5)
    weights = torch.tensor([0.299, 0.587, 0.114])
    assert ((turned - sets)[..., 5:8] @ weights).abs().max() < 1e-6
    assert (turned - sets)[..., 5:8].abs().max() > 0.3


def test_one_and_two_ranks_see_the_same_augmented_samples():
    sets, aspect, samples = scene(37), torch.linspace(0.5, 2, 37), torch.randperm(1000)[:37]
    options = {"seed": 5, "epoch": 3, "config": EVERYTHING}
    whole, there = augment(sets, aspect, samples, **options)
    for share in (slice(0, 19), slice(19, 37), slice(20, 21)):
        part, part_there = augment(sets[share], aspect[share], samples[share], **options)
        assert torch.equal(part_there, there[share])
        assert (part - whole[share]).abs().max() < 1e-5  # vector units round by place in memory
    assert not torch.equal(augment(sets, aspect, samples, seed=5, epoch=4, config=EVERYTHING)[0], whole)
    assert not torch.equal(augment(sets, aspect, samples, seed=6, epoch=3, config=EVERYTHING)[0], whole)


def test_gradients_are_those_of_the_augmentation():
    sets = scene(2, n=6).double().requires_grad_()

    def augmented(values):
        return augment(
            values, torch.tensor([0.7, 1.5]).double(), torch.arange(2), seed=1, epoch=0, config=EVERYTHING
        )[0]

    assert torch.autograd.gradcheck(augmented, sets, eps=1e-6, atol=1e-5)


def test_a_round_gaussian_has_finite_gradients():
    sets = scene(2)
    sets[..., 3] = sets[..., 2]
    sets.requires_grad_()
    augmented, _ = run(sets, zoom=0.2, rotate=10)
    augmented.square().sum().backward()
    assert torch.isfinite(sets.grad).all()
    assert (sets.grad[..., 2:4] != 0).all()


def test_what_is_not_there_gets_no_opacity_gradient_and_the_rest_does():
    sets = scene(4).requires_grad_()
    augmented, there = run(sets, dropout=0.5)
    augmented.sum().backward()
    assert torch.equal(sets.grad[..., 8] != 0, there)


def test_the_input_is_left_as_it_was():
    sets = scene(3)
    copy = sets.clone()
    augment(sets, torch.ones(3), torch.arange(3), seed=0, epoch=0, config=EVERYTHING)
    assert torch.equal(sets, copy)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"flip": 1.5}, "flip must be from 0 to 1, not 1.5"),
        ({"hue": 0.7}, "hue must be from 0 to 0.5"),
        ({"dropout": 1.0}, "dropout must be from 0 to 0.99"),
        ({"shear": 90}, "shear must be from 0 to 60"),
        ({"frame": "whole"}, "frame must be one of canvas, center, fit"),
        ({"center_fraction": 0.0}, "center_fraction must be from 0.01"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale must be two rising numbers"),
        ({"crop_ratio": (0.0, 1.0)}, "crop_ratio must be two rising numbers"),
        ({"zoom": math.nan}, "zoom must be from 0 to 10, not nan"),
    ],
)
def test_a_config_out_of_range_is_refused_with_field_and_range(wrong, words):
    with pytest.raises(GvitError, match=words):
        AugmentConfig(**wrong)


def test_sets_of_another_shape_are_refused():
    with pytest.raises(GvitError, match=r"\[B, N, 9\], not \[2, 9\]"):
        run(torch.zeros(2, 9))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_augments_alike():
    sets = scene(16)
    arguments = (torch.ones(16), torch.arange(16))
    here, there = augment(sets, *arguments, seed=0, epoch=0, config=EVERYTHING)
    on_gpu, on_gpu_there = augment(
        sets.cuda(), *(argument.cuda() for argument in arguments), seed=0, epoch=0, config=EVERYTHING
    )
    assert (on_gpu.cpu() - here).abs().max() < 1e-4
    assert torch.equal(on_gpu_there.cpu(), there)
