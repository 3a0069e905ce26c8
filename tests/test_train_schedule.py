from itertools import pairwise

import pytest

from gvit.schemas import GvitError
from gvit.train.config import ScheduleConfig, learning_rate


def rates(steps_per_epoch=10, epochs=10, **changes):
    config = ScheduleConfig(**({"lr": 1.0, "warmup_epochs": 2} | changes))
    return [learning_rate(config, step, steps_per_epoch, epochs) for step in range(steps_per_epoch * epochs)]


def test_the_rate_rises_evenly_through_the_warm_up_to_its_highest():
    found = rates()
    steps = [later - sooner for sooner, later in pairwise(found[:21])]
    assert found[0] > 0
    assert steps == pytest.approx([1 / 21] * 20)
    assert max(found) == found[20] == 1.0


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_the_rate_falls_to_the_final_share(shape):
    found = rates(shape=shape, final=0.1)
    assert all(later < sooner for sooner, later in pairwise(found[20:]))
    assert 0.1 < found[-1] < 0.12
    assert found[60] == pytest.approx(0.55)  # half way down


def test_a_constant_rate_stays():
    assert set(rates(shape="constant")[20:]) == {1.0}


def test_a_warm_up_longer_than_the_run_takes_half_of_it():
    found = rates(epochs=2, warmup_epochs=30)
    assert found.index(max(found)) == 10


def test_a_run_of_one_step_moves():
    assert rates(steps_per_epoch=1, epochs=1) == [1.0]


@pytest.mark.parametrize(
    "changes",
    [{"lr": 0.0}, {"shape": "square"}, {"warmup_epochs": -1.0}, {"final": 1.5}, {"lr": float("inf")}],
)
def test_a_schedule_out_of_range_is_refused(changes):
    with pytest.raises(GvitError, match=f"schedule.{next(iter(changes))}"):
        ScheduleConfig(**changes)
