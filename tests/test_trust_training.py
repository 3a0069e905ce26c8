"""Training and evaluation trust no data that they have not looked at, and no score on what was trained on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_sets import write_dataset
from gvit.dataset.export import export_zarr
from gvit.dataset.reader import open_dataset
from gvit.schemas import DatasetError, GvitError
from gvit.schemas.checksums import hash_file
from gvit.train.data.check import check_sets
from gvit.train.data.overlap import (
    Overlap,
    digests_of,
    first_images,
    overlap_of,
    read_trained_on,
    write_trained_on,
)
from gvit.train.data.split import DataConfig, open_training_data

from .hostile import change_json, change_rows, make_true


@pytest.fixture
def shards(tmp_path):
    return write_dataset(tmp_path / "d", {"train": 60, "val": 20})


def change_byte(path, at=None, new=None):
    data = bytearray(path.read_bytes())
    at = len(data) // 3 if at is None else at
    data[at : at + (1 if new is None else len(new))] = bytes([data[at] ^ 1]) if new is None else new
    path.write_bytes(data)


# ---------------------------------------------------------------- data that is not what it was


@pytest.mark.parametrize("at", [0.1, 0.3, 0.5])
def test_a_changed_byte_is_found_before_training(shards, at):
    tar = shards / "shard-000000.tar"
    change_byte(tar, int(tar.stat().st_size * at))
    with pytest.raises(DatasetError, match=r"shard-000000\.tar is damaged"):
        check_sets(open_dataset(shards))
    check_sets(open_dataset(shards).split("val"))  # the other split is another file


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 7.5])
def test_a_value_that_no_set_may_hold_is_named_with_shard_and_key(shards, value):
    dataset = open_dataset(shards)
    mark = next(shard.mark for shard, _ in dataset.by_shard())
    block, sets = mark.blocks[0], dataset.manifest.gaussians * 9
    change_byte(
        shards / "shard-000000.tar",
        block.gaussians_offset + 2 * (5 * sets + 3 * 9 + 1),
        np.float16(value).tobytes(),
    )
    digest = hash_file(shards / "shard-000000.tar")
    change_json(shards / "dataset.json", lambda manifest: manifest["shards"][0].update(sha256=digest))
    make_true(shards)
    key = open_dataset(shards).keys[5]
    with pytest.raises(DatasetError, match=f"in the set of {key} in shard-000000, .*y = "):
        check_sets(open_dataset(shards))


def test_arrays_of_zarr_are_compared_with_their_checksums_too(shards, tmp_path):
    export_zarr(open_dataset(shards), tmp_path / "z", lambda _: "card")
    check_sets(open_dataset(tmp_path / "z"))
    (chunk,) = (tmp_path / "z" / "gaussians.zarr" / "gaussians" / "c").rglob("0/0/0")
    change_byte(chunk, 100)
    with pytest.raises(DatasetError, match="is damaged"):
        check_sets(open_dataset(tmp_path / "z"))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_ranks_together_look_at_everything(tmp_path, world):
    shards = write_dataset(tmp_path / "d", {"a": 5, "b": 5, "train": 9, "val": 4})
    change_byte(shards / "shard-000002.tar")
    dataset = open_dataset(shards)
    found = []
    for rank in range(world):
        try:
            check_sets(dataset, rank=rank, world_size=world)
        except DatasetError:
            found.append(rank)
    assert len(found) == 1


def test_a_run_does_not_go_on_with_sets_that_changed(shards, tmp_path):
    from gvit.train.run.run import train
    from test_train_loop import SILENT, config_of

    train(config_of(shards, tmp_path / "run"), console=SILENT)
    change_byte(shards / "shard-000000.tar", 3000)
    with pytest.raises(DatasetError, match="is damaged, or not what it was"):
        train(config_of(shards, tmp_path / "run"), console=SILENT)


# ---------------------------------------------------------------- the same images on both sides


def copy_images(shards, count, shard="shard-000001", of="shard-000000"):
    """Make the first images of one shard the very same as those of another."""
    import pyarrow.parquet as pq

    digests = pq.read_table(shards / f"{of}.parquet")["source_sha256"].to_pylist()

    def change(rows):
        for i in range(count):
            rows[i]["source_sha256"] = digests[i]

    change_rows(shards, change, shard)


def open_data(shards, **changes):
    return open_training_data(DataConfig(shards=shards, **changes), 0)


@pytest.mark.parametrize(("count", "allowed"), [(0, True), (1, True), (2, False), (20, False)])
def test_images_in_both_splits_of_one_dataset_are_counted_and_many_are_refused(shards, count, allowed):
    copy_images(shards, count)
    if allowed:
        assert len(open_data(shards).overlap.sources) == count
    else:
        with pytest.raises(GvitError, match=f"{count} of the 20 images .* trained on too .*allow_overlap"):
            open_data(shards)
    assert len(open_data(shards, allow_overlap=True).overlap.sources) == count


def test_what_is_held_out_takes_its_duplicates_with_it(tmp_path):
    shards = write_dataset(tmp_path / "d", {"train": 60})

    def change(rows):
        for i, row in enumerate(rows):
            row["source_sha256"] = f"{i // 3:064x}"[::-1]

    change_rows(shards, change)
    data = open_data(shards)
    assert not data.overlap.sources
    assert len(data.train) + len(data.val) == 60
    assert len(data.val) == 6
    assert not set(digests_of(data.train).tolist()) & set(digests_of(data.val).tolist())


def test_one_image_many_times_cannot_be_held_out(tmp_path):
    shards = write_dataset(tmp_path / "d", {"train": 30})
    change_rows(shards, lambda rows: [row.update(source_sha256="0" * 64) for row in rows])
    with pytest.raises(GvitError, match="one image many times"):
        open_data(shards)


def test_without_duplicates_what_is_held_out_is_what_it_always_was(tmp_path):
    from gvit.train.data.order import epoch_order

    shards = write_dataset(tmp_path / "d", {"train": 60})
    order = epoch_order(0, -1, 60)
    keys = open_dataset(shards).keys
    assert open_data(shards).val.keys == [keys[i] for i in sorted(order[:6].tolist())]


@given(
    digests=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    data=st.data(),
)
def test_whole_groups_are_held_out_and_no_more_than_it_takes(digests, data):
    import pyarrow as pa

    class Part:
        set_rows = pa.table({"source_sha256": [f"{d:064x}"[::-1] for d in digests]})

    order = data.draw(st.permutations(range(len(digests))))
    count = data.draw(st.integers(1, len(digests)))
    held = first_images(Part, np.array(order), count).tolist()
    assert set(order[: min(count, 1)]) <= set(held)
    assert count <= len(held) < count + max(digests.count(d) for d in digests)
    assert {digests[i] for i in held}.isdisjoint(d for i, d in enumerate(digests) if i not in held)


def test_evaluate_counts_what_the_run_was_trained_on(shards, tmp_path):
    from gvit.train.run.run import train
    from gvit.train.run.trained import evaluate_checkpoint
    from test_train_loop import SILENT, config_of

    train(config_of(shards, tmp_path / "run"), console=SILENT)
    overlap = evaluate_checkpoint(tmp_path / "run", shards).overlap
    assert overlap == Overlap((), 20)
    again = write_dataset(tmp_path / "again", {"all": 60})
    copy_images(again, 60, "shard-000000", "../d/shard-000000")
    for path in (tmp_path / "run", *(tmp_path / "run" / "checkpoints").iterdir()):
        with pytest.raises(GvitError, match=r"60 of the 60 images .*--allow-overlap"):
            evaluate_checkpoint(path, again, split="all")
    overlap = evaluate_checkpoint(tmp_path / "run", again, split="all", allow_overlap=True).overlap
    assert len(overlap.sources) == 60


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"x" * 200])
def test_a_damaged_note_of_what_was_trained_on_is_a_sentence(shards, tmp_path, damage):
    write_trained_on(tmp_path, open_dataset(shards))
    assert len(overlap_of(open_dataset(shards), read_trained_on(tmp_path)).sources) == 80
    (tmp_path / "trained-on.npy").write_bytes(damage)
    with pytest.raises(GvitError, match="is damaged"):
        read_trained_on(tmp_path)
    assert read_trained_on(tmp_path / "a" / "b" / "c") is None


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_changed_bit_of_the_sets_is_found(tmp_path_factory, share, bit):
    shards = tmp_path_factory.getbasetemp() / "bits"
    if not shards.exists():
        write_dataset(shards, {"train": 20})
    tar = shards / "shard-000000.tar"
    good = bytearray(tar.read_bytes())
    bad = bytearray(good)
    bad[int(len(bad) * share)] ^= 1 << bit
    tar.write_bytes(bad)
    try:
        with pytest.raises(DatasetError):
            check_sets(open_dataset(shards))
    finally:
        tar.write_bytes(good)
    check_sets(open_dataset(shards))


def test_parts_of_one_dataset_are_read_once(tmp_path, monkeypatch):
    from gvit.train.data import check

    shards = write_dataset(tmp_path / "d", {"train": 60})
    data, read = open_data(shards), []
    monkeypatch.setattr(check, "hash_file", lambda path: read.append(path) or hash_file(path))
    check_sets(data.train, data.val)
    assert read == [shards / "shard-000000.tar"]
