"""What a running encode tells of its speed and its work."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fake_encode as fake
from gvit.pipeline.progress import Meter, Progress


def test_the_time_to_go_does_not_count_the_compilation_before_the_first_images():
    now = [0.0]
    meter = Meter(100, clock=lambda: now[0])
    assert (meter.standing().images_per_second, meter.standing().eta_seconds) == (0.0, None)
    now[0] = 50.0  # the kernels are compiled
    meter.report("a", Progress(10, 0, 250.0, fresh=10))
    assert meter.standing().eta_seconds is None
    now[0] = 52.0
    meter.report("a", Progress(19, 1, 500.0, fresh=20))
    assert meter.standing().images_per_second == 5.0
    assert meter.standing().eta_seconds == 16.0


def test_images_of_an_earlier_run_are_done_but_tell_nothing_of_the_speed():
    now = [0.0]
    meter = Meter(100, clock=lambda: now[0])
    for seconds, fresh in ((0.0, False), (1.0, True), (2.0, False), (3.0, True)):
        now[0] = seconds
        meter.report(f"shard {seconds}", Progress(10, 0, 250.0, fresh=10 * fresh))
    assert (meter.standing().done, meter.sum.fresh, meter.standing().images_per_second) == (40, 20, 5.0)


def test_an_attempt_that_lost_work_takes_it_back_and_nothing_ever_counts_below_zero():
    meter = Meter(100)
    meter.report("a", Progress(30, 2, 750.0, fresh=32, cost_sum=9.0, fitted=30))
    meter.report("b", Progress(5, 0, 125.0))
    meter.report("a", Progress(fresh=16))  # the worker died; half of it is in the journal
    assert (meter.standing().done, meter.standing().failed, meter.sum.fresh) == (5, 0, 16)
    meter.report("a", Progress(40, 2, 1000.0, fresh=42, cost_sum=11.0, fitted=40))
    assert (meter.standing().done, meter.standing().failed) == (47, 2)
    assert meter.standing().psnr_mean == 25.0


@given(
    *[st.builds(Progress, *[st.integers(0, 1000)] * 2, st.integers(0, 10**6), *[st.integers(0, 1000)] * 3)]
    * 2
)
def test_a_difference_undoes_a_sum(one, other):
    assert one + other - other == one
    assert (one + other).images == one.images + other.images


@pytest.mark.parametrize("batch", [4, 64])
def test_the_mean_cost_of_a_fit_does_not_count_images_that_had_none(tmp_path, batch):
    root = fake.make_source(tmp_path / "src", per_class=5)
    for number in range(4):
        (root / "cats" / f"broken{number}.png").write_bytes(b"no image")
    fake.save_image(root / fake.FLAT_GRAY, np.full((8, 8, 3), fake.UNFITTABLE))
    summary = fake.fake_encode(root, tmp_path / "dst", steps=70, batch_size=batch)
    assert (summary.images, summary.failed, summary.steps_mean) == (10, 5, 70.0)
