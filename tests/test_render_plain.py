"""The plain backend draws what the kernels draw, and stands in for them where numba is not installed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gvit.rendering import arrays, cpu, plain
from gvit.rendering.reference import render_reference
from test_render import FORWARD, NAMES, SCENES, VECTORS, random_sets


@pytest.mark.parametrize("scene", SCENES)
def test_it_agrees_with_the_reference(scene):
    batch, number, height, width, scales, opacities = SCENES[scene]
    sets = random_sets(len(scene), batch, number, scales, opacities)
    reference = render_reference(sets, height, width)
    image = plain.render_batch(sets.numpy(), height, width)
    smooth = reference.smooth[:, None].expand_as(reference.image).numpy()
    assert np.abs(image - reference.image.numpy())[smooth].max() < FORWARD / 10


@pytest.mark.parametrize("name", NAMES)
def test_it_draws_the_vectors(name):
    expected, smooth = VECTORS[f"{name}_image"], VECTORS[f"{name}_smooth"]
    image = plain.render_batch(VECTORS[f"{name}_gaussians"][None], *smooth.shape)[0]
    assert np.abs(image - expected)[:, smooth].max() < FORWARD / 10


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(1, 40), st.integers(1, 40))
def test_any_scene_of_any_size_is_drawn_in_full(seed, number, height, width):
    """The rectangle that a Gaussian is drawn in leaves nothing of it out."""
    sets = random_sets(seed, 1, number, (0.003, 2.0))
    reference = render_reference(sets, height, width)
    image = torch.from_numpy(plain.render_batch(sets.numpy(), height, width)).double()
    smooth = reference.smooth[:, None].expand_as(reference.image)
    assert (image - reference.image).abs()[smooth].max() < FORWARD if smooth.any() else True


@pytest.mark.parametrize("field", range(9))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_left_out(field, value):
    sets = random_sets(0, 2, 6, (0.1, 0.5)).numpy()
    without = sets.copy()
    without[0, 2, 8] = 0.0
    sets[0, 2, field] = value
    np.testing.assert_array_equal(plain.render_batch(sets, 20, 20), plain.render_batch(without, 20, 20))


def test_an_empty_batch_and_an_empty_set_render_as_nothing():
    assert plain.render_batch(np.zeros((0, 5, 9), np.float32), 8, 8).shape == (0, 3, 8, 8)
    assert (plain.render_batch(np.zeros((2, 0, 9), np.float32), 8, 8) == 0).all()


def test_the_kernels_are_used_where_they_are_installed_and_the_plain_backend_elsewhere(monkeypatch):
    sets = random_sets(1, 1, 20, (0.02, 0.5)).numpy()
    assert np.array_equal(arrays.render_batch(sets, 24, 24), cpu.render_batch(sets, 24, 24))
    monkeypatch.setattr(arrays, "find_spec", lambda _: None)
    assert np.array_equal(arrays.render_batch(sets, 24, 24), plain.render_batch(sets, 24, 24))


def test_it_needs_no_numba():
    program = "import sys; sys.modules['numba'] = None; import gvit.rendering.plain"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
