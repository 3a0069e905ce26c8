import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gvit.schemas import (
    ENCODINGS,
    FIELDS,
    MIN_OPACITY,
    RULE,
    DatasetError,
    GvitError,
    canonicalize,
    check_gaussians,
    decode,
    default_encoding,
    encode,
    min_scale,
)

SIZES = st.integers(1, 512)
SETS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=2, max_side=4).map(lambda shape: (*shape, 9)),
    elements=st.floats(-4, 4, width=32) | st.floats(allow_nan=False, allow_infinity=False, width=32),
)


def a_set(**fields: float) -> np.ndarray:
    values = dict.fromkeys(FIELDS, 0.5) | {"sx": 0.2, "sy": 0.1} | fields
    return np.array([[values[name] for name in FIELDS]], dtype=np.float32)


def covariance(gaussians: np.ndarray) -> np.ndarray:
    sx, sy, theta = (gaussians[..., i].astype(np.float64) for i in (2, 3, 4))
    c, s = np.cos(theta), np.sin(theta)
    return np.stack([(c * sx) ** 2 + (s * sy) ** 2, (s * sx) ** 2 + (c * sy) ** 2, c * s * (sx**2 - sy**2)])


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(gaussians=SETS, size=SIZES)
def test_whatever_finite_is_stored_decodes_into_every_range(encoding, gaussians, size):
    decoded = decode(encode(gaussians, encoding, size), encoding)
    check_gaussians(decoded, size)
    low = np.array([-1, -1, 0.5 / size, 0.5 / size, -math.pi / 2, -3, -3, -3, 1 / 255])
    assert (decoded.astype(np.float64) >= low).all()
    assert (decoded[..., 4].astype(np.float64) < math.pi / 2).all()


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(gaussians=SETS, size=SIZES)
def test_storing_again_what_was_decoded_changes_no_bit(encoding, gaussians, size):
    stored = encode(gaussians, encoding, size)
    again = encode(decode(stored, encoding), encoding, size)
    assert stored.tobytes() == again.tobytes()


COARSENESS = {"float32": (1e-6, 1e-6), "float16": (1e-3, 1e-3), "compact": (0.046, 0.007)}
"""By encoding: the relative error of a scale, and the error of an angle in radians."""


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [1, 7, 32, 96, 224, 333, 511, 512])
def test_values_at_the_very_ends_of_the_ranges_stay_inside(encoding, size):
    smallest = min_scale(size)
    scale_error, angle_error = COARSENESS[encoding]
    for theta in (-math.pi / 2, np.nextafter(math.pi / 2, 0), 1.5705, -1.5705):
        ends = a_set(x=-1, y=1, sx=smallest, sy=smallest, theta=theta, opacity=MIN_OPACITY)
        decoded = decode(encode(ends, encoding, size), encoding).astype(np.float64)[0]
        assert decoded[2] >= decoded[3] >= smallest
        assert decoded[2] == pytest.approx(decoded[3], rel=scale_error)
        assert decoded[2] == pytest.approx(smallest, rel=scale_error)
        assert MIN_OPACITY <= decoded[8] <= MIN_OPACITY * 1.001
        assert -math.pi / 2 <= decoded[4] < math.pi / 2
        assert abs(math.sin(decoded[4] - theta)) < angle_error
        assert tuple(decoded[:2]) == (-1, 1)


@given(gaussians=SETS.map(lambda g: np.clip(g, -4, 4)))
def test_float32_keeps_canonical_sets_to_the_bit_and_float16_to_half_precision(gaussians):
    canonical = decode(encode(gaussians, "float32", 224), "float32")
    np.testing.assert_array_equal(decode(encode(canonical, "float32", 224), "float32"), canonical)
    half = decode(encode(canonical, "float16", 224), "float16")
    np.testing.assert_allclose(half, canonical, rtol=2**-10, atol=2**-24)


@given(gaussians=SETS.map(lambda g: np.clip(g, -4, 4)))
def test_compact_keeps_every_field_to_half_a_step_of_its_table(gaussians):
    canonical = decode(encode(gaussians, "float32", 224), "float32").astype(np.float64)
    compact = decode(encode(gaussians, "compact", 224), "compact").astype(np.float64)
    np.testing.assert_allclose(compact[..., :2], canonical[..., :2], atol=1.01 / 2047)
    thickest = np.minimum(canonical[..., 2], 128 * canonical[..., 3])
    np.testing.assert_allclose(compact[..., 2], thickest, rtol=0.046)
    np.testing.assert_allclose(compact[..., 3], canonical[..., 3], rtol=0.06)
    assert (np.abs(np.sin(compact[..., 4] - canonical[..., 4])) < 1.01 * math.pi / 512).all()
    bent = np.arcsinh(3 * (np.stack([compact, canonical])[..., 5:8] - 0.5))
    np.testing.assert_allclose(bent[0], bent[1], atol=1.01 * math.asinh(10.5) / 511)
    np.testing.assert_allclose(compact[..., 8], canonical[..., 8], atol=1.01 / 254)


def test_compact_takes_ten_bytes_a_gaussian_and_refuses_what_is_not_finite():
    gaussians = a_set()
    assert encode(gaussians, "compact", 224).nbytes == 10 * len(gaussians)
    gaussians[0, 3] = math.nan
    with pytest.raises(GvitError, match="not finite"):
        encode(gaussians, "compact", 224)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", range(9))
def test_a_value_that_is_not_finite_is_found_after_storing_and_spoils_no_neighbour(value, column):
    gaussians = np.stack([a_set(), a_set()])
    gaussians[0, 0, column] = value
    decoded = decode(encode(gaussians, "float16", 224), "float16")
    with pytest.raises(DatasetError, match="set 0, row 0"):
        check_gaussians(decoded, 224)
    check_gaussians(decoded[1], 224)


def test_every_half_precision_number_decodes_exactly():
    every = np.arange(1 << 16, dtype=np.uint16).view("<f2")
    finite, special = every[np.isfinite(every)], every[~np.isfinite(every)]
    stored = np.resize(finite, (1, 20_000, 9))  # more than once around
    assert decode(stored, "float16").tobytes() == stored.astype(np.float32).tobytes()
    for value in special:
        stored[0, 7, 3] = value
        np.testing.assert_array_equal(decode(stored[:, :9], "float16"), stored[:, :9].astype(np.float32))


def test_a_view_with_gaps_is_decoded_and_stored():
    gaussians = np.random.default_rng(0).random((6, 8, 9)).astype(np.float32)[::2, ::3]
    stored = encode(gaussians, "float16", 224)
    np.testing.assert_array_equal(decode(stored[:, ::2], "float16"), stored[:, ::2].astype(np.float32))


@given(
    sx=st.floats(0.0625, 2, width=32),
    sy=st.floats(0.0625, 2, width=32),
    theta=st.floats(-1000, 1000, width=32),
)
def test_the_canonical_form_is_the_same_ellipse(sx, sy, theta):
    given_set = a_set(sx=sx, sy=sy, theta=theta)
    canonical = canonicalize(given_set)
    check_gaussians(canonical, 224)
    np.testing.assert_allclose(covariance(canonical), covariance(given_set), atol=4e-6)
    np.testing.assert_array_equal(canonicalize(canonical), canonical)
    kept = [i for i in range(9) if i not in (2, 3, 4)]
    np.testing.assert_array_equal(canonical[:, kept], given_set[:, kept])


def test_the_canonical_form_is_a_new_array():
    gaussians = a_set(sx=0.1, sy=0.2)
    before = gaussians.copy()
    canonicalize(gaussians)
    np.testing.assert_array_equal(gaussians, before)


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("x", 1.01, r"x = 1.01 is not in \[-1, 1\]"),
        ("y", -1.01, r"y = -1.01 is not in \[-1, 1\]"),
        ("sy", 0.002, r"sy = 0.002 is not in \[0.002232143, 65504\]"),
        ("theta", 1.5708, r"theta = 1.5708 is not in \[-1.570796, 1.570796\)"),
        ("g", 5.0, r"g = 5 is not in \[-3, 4\]"),
        ("opacity", 0.0, r"opacity = 0 is not in \[0.003921569, 1\]"),
        ("opacity", math.nan, "opacity = nan is not in"),
        ("sy", 0.3, r"sx = 0.2 is less than sy = 0.3"),
    ],
)
def test_a_check_names_row_field_value_and_range(field, value, wanted):
    gaussians = np.concatenate([a_set(), a_set(**{field: value})])
    with pytest.raises(DatasetError, match=f"^row 1: {wanted}"):
        check_gaussians(gaussians, 224)


@pytest.mark.parametrize("shape", [(9,), (4, 8), (0, 9), (2, 0, 9), ()])
def test_a_check_refuses_another_shape(shape):
    with pytest.raises(DatasetError, match=r"shape \[N, 9\]"):
        check_gaussians(np.zeros(shape, np.float32), 224)


def test_a_check_refuses_integers():
    with pytest.raises(DatasetError, match="int64"):
        check_gaussians(np.ones((4, 9), np.int64), 224)


def test_half_precision_is_refused_above_512_pixels():
    assert [default_encoding(size) for size in (32, 512, 513)] == ["float16", "float16", "float32"]
    with pytest.raises(GvitError, match="store as float32"):
        encode(a_set(), "float16", 513)
    check_gaussians(decode(encode(a_set(), "float32", 513), "float32"), 513)


def test_an_unknown_encoding_is_refused_with_the_list_of_those_there_are():
    with pytest.raises(GvitError, match="float16, float32"):
        encode(a_set(), "float8", 224)


def test_an_array_of_another_encoding_is_not_decoded():
    with pytest.raises(GvitError, match="stored as float16"):
        decode(a_set(), "float16")


def test_the_constants_of_the_rule_are_those_of_schema_version_1():
    assert (RULE.rule, RULE.alpha_max, RULE.alpha_min) == ("over-unpremultiplied", 0.999, 1 / 255)
    assert (RULE.transmittance_min, RULE.epsilon) == (1e-4, 0.01)
