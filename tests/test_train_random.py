import numpy as np
import pytest
import torch

from gvit.train.data import keyed_random
from gvit.train.data.keyed_random import hashes, uniform

WORD = (1 << 64) - 1


def splitmix(state: int) -> int:
    """Return the next number of SplitMix64 as its authors print it, in Python's integers."""
    z = (state + 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def test_the_generator_is_splitmix64():
    # The first number of the published generator from state 1234567, as in its reference test vector.
    assert splitmix(1234567) == 6457827717110365317
    key = keyed_random._key(3, 4, "s")
    state = splitmix((9 ^ key) - 0x9E3779B97F4A7C15 & WORD)
    expected = [splitmix(state + k * 0x9E3779B97F4A7C15 & WORD) for k in range(5)]
    found = hashes(3, 4, torch.tensor([9]), "s", 5)[0]
    assert found.numpy().view(np.uint64).tolist() == expected


def test_a_sample_has_the_same_numbers_in_any_batch():
    samples = torch.randperm(1000)
    whole = uniform(1, 2, samples, "crop", 7)
    assert torch.equal(uniform(1, 2, samples[300:305], "crop", 7), whole[300:305])
    assert torch.equal(uniform(1, 2, samples.flip(0), "crop", 3).flip(0), whole[:, :3])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_numbers():
    samples = torch.arange(10_000)
    assert torch.equal(uniform(1, 2, samples.cuda(), "crop", 7).cpu(), uniform(1, 2, samples, "crop", 7))


@pytest.mark.parametrize("other", [(1, 0, "a"), (0, 1, "a"), (0, 0, "b"), (-1, 0, "a"), (1 << 70, 0, "a")])
def test_seed_epoch_and_stream_each_give_other_numbers(other):
    samples = torch.arange(20_000)
    first, second = uniform(0, 0, samples, "a")[:, 0], uniform(*other[:2], samples, other[2])[:, 0]
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / 20_000**0.5


def test_numbers_are_uniform_and_independent_over_samples_and_draws():
    draws = uniform(5, 6, torch.arange(50_000), "u", 4)
    assert draws.dtype == torch.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    for column in draws.unbind(1):
        counts = torch.histc(column, 100, 0, 1)
        chi_square = ((counts - 500) ** 2 / 500).sum()
        assert 60 < chi_square < 150  # 99 degrees of freedom: beyond is one in ten thousand
    neighbours = np.corrcoef(draws[1:, 0], draws[:-1, 0])[0, 1]
    assert max(abs(neighbours), np.abs(np.corrcoef(draws.T) - np.eye(4)).max()) < 0.02


def test_no_two_samples_share_a_word():
    assert len(hashes(0, 0, torch.arange(200_000), "order").unique()) == 200_000
