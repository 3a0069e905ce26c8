"""A finished block survives a kill; half a block does not pass for one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvit.pipeline.journal import BlockResult, Journal, Outcome, _pack, _unpack
from gvit.pipeline.place.folder import Folder

OK = Outcome("a/1", 10, 12, 27.123456789012345, None, "ab" * 32)
UNFIT = Outcome("a/2", 10, 12, None, "the fit gave no finite result", "cd" * 32)
LAST = Outcome("ü/3", 1, 1, 100.0, None, "ef" * 32)
KEYS = ["a/1", "a/2", "ü/3", "b/4"]


@pytest.fixture
def block():
    sets = np.arange(2 * 5 * 9, dtype="<f2").reshape(2, 5, 9)
    return BlockResult((OK, UNFIT, LAST), sets)


@pytest.fixture
def journal(tmp_path):
    place = Folder(tmp_path)
    place.prepare()
    return Journal(place)


def same(left, right):
    assert left.outcomes == right.outcomes
    assert left.gaussians.dtype == right.gaussians.dtype
    np.testing.assert_array_equal(left.gaussians, right.gaussians)


def test_a_block_comes_back_as_it_was(journal, block):
    journal.write("shard-000000", 256, block)
    same(journal.read("shard-000000", 256, KEYS), block)
    assert journal.read("shard-000000", 0, KEYS) is None
    assert journal.read("shard-000001", 256, KEYS) is None


@given(psnr=st.floats(0, 100), dtype=st.sampled_from(["<f2", "<f4", "<u2"]), rows=st.integers(0, 4))
def test_every_number_comes_back_exactly(psnr, dtype, rows):
    outcomes = tuple(Outcome(f"k{i}", 1, 2, psnr, None, None) for i in range(rows))
    result = BlockResult(outcomes, np.arange(rows * 27).astype(dtype).reshape(rows, 3, 9))
    same(_unpack(_pack(result)), result)


def test_a_torn_or_damaged_block_counts_as_none(journal, block, tmp_path):
    journal.write("shard-000000", 0, block)
    path = tmp_path / ".gvit" / "journal" / "shard-000000" / "00000000"
    whole = path.read_bytes()
    for broken in [whole[:cut] for cut in range(0, len(whole), 37)] + [whole[:-1], whole + b"x"]:
        path.write_bytes(broken)
        assert journal.read("shard-000000", 0, KEYS) is None
    for place in range(0, len(whole), 13):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert journal.read("shard-000000", 0, KEYS) is None


def test_a_block_about_other_images_counts_as_none(journal, block):
    journal.write("shard-000000", 0, block)
    assert journal.read("shard-000000", 0, ["a/1", "a/2"]) is None


def test_forgetting_failures_keeps_values_and_outcomes_together(block):
    kept = block.only(lambda outcome: outcome.error is None)
    assert kept.outcomes == (OK, LAST)
    np.testing.assert_array_equal(kept.stored()["ü/3"], block.gaussians[1])
    last = block.only(lambda outcome: outcome.key == "ü/3")
    np.testing.assert_array_equal(last.gaussians, block.gaussians[1:])


def test_a_removed_shard_leaves_nothing(journal, block, tmp_path):
    journal.write("shard-000000", 0, block)
    journal.write("shard-000001", 0, block)
    journal.remove("shard-000000")
    journal.remove("shard-000007")
    assert [path.name for path in (tmp_path / ".gvit" / "journal").iterdir()] == ["shard-000001"]
