"""A selection is a dataset of its own: whatever is asked of it speaks of the selected sets alone."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from fake_sets import make_sets
from gvit import open_dataset
from gvit.dataset.commit import commit_shard, write_manifest
from gvit.dataset.open_shard import read_rows
from gvit.schemas import BlockArrays, FitInfo, GvitError, Row, build_manifest, encode, table_to_rows
from gvit.train.data.loader import SetLoader
from gvit.train.data.split import DataConfig, open_training_data

COUNT = 30


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A dataset without a split val; each image has a shape of its own, and between them are failed ones."""
    dst = tmp_path_factory.mktemp("shapes")
    sets, labels = make_sets(COUNT, 0)
    rows = []
    for i, label in enumerate(labels.tolist()):
        size = (10 + i, 40 - i)
        rows.append(Row(f"k{i}", "train", label, "abc"[label], f"{i}.png", *size, 20.0 + i, "ok", None,
                        "shard-000000", i, f"{i:064x}"[::-1]))  # fmt: skip
        if i % 7 == 0:
            rows.append(Row(f"bad{i}", "train", -1, None, f"bad{i}.png", None, None, None, "failed", "torn",
                            "shard-000000", None, None))  # fmt: skip
    blocks = [BlockArrays(0, encode(sets, "float16", 16), labels)]
    mark = commit_shard(
        dst, "shard-000000", blocks, rows, split="train", attempt="t", still_ours=lambda: True
    )
    fit = FitInfo("default", 200, 0, "none", 1)
    facts = {"gaussians": 6, "size": 16, "encoding": "float16", "fit": fit, "classes": ["a", "b", "c"]}
    write_manifest(dst, build_manifest(**facts, marks=[mark], tables=[read_rows(dst, mark)]))
    return dst


CHOSEN = [17, 3, 28, 0]


@pytest.fixture(params=["of all", "of a split", "of a selection", "pickled"])
def part(path, request):
    dataset = open_dataset(path)
    if request.param == "of a split":
        return dataset.split("train").select(CHOSEN)
    if request.param == "of a selection":
        return dataset.select(slice(None, None, -1)).select([COUNT - 1 - i for i in CHOSEN])
    selected = dataset.select(np.array(CHOSEN))
    return pickle.loads(pickle.dumps(selected)) if request.param == "pickled" else selected


def test_all_that_a_selection_says_is_of_the_selected_sets(path, part):
    whole = open_dataset(path)
    assert len(part) == len(CHOSEN)
    assert part.keys == [f"k{i}" for i in CHOSEN]
    assert part.labels.tolist() == whole.labels[CHOSEN].tolist()
    assert part.psnr.tolist() == [20.0 + i for i in CHOSEN]
    assert part.sizes.tolist() == [[10 + i, 40 - i] for i in CHOSEN]
    assert part.aspects.tolist() == [np.float32((10 + i) / (40 - i)) for i in CHOSEN]
    assert [row.source for row in table_to_rows(part.rows)] == [f"{i}.png" for i in CHOSEN]
    assert part.rows.equals(part.set_rows)
    assert part.failures.num_rows == 0
    assert np.array_equal(part.gaussians(slice(None)), whole.gaussians(CHOSEN))
    assert np.array_equal(np.concatenate([block.gaussians for block in part.blocks()]), whole.stored(CHOSEN))
    assert [sample.key for sample in part] == [part[i].key for i in range(-len(part), 0)] == part.keys
    assert part.by_key("k28").label == whole.labels[28]
    with pytest.raises(GvitError, match="no set with the key 'k1'"):
        part.by_key("k1")


def test_a_split_of_a_selection_is_of_the_selected_sets(part):
    assert part.split("train").keys == part.keys
    with pytest.raises(GvitError, match="no split 'val'"):
        part.split("val")


@pytest.mark.parametrize(
    ("indices", "error"), [([COUNT], IndexError), ([0.5], TypeError), ([[0]], TypeError)]
)
def test_what_is_no_index_is_refused(path, indices, error):
    with pytest.raises(error):
        open_dataset(path).select(indices)


def test_a_selection_of_nothing_is_empty(path):
    nothing = open_dataset(path).select([])
    assert (len(nothing), nothing.keys, nothing.rows.num_rows) == (0, [], 0)
    assert nothing.gaussians(slice(None)).shape == (0, 6, 9)


@pytest.mark.parametrize("cache", ["memory", "mmap"])
def test_held_out_images_keep_their_own_shape(path, cache):
    """28 of 30 had that of another image, in training and in evaluation."""
    data = open_training_data(DataConfig(shards=path), seed=0)
    assert (len(data.train), len(data.val)) == (27, 3)
    for shuffle, sets in ((True, data.train), (False, data.val)):
        loader = SetLoader(sets, batch_size=3, seed=1, shuffle=shuffle, cache=cache)
        found = {
            sets.keys[index]: aspect
            for batch in loader.epoch(0)
            for index, aspect in zip(batch.indices.tolist(), batch.aspect.tolist(), strict=True)
        }
        numbers = {key: int(key[1:]) for key in sets.keys}
        assert found == {key: np.float32((10 + i) / (40 - i)) for key, i in numbers.items()}
