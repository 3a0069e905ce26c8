"""Shards that kill their workers: every image that does so is found, and no other is given up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvit.images.sources.images import Entry
from gvit.pipeline.engines.dispatch import DEATHS_BEFORE_SUSPICION, MAX_DEATHS_IN_A_ROW, Dispatch
from gvit.pipeline.plan import BlockPlan, ShardPlan


def shard(number, images):
    first = 10_000 * number
    entries = tuple(Entry(f"{first + i}", f"{first + i}.png", "train", -1, None) for i in range(images))
    return ShardPlan(f"shard-{number:06d}", "train", first, entries)


class World:
    """Workers that die of some images; what is journaled survives them."""

    def __init__(self, shards, poison):
        self.dispatch = Dispatch(shards)
        self.poison = poison
        self.journaled = set()
        self.given_up = []
        self.deaths = 0
        self.most_in_a_row = 0
        self.done = []

    def open_block(self, shard):
        for block in shard.blocks():
            missing = tuple(e for e in block.entries if e.key not in self.journaled)
            if missing:
                return BlockPlan(block.first, missing)
        return None

    def step(self):
        task = self.dispatch.take()
        while (block := task.part or self.open_block(task.shard)) is not None:
            keys = [entry.key for entry in block.entries if entry.key not in self.journaled]
            if self.poison & set(keys):
                self.deaths += 1
                given_up = self.dispatch.died(task, self.open_block(task.shard))
                self.most_in_a_row = max(self.most_in_a_row, self.dispatch.deaths_in_a_row)
                if given_up is not None:
                    (entry,) = given_up.entries
                    self.given_up.append(entry.key)
                    self.journaled.add(entry.key)
                return
            self.journaled.update(keys)
            if task.part is not None:
                break
        if task.part is None:
            self.done.append(task.shard.name)
        self.dispatch.finished(task)

    def run(self):
        while self.dispatch.unfinished:
            self.step()


@given(
    sizes=st.lists(st.integers(1, 600), min_size=1, max_size=4),
    picks=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 599)), max_size=6),
)
def test_exactly_the_images_that_kill_are_given_up_and_every_shard_is_done_once(sizes, picks):
    shards = [shard(number, size) for number, size in enumerate(sizes)]
    poison = {
        shards[number % len(shards)].entries[i % sizes[number % len(shards)]].key for number, i in picks
    }
    world = World(shards, poison)
    world.run()
    assert sorted(world.given_up) == sorted(poison)
    assert sorted(world.done) == [shard.name for shard in shards]
    assert len(world.journaled) == sum(sizes)
    assert world.most_in_a_row < MAX_DEATHS_IN_A_ROW


def test_one_death_is_nobodys_fault_and_costs_no_other_shard_anything():
    dispatch = Dispatch([shard(0, 300), shard(1, 300)])
    first, second = dispatch.take(), dispatch.take()
    for _ in range(DEATHS_BEFORE_SUSPICION - 1):
        assert dispatch.died(first, BlockPlan(0, first.shard.entries[:256])) is None
        dispatch.put_back(second)
        assert dispatch.take() == second
        assert dispatch.take() == first  # the whole of it, not a part
    dispatch.finished(first)
    dispatch.finished(second)
    assert not dispatch.unfinished


def test_an_image_alone_is_given_up_only_after_a_second_death():
    dispatch = Dispatch([shard(0, 1)])
    block = BlockPlan(0, dispatch._waiting[0].shard.entries)
    verdicts = [dispatch.died(dispatch.take(), block) for _ in range(2 * DEATHS_BEFORE_SUSPICION)]
    assert verdicts == [None, None, None, block]


@pytest.mark.parametrize("poisoned", [0, 100, 255])
def test_a_poisoned_block_costs_few_workers(poisoned):
    one = shard(0, 256)
    world = World([one], {one.entries[poisoned].key})
    world.run()
    assert world.deaths <= DEATHS_BEFORE_SUSPICION + 8 + 1
