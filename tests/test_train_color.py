import pytest
import torch
from torchvision.transforms import functional as tv

from augmented_scenes import OUT, run, scene
from gvit.rendering.operator import render
from gvit.schemas import RULE
from gvit.train.data.augment import COLOR_I, COLOR_Q, GRAY, change_color, mean_gray, random_color_change
from gvit.train.data.keyed_random import uniform


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


def test_hue_turns_keep_the_gray_and_the_strength_of_colors():
    sets = scene(10)
    turned, _ = run(sets, hue=0.5)
    planes = torch.tensor([GRAY, COLOR_I, COLOR_Q]).T
    before, after = sets[..., 5:8] @ planes, turned[..., 5:8] @ planes
    assert (after - before)[..., 0].abs().max() < 1e-6
    assert (after[..., 1:].norm(dim=-1) - before[..., 1:].norm(dim=-1)).abs().max() < 1e-5
    assert (after - before)[..., 1:].abs().max() > 0.3


def test_contrast_keeps_the_mean_gray_that_brightness_gave():
    sets, brightness = scene(10), 0.4
    jittered, _ = run(sets, brightness=brightness, contrast=0.8, saturation=0.5, hue=0.2)
    factors = 1 + brightness * (2 * uniform(0, 0, torch.arange(10), "augment/color", 4)[:, 0] - 1)
    assert (mean_gray(jittered) - factors * mean_gray(sets)).abs().max() < 1e-6
