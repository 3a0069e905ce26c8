import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import grid_sample
from torchvision.transforms import RandomResizedCrop

from augmented_scenes import OUT, run, scene
from gvit.rendering.operator import render
from gvit.rendering.reference import render_reference
from gvit.schemas import MIN_OPACITY, GvitError
from gvit.train.data import geometry
from gvit.train.data.augment import AugmentConfig, augment
from gvit.train.data.keyed_random import uniform

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


def test_a_crop_comes_before_the_small_affine_map():
    sets, aspect = scene(3), torch.full((3,), 1.5)
    both, _ = run(sets, 1.5, crop_scale=(0.2, 0.5), rotate=30, translate=0.2)
    crops = geometry.random_crop(
        aspect, uniform(0, 0, torch.arange(3), "augment/crop", 22), (0.2, 0.5), (3 / 4, 4 / 3)
    )
    chance = uniform(0, 0, torch.arange(3), "augment/affine", 5)
    turns = geometry.small_affine(chance, rotate=30, translate=0.2, zoom=0, shear=0)
    one_by_one = geometry.affine(geometry.affine(sets, crops), turns)
    assert (both - one_by_one)[..., :8].abs().max() < 1e-4


def test_a_flip_renders_to_the_mirrored_image_and_twice_is_nothing():
    sets = scene(3)
    sets[0, 0, 4] = -math.pi / 2
    flipped, there = run(sets, flip=1.0)
    assert there is None
    assert (render(flipped, OUT, OUT) - render(sets, OUT, OUT).flip(3)).abs().max() < 1e-5
    assert torch.equal(run(flipped, flip=1.0)[0], sets)
    assert flipped[..., 4].max() < math.pi / 2


def test_gaussians_that_guidance_turned_beyond_a_quarter_flip_as_all_others():
    sets = scene(4, 6)
    sets[..., 4] = torch.linspace(-2.0, 2.0, 6)
    flipped, _ = run(sets, flip=1.0)
    assert (render(flipped, OUT, OUT) - render(sets, OUT, OUT).flip(3)).abs().max() < 1e-5


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
    _, there = run(sets, crop_scale=(0.01, 0.02))
    assert there.any(dim=1).all()
    assert (there.sum(dim=1) == 1).any()
    assert run(sets, dropout=0.95)[0].shape[1] == 1


def test_dropout_leaves_out_its_share_and_nothing_else_changes():
    sets = scene(200)
    count = sets.shape[1]
    dropped, there = run(sets, dropout=0.3)
    assert there is None  # so attention needs no mask
    assert dropped.shape[1] == round(0.7 * count)
    same = (dropped[:, :, None] == sets[:, None]).all(dim=-1)
    rows = same.int().argmax(dim=2)
    assert same.any(dim=2).all()
    assert (rows.diff(dim=1) > 0).all()  # still in depth order
    left = torch.bincount(rows.flatten(), minlength=count) / len(sets)
    assert (left - 0.7).abs().max() < 0.15  # none is favoured
    cropped = run(sets, crop_scale=(0.1, 0.3))[0].gather(1, rows[..., None].expand_as(dropped))
    both = run(sets, crop_scale=(0.1, 0.3), dropout=0.3)
    assert torch.equal(both[0][both[1]], cropped[both[1]])


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
    assert torch.isin(opacity[there], sets[..., 8]).all()
    assert opacity[there].min() >= MIN_OPACITY
    assert not opacity[~there].any()


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
    augmented, there = run(sets, crop_scale=(0.1, 0.3))
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
