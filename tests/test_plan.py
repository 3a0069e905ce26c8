from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_images import images_of
from gvit.fitting.config import FitConfig
from gvit.images.sources.images import Entry
from gvit.pipeline.config import EncodeConfig
from gvit.pipeline.plan import BLOCK_SIZE, auto_shard_size, make_plan
from gvit.schemas.errors import GvitError


def plan_of(entries, *more):
    return make_plan(images_of(entries), *more)


def make_entries(train, val=0):
    sources = [f"train/{i}.jpg" for i in range(train)] + [f"val/{i}.jpg" for i in range(val)]
    return [Entry(s[:-4], s, s.partition("/")[0], -1, None) for s in sources]


def planned(plan):
    return [entry for shard in plan.shards for entry in shard.entries]


small_plans = given(
    train=st.integers(1, 700),
    val=st.integers(0, 300),
    seed=st.integers(0, 2**63 - 1),
    shard_size=st.none() | st.integers(1, 600),
)


@small_plans
def test_every_entry_is_planned_exactly_once(train, val, seed, shard_size):
    entries = make_entries(train, val)
    assert sorted(planned(plan_of(entries, seed, shard_size)), key=repr) == sorted(entries, key=repr)


@small_plans
def test_a_shard_holds_one_split_and_is_full_unless_it_is_the_last_of_its_split(train, val, seed, shard_size):
    plan = plan_of(make_entries(train, val), seed, shard_size)
    size = shard_size or auto_shard_size(train + val)
    assert all({entry.split for entry in shard.entries} == {shard.split} for shard in plan.shards)
    for split, images in (("train", train), ("val", val)):
        *full, last = [len(shard.entries) for shard in plan.shards if shard.split == split] or [0]
        assert full == [size] * len(full)
        assert last == images - size * len(full) <= size
        assert last > 0 or images == 0


@small_plans
def test_rows_are_counted_through_over_shards_and_blocks(train, val, seed, shard_size):
    plan = plan_of(make_entries(train, val), seed, shard_size)
    row = 0
    for number, shard in enumerate(plan.shards):
        assert (shard.name, shard.first) == (f"shard-{number:06d}", row)
        blocks = shard.blocks()
        assert [len(block.entries) for block in blocks[:-1]] == [BLOCK_SIZE] * (len(blocks) - 1)
        assert 1 <= len(blocks[-1].entries) <= BLOCK_SIZE
        assert [entry for block in blocks for entry in block.entries] == list(shard.entries)
        for block in blocks:
            assert block.first == row
            row += len(block.entries)
    assert row == plan.images == train + val


@given(st.randoms(), st.integers(0, 2**63 - 1))
def test_the_plan_does_not_depend_on_the_order_of_the_listing(random, seed):
    entries = make_entries(50, 20)
    shuffled, plan = plan_of(random.sample(entries, len(entries)), seed, 7), plan_of(entries, seed, 7)
    assert (planned(shuffled), shuffled.digest) == (planned(plan), plan.digest)


def test_the_plan_of_a_seed_is_what_it_was_in_every_version():
    # Golden: changing it makes every encode that is under way impossible to resume.
    plan = plan_of(make_entries(4, 2), 0)
    assert [entry.source for entry in planned(plan)] == [
        "train/3.jpg",
        "train/1.jpg",
        "train/0.jpg",
        "train/2.jpg",
        "val/1.jpg",
        "val/0.jpg",
    ]
    assert plan.digest == "88faa58a6d308211c16be1cfcf453c31bc75588d7027b22d3faa3e6e8f359bf6"


def test_another_seed_gives_another_order_of_the_same_entries():
    first, second = (planned(plan_of(make_entries(100), seed)) for seed in (0, 1))
    assert first != second
    assert set(first) == set(second)


def test_adding_an_image_does_not_reorder_the_others():
    few = planned(plan_of(make_entries(99), 3))
    many = planned(plan_of(make_entries(100), 3))
    assert [entry for entry in many if entry in few] == few


def test_splits_come_in_the_order_of_their_names():
    entries = [replace(e, split=s) for e, s in zip(make_entries(3), ("val", "train", "test"), strict=True)]
    assert [shard.split for shard in plan_of(entries, 0).shards] == ["test", "train", "val"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("changed", {0: "x"}), ("folders", ("x/",)), ("splits", ("test",)), ("classes", ("cat",))],
)
def test_the_digest_sees_each_field_of_an_image(field, value):
    images = images_of([Entry("train/0", "train/0.jpg", "train", 0, "dog")])
    assert make_plan(replace(images, **{field: value}), 0).digest != make_plan(images, 0).digest


@pytest.mark.parametrize(
    ("images", "size"),
    [(0, 256), (1, 256), (8192, 256), (8193, 512), (50_000, 1792), (262_144, 8192), (1_281_167, 8192)],
)
def test_the_automatic_shard_size_is_a_32nd_in_whole_blocks_within_its_bounds(images, size):
    assert auto_shard_size(images) == size


@pytest.mark.parametrize(("seed", "shard_size"), [(-1, None), (2**63, None), (0, 0), (0, -256)])
def test_a_seed_or_shard_size_out_of_range_is_refused_with_its_value(seed, shard_size):
    with pytest.raises(GvitError, match=str(shard_size if shard_size is not None else seed)):
        EncodeConfig(source=Path("a"), destination=Path("b"), fit=FitConfig(seed=seed), shard_size=shard_size)
