import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gvit.schemas import GvitError
from gvit.train.data import mix as mix_module
from gvit.train.data.keyed_random import uniform
from gvit.train.data.mix import LabelledSets, MixConfig, mix, soft_targets

CLASSES = 10


def labelled(batch: int, n: int = 32, seed: int = 0, present: float = 1.0) -> LabelledSets:
    """Return sets whose red says the row and whose green says the set they came from (``seed``)."""
    draws = uniform(seed, 0, torch.arange(batch), "sets", n * 9).view(batch, n, 9)
    sets = draws * 2 - 1
    sets[..., 2:4] = 0.1 + 0.05 * draws[..., 2:4]
    sets[..., 5], sets[..., 6] = torch.arange(n).float(), float(seed)
    sets[..., 8] = 0.5
    there = None if present == 1 else uniform(seed, 1, torch.arange(batch), "there", n) < present
    if there is not None:
        sets[..., 8] *= there
    labels = (uniform(seed, 2, torch.arange(batch), "labels", 1)[:, 0] * CLASSES).long()
    return LabelledSets(sets, there, labels)


def run(own, partner, *, epoch=0, samples=None, smoothing=0.0, **config):
    samples = torch.arange(len(own.labels)) if samples is None else samples
    return mix(
        own,
        partner,
        samples,
        seed=0,
        epoch=epoch,
        config=MixConfig(**config),
        num_classes=CLASSES,
        smoothing=smoothing,
    )


def is_there(mixed) -> torch.Tensor:
    shape = mixed.gaussians.shape[:2]
    return torch.ones(shape, dtype=torch.bool) if mixed.there is None else mixed.there


METHODS = [{"cutmix": 1.0}, {"mixup": 0.8}, {"cutmix": 1.0, "mixup": 0.8, "probability": 0.7}]


@pytest.mark.parametrize("config", METHODS)
@pytest.mark.parametrize("present", [1.0, 0.6])
@given(st.integers(0, 1000))
@settings(max_examples=10)
def test_a_mixed_set_is_parts_of_both_in_depth_order_with_labels_shared_likewise(config, present, epoch):
    own, partner = labelled(16, seed=0, present=present), labelled(16, seed=1, present=present)
    mixed = run(own, partner, epoch=epoch, **config)
    assert mixed.gaussians.shape == own.gaussians.shape
    assert torch.equal(mixed.gaussians[..., 8] > 0, is_there(mixed))
    for i, there in enumerate(is_there(mixed)):
        rows = mixed.gaussians[i, there]
        row, source = rows[:, 5].long(), rows[:, 6].long()
        assert (row.diff() >= 0).all()  # ranks alternate: each set keeps its order, and its depth
        assert torch.equal(
            rows, torch.where(source[:, None] == 0, own.gaussians[i, row], partner.gaussians[i, row])
        )
        assert len({*zip(row.tolist(), source.tolist(), strict=True)}) == len(rows)
        expected = torch.zeros(CLASSES)
        expected[own.labels[i]] += (source == 0).float().mean()
        expected[partner.labels[i]] += (source == 1).float().mean()
        assert mixed.targets[i].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert mixed.targets.sum(dim=1).tolist() == pytest.approx([1.0] * 16)


def test_cutmix_takes_the_partner_inside_of_a_square_and_the_sample_outside():
    own, partner = labelled(300, seed=0), labelled(300, seed=1)
    mixed = run(own, partner, cutmix=1.0)
    shares, boxed = [], 0
    for i, there in enumerate(is_there(mixed)):
        rows = mixed.gaussians[i, there]
        of_partner = rows[:, 6] == 1
        shares.append(of_partner.float().mean().item())
        inside = rows[of_partner, :2]
        if len(inside) < 2:
            continue
        low, high = inside.min(dim=0).values, inside.max(dim=0).values
        enclosed = ((rows[~of_partner, :2] > low) & (rows[~of_partner, :2] < high)).all(dim=1)
        assert not enclosed.any()
        boxed += 1
    assert boxed > 150
    assert 0.2 < sum(shares) / len(shares) < 0.45  # half of the squares' area, less what they overhang


def test_mixup_without_gaps_fills_every_row_so_that_no_mask_is_needed():
    own, partner = labelled(500, n=33, seed=0), labelled(500, n=33, seed=1)
    mixed = run(own, partner, mixup=1.0)
    assert mixed.there is None
    assert (mixed.gaussians[..., 8] == 0.5).all()
    share = (mixed.gaussians[..., 6] == 0).float().mean(dim=1)
    assert abs(share.mean() - 0.5) < 0.05
    assert share.std() == pytest.approx(12**-0.5, abs=0.03)  # Beta(1, 1) is uniform


def test_mixup_keeps_the_nearest_number_of_gaussians_to_its_share():
    own = labelled(200, n=33, present=0.5)
    stay = uniform(0, 0, torch.arange(200), "stay", 1)[:, 0]
    there = torch.stack([own.there, ~own.there], dim=2)
    words = mix_module.hashes(0, 0, torch.arange(200), "words", 66).view(200, 33, 2) & mix_module.NEVER
    kept = (mix_module._share(there, words, stay) & there).sum(dim=1)
    wanted = torch.stack([stay, 1 - stay], dim=1) * there.sum(dim=1)
    assert (kept - wanted).abs().max() <= 0.5 + 1e-5


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.8, 1.0])
def test_shares_are_beta_distributed(alpha):
    chance = uniform(0, 0, torch.arange(20_000), "beta", 2 * mix_module.BETA_ATTEMPTS)
    drawn = mix_module._beta(chance, alpha).double()
    exact = torch.distributions.Beta(torch.tensor(alpha).double(), torch.tensor(alpha).double())
    torch.manual_seed(0)
    quantiles = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    reference = exact.sample((200_000,)).quantile(quantiles)
    assert drawn.std().item() == pytest.approx(exact.stddev.item(), rel=0.02)
    # compared as probabilities: at a small alpha nearly all shares are next to 0 or 1
    below = torch.stack([(drawn < value).double().mean() for value in reference])
    assert (below - quantiles).abs().max() < 0.015


def test_samples_that_are_not_mixed_keep_their_bits_and_their_labels():
    own, partner = labelled(400, seed=0, present=0.7), labelled(400, seed=1, present=0.7)
    mixed = run(own, partner, cutmix=1.0, mixup=1.0, probability=0.25, smoothing=0.1)
    kept = (mixed.gaussians == own.gaussians).flatten(1).all(dim=1)
    assert 260 < kept.sum() < 340
    assert torch.equal(mixed.there[kept], own.there[kept])
    assert torch.equal(mixed.targets[kept], soft_targets(own.labels, CLASSES, 0.1)[kept])


def test_without_mixing_sets_and_masks_are_passed_through():
    own, partner = labelled(3, seed=0, present=0.5), labelled(3, seed=1)
    for config in ({}, {"cutmix": 1.0, "probability": 0.0}):
        mixed = run(own, partner, **config)
        assert mixed.gaussians is own.gaussians
        assert mixed.there is own.there


def test_cutmix_and_mixup_are_switched_between_by_their_probability():
    own, partner = labelled(1000, seed=0), labelled(1000, seed=1)
    mixed = run(own, partner, cutmix=1.0, mixup=1.0, switch=0.2)
    same_as_mixup = (mixed.gaussians == run(own, partner, mixup=1.0).gaussians).flatten(1).all(dim=1)
    assert 0.75 < same_as_mixup.float().mean() < 0.85


def test_a_mixture_of_nothing_is_the_sample_itself():
    own, partner = labelled(200, n=1, seed=0), labelled(200, n=1, seed=1)
    mixed = run(own, partner, cutmix=1.0)
    assert is_there(mixed).all()
    assert set(mixed.gaussians[:, 0, 6].tolist()) == {0.0, 1.0}


def test_one_and_two_ranks_mix_a_sample_alike():
    own, partner, samples = labelled(20, seed=0), labelled(20, seed=1), torch.randperm(99)[:20]
    whole = run(own, partner, samples=samples, cutmix=1.0, mixup=0.8)
    for share in (slice(0, 10), slice(10, 20)):
        parts = (LabelledSets(sets.gaussians[share], None, sets.labels[share]) for sets in (own, partner))
        part = run(*parts, samples=samples[share], cutmix=1.0, mixup=0.8)
        assert torch.equal(part.gaussians, whole.gaussians[share])
        assert torch.equal(part.there, whole.there[share])
        assert torch.equal(part.targets, whole.targets[share])


def test_gradients_reach_the_gaussians_of_both_sets_that_are_there():
    own, partner = labelled(8, seed=0), labelled(8, seed=1)
    for sets in (own, partner):
        sets.gaussians.requires_grad_()
    mixed = run(own, partner, mixup=1.0)
    mixed.gaussians[..., 8].sum().backward()
    received = [(sets.gaussians.grad[..., 8] != 0).sum(dim=1) for sets in (own, partner)]
    assert torch.equal(sum(received), torch.full((8,), 32))
    assert all(counts.any() for counts in received)


@given(st.floats(0, 1), st.integers(1, 20))
def test_soft_targets_are_probabilities(smoothing, classes):
    targets = soft_targets(torch.arange(classes), classes, smoothing)
    assert targets.sum(dim=1).tolist() == pytest.approx([1.0] * classes, abs=1e-5)
    assert targets.diagonal().tolist() == pytest.approx(
        [1 - smoothing + smoothing / classes] * classes, abs=1e-6
    )
    assert targets.min() >= 0


@pytest.mark.parametrize("field", ["cutmix", "mixup", "probability", "switch"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_a_config_out_of_range_is_refused_with_field_and_range(field, value):
    with pytest.raises(GvitError, match=f"{field} must be from 0 to 1, not {value:g}"):
        MixConfig(**{field: value})
