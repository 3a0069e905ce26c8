"""What a running encode tells of its speed and its work."""

from __future__ import annotations

import numpy as np
import pytest

import fake_encode as fake
from gvit.pipeline.progress import Standing, Tally


def test_the_time_to_go_does_not_count_the_compilation_before_the_first_images():
    now = [0.0]
    standing = Standing(100, clock=lambda: now[0])
    assert (standing.rate, standing.eta_seconds) == (0.0, None)
    now[0] = 50.0  # the kernels are compiled
    standing.add(Tally(10, 0, 250.0))
    assert standing.eta_seconds is None
    now[0] = 52.0
    standing.add(Tally(9, 1, 250.0))
    assert standing.rate == 5.0
    assert standing.eta_seconds == 16.0


def test_images_of_an_earlier_run_are_done_but_tell_nothing_of_the_speed():
    now = [0.0]
    standing = Standing(100, clock=lambda: now[0])
    for seconds, fresh in ((0.0, False), (1.0, True), (2.0, False), (3.0, True)):
        now[0] = seconds
        standing.add(Tally(10, 0, 250.0, fresh=fresh))
    assert (standing.done, standing.fresh, standing.rate) == (40, 20, 5.0)


@pytest.mark.parametrize("batch", [4, 64])
def test_the_mean_cost_of_a_fit_does_not_count_images_that_had_none(tmp_path, batch):
    root = fake.make_source(tmp_path / "src", per_class=5)
    for number in range(4):
        (root / "cats" / f"broken{number}.png").write_bytes(b"no image")
    fake.save_image(root / fake.FLAT_GRAY, np.full((8, 8, 3), fake.UNFITTABLE))
    summary = fake.fake_encode(root, tmp_path / "dst", steps=70, batch_size=batch)
    assert (summary.images, summary.failed, summary.steps_mean) == (10, 5, 70.0)
