import math

import numpy as np
import pytest
import torch

from fake_sets import make_sets, write_dataset
from gvit.dataset.reader import open_dataset
from gvit.schemas import GvitError, canonicalize
from gvit.train.model.tokens import (
    FIELD_FEATURES,
    SetTokens,
    TokenConfig,
    depth_rank,
    field_features,
    measure_statistics,
)

PLAIN = (torch.zeros(FIELD_FEATURES), torch.ones(FIELD_FEATURES))


def random_sets(count=3, seed=0):
    return torch.from_numpy(make_sets(count, seed)[0])


def test_a_gaussian_turned_by_half_a_turn_has_the_same_features():
    sets = random_sets()
    turned = sets.clone()
    turned[..., 4] += math.pi
    torch.testing.assert_close(field_features(turned), field_features(sets), atol=1e-6, rtol=1e-5)


def test_a_round_gaussian_has_no_direction():
    sets = random_sets()
    sets[..., 3] = sets[..., 2]
    assert field_features(sets)[..., 4:6].abs().max() == 0


def test_features_are_continuous_where_the_canonical_form_jumps():
    sets = random_sets()
    sets[..., 2:4] = torch.tensor([0.2, 0.2002])  # canonical form swaps the axes and turns by a quarter
    swapped = torch.from_numpy(canonicalize(sets.numpy()))
    assert (swapped[..., 4] != sets[..., 4]).all()
    same = [0, 1, 4, 5, 6, 7, 8, 9]  # the scales themselves are swapped
    torch.testing.assert_close(
        field_features(swapped)[..., same], field_features(sets)[..., same], atol=1e-5, rtol=0
    )


def test_whitened_features_of_the_training_set_have_mean_0_and_deviation_1(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "shards", {"train": 300}))
    tokens = SetTokens(TokenConfig(octaves=0, depth_rank=False), *measure_statistics(dataset))
    features = tokens(torch.from_numpy(dataset.gaussians(slice(None)))).flatten(0, 1)
    deviation, mean = torch.std_mean(features, dim=0)
    assert mean.abs().max() < 1e-3
    assert (deviation - 1).abs().max() < 1e-2


def test_a_field_that_never_changes_does_not_blow_up(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "shards", {"train": 8}))
    dataset.gaussians = lambda _: np.ones((8, 6, 9), np.float32)
    _, deviation = measure_statistics(dataset)
    assert (deviation == 1).all()


@pytest.mark.parametrize(
    "config", [TokenConfig(), TokenConfig(octaves=0), TokenConfig(damped=True, depth_rank=False)]
)
def test_there_are_as_many_channels_as_the_config_says(config):
    assert SetTokens(config, *PLAIN)(random_sets()).shape == (3, 6, config.channels)


def test_fourier_features_tell_places_apart_that_differ_by_a_hundredth_of_the_canvas():
    tokens = SetTokens(TokenConfig(), *PLAIN)
    sets = random_sets(1)
    moved = sets.clone()
    moved[..., 0] += 0.02
    assert (tokens(moved) - tokens(sets))[..., FIELD_FEATURES:].abs().amax(-1).min() > 0.5


def test_damping_silences_waves_shorter_than_the_gaussian_and_spares_longer_ones():
    sets = random_sets(1)
    sets[..., 2:4], sets[..., 4] = 0.5, 0.3
    waves = SetTokens(TokenConfig(octaves=7, damped=True, depth_rank=False), *PLAIN)(sets)[
        ..., FIELD_FEATURES:
    ]
    power = waves.view(1, 6, 2, 2, 7).square().sum(dim=3)  # [.., axis, sin and cos, octave]
    expected = 2 * math.exp(-((0.5 * math.pi / 2) ** 2))
    torch.testing.assert_close(power[..., 0], torch.full_like(power[..., 0], expected))
    assert power[..., 6].max() < 1e-6


def test_the_rank_runs_from_0_in_front_to_1_behind():
    assert depth_rank(random_sets())[0].tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert depth_rank(torch.zeros(2, 1, 9)).tolist() == [[0], [0]]


def test_features_stay_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        features = SetTokens(TokenConfig(), *PLAIN)(random_sets())
    assert features.dtype == torch.float32


def test_features_are_differentiable_in_every_field():
    sets = random_sets().requires_grad_()
    SetTokens(TokenConfig(damped=True), *PLAIN)(sets).square().sum().backward()
    assert sets.grad is not None
    assert sets.grad.isfinite().all()
    assert (sets.grad.abs().amax((0, 1)) > 0).all()


def test_too_many_octaves_are_refused():
    with pytest.raises(GvitError, match=r"tokens.octaves must be from 0 to 12, not 13"):
        TokenConfig(octaves=13)
