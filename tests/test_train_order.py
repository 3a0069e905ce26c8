import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvit.train.data.order import (
    epoch_order,
    evaluation_batches,
    partners_of,
    training_batches,
    training_steps,
)

sizes = st.integers(1, 200)
ranks = st.integers(1, 9)


def places(batches) -> list[list[int]]:
    return [list(range(batch.start, batch.stop)) for batch in batches]


def test_an_epoch_is_every_sample_once_in_an_order_of_its_own():
    orders = [epoch_order(7, epoch, 1000) for epoch in range(3)]
    for order in orders:
        assert order.dtype == np.int64
        assert np.array_equal(np.sort(order), np.arange(1000))
    assert np.array_equal(orders[1], epoch_order(7, 1, 1000))
    assert (orders[0] == orders[1]).mean() < 0.01
    assert (orders[0] == epoch_order(8, 0, 1000)).mean() < 0.01


def test_each_sample_comes_anywhere_in_an_epoch():
    ranks = np.argsort([epoch_order(0, epoch, 50) for epoch in range(400)], axis=1)
    assert np.abs(ranks.mean(axis=0) - 24.5).max() < 4 * 50 / (12 * 400) ** 0.5


@given(sizes, st.integers(1, 12), ranks, st.data())
def test_ranks_share_each_global_batch_in_equal_parts(n, batch_size, world_size, data):
    seen = data.draw(st.integers(0, n))
    shares = [
        places(training_batches(n, batch_size, rank, world_size, samples_seen=seen))
        for rank in range(world_size)
    ]
    steps = training_steps(n, batch_size, world_size, samples_seen=seen)
    assert {len(share) for share in shares} == {steps}
    together = [place for step in zip(*shares, strict=True) for share in step for place in share]
    assert together == list(range(seen, seen + steps * batch_size * world_size))
    assert n - len(together) - seen < batch_size * world_size


@given(sizes, st.integers(1, 12), ranks)
def test_evaluation_takes_every_sample_once_in_shares_within_one(n, batch_size, world_size):
    shares = [places(evaluation_batches(n, batch_size, rank, world_size)) for rank in range(world_size)]
    counts = [sum(map(len, share)) for share in shares]
    assert max(counts) - min(counts) <= 1
    assert [place for share in shares for batch in share for place in batch] == list(range(n))
    assert all(len(batch) <= batch_size for share in shares for batch in share)


def test_a_partner_is_any_other_sample_and_the_same_in_any_batch():
    n, samples = 20, np.repeat(np.arange(20), 500)
    met = np.array([partners_of(0, epoch, np.arange(n), n) for epoch in range(500)]).T
    counts = np.array([np.bincount(row, minlength=n) for row in met])
    assert np.array_equal(np.diag(counts), np.zeros(n))
    others = counts[~np.eye(n, dtype=bool)]
    assert 0 < others.min() < others.max() < 500 / 19 + 6 * (500 / 19) ** 0.5
    alone = [partners_of(0, 3, np.array([sample]), n)[0] for sample in range(n)]
    assert np.array_equal(alone, partners_of(0, 3, samples[::500], n))


@pytest.mark.parametrize("n", [1, 2])
def test_a_small_dataset_has_partners_too(n):
    assert np.array_equal(partners_of(0, 0, np.arange(n), n), np.arange(n)[::-1])
