import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gvit.dataset.commit import commit_shard, write_manifest
from gvit.dataset.open_shard import read_rows
from gvit.dataset.reader import open_dataset
from gvit.schemas import (
    ENCODINGS,
    NUM_FIELDS,
    BlockArrays,
    Encoding,
    FitInfo,
    GvitError,
    Row,
    build_manifest,
    cores,
    encode,
)
from gvit.train.data import loader as loader_module
from gvit.train.data.loader import SetLoader

N = 5
SIZE = 32
SHARDS = {"shard-000000": ("train", 30), "shard-000001": ("train", 23), "shard-000002": ("val", 7)}


def write_dataset(dst, encoding="float16", crop="none"):
    """Write three shards whose third input each failed; widths and heights differ from set to set."""
    rng, marks, first = np.random.default_rng(0), [], 0
    dst.mkdir(exist_ok=True)
    for name, (split, count) in SHARDS.items():
        sets = rng.uniform(0.1, 1.0, (count, N, NUM_FIELDS)).astype(np.float32)
        labels = rng.integers(0, 2, count)
        rows = [
            Row(
                f"{name}/{i}", split, label, "ab"[label], "x", 30 + i, 20, 25.0, "ok", None, name, i, "0" * 64
            )
            for i, label in enumerate(labels.tolist())
        ]
        rows.insert(2, Row(f"{name}/bad", split, 0, "a", "x", 9, 9, None, "failed", "torn", name, None, None))
        block = BlockArrays(first, encode(sets, encoding, SIZE), labels)
        first += 256
        marks.append(
            commit_shard(dst, name, [block], rows, split=split, attempt="t", still_ours=lambda: True)
        )
    tables = [read_rows(dst, mark) for mark in marks]
    fit = FitInfo("default", 200, 0, crop, 1)
    about = {"gaussians": N, "size": SIZE, "encoding": encoding, "fit": fit, "classes": ["a", "b"]}
    write_manifest(dst, build_manifest(**about, marks=marks, tables=tables))
    return open_dataset(dst)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dataset") / "shards")


def samples_of(batches) -> list[int]:
    return [sample for batch in batches for sample in batch.indices.tolist()]


def assert_same(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name in ("gaussians", "labels", "indices", "aspect"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert (one.partner is None) == (other.partner is None)
        if one.partner is not None:
            assert_same([one.partner], [other.partner])


@pytest.mark.parametrize("cache", ["memory", "mmap", "auto"])
@pytest.mark.parametrize("encoding", ["float16", "float32"])
def test_a_batch_holds_what_the_dataset_holds(tmp_path, cache, encoding):
    dataset = write_dataset(tmp_path / "shards", encoding).split("train")
    batches = list(SetLoader(dataset, batch_size=8, cache=cache, partners=True).epoch(0))
    width = np.concatenate([np.arange(30, 60), np.arange(30, 53)])
    for batch in (*batches, *(batch.partner for batch in batches)):
        assert len(batch) == 8
        indices = batch.indices.numpy()
        assert batch.gaussians.dtype == torch.float32
        assert np.array_equal(batch.gaussians.numpy(), dataset.gaussians(indices))
        assert np.array_equal(batch.labels.numpy(), dataset.labels[indices])
        assert np.array_equal(batch.aspect.numpy(), (width[indices] / 20).astype(np.float32))


def test_partners_are_others_in_each_epoch(dataset):
    def met(epoch):
        batches = SetLoader(dataset, batch_size=10, partners=True).epoch(epoch)
        return {
            pair for b in batches for pair in zip(b.indices.tolist(), b.partner.indices.tolist(), strict=True)
        }

    assert len(met(0)) == 60
    assert len(met(0) & met(1)) < 12


def test_training_shuffles_and_drops_only_the_last_partial_global_batch(dataset):
    loader = SetLoader(dataset, batch_size=8)
    epochs = [samples_of(loader.epoch(epoch)) for epoch in range(2)]
    assert [len(epoch) for epoch in epochs] == [56, 56]
    assert loader.steps_per_epoch == 7
    assert all(len(set(epoch)) == 56 for epoch in epochs)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_number_of_ranks_sees_the_same_global_batches(dataset, world_size):
    def global_batches(world_size):
        loaders = [
            SetLoader(dataset, batch_size=12 // world_size, rank=rank, world_size=world_size, partners=True)
            for rank in range(world_size)
        ]
        return list(zip(*(loader.epoch(1) for loader in loaders), strict=True))

    alone, shared = global_batches(1), global_batches(world_size)
    assert [samples_of(step) for step in shared] == [samples_of(step) for step in alone]
    partners = [samples_of(batch.partner for batch in step) for step in shared]
    assert partners == [samples_of([batch.partner]) for (batch,) in alone]


@given(st.integers(0, 5), st.integers(1, 3), st.booleans())
def test_a_resumed_epoch_goes_on_exactly_also_on_other_ranks(dataset, steps, world_size, partners):
    options = {"batch_size": 12, "seed": 3, "partners": partners}
    whole = list(SetLoader(dataset, **options).epoch(4))
    assert_same(SetLoader(dataset, **options).epoch(4, samples_seen=12 * steps), whole[steps:])
    options["batch_size"] = 12 // world_size
    shares = [
        SetLoader(dataset, **options, rank=rank, world_size=world_size).epoch(4, samples_seen=12 * steps)
        for rank in range(world_size)
    ]
    resumed = [samples_of(step) for step in zip(*shares, strict=True)]
    assert resumed == [samples_of([batch]) for batch in whole[steps:]]


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_takes_every_sample_once_in_order(dataset, world_size):
    part = dataset.split("val")
    loaders = [
        SetLoader(part, batch_size=2, rank=rank, world_size=world_size, shuffle=False)
        for rank in range(world_size)
    ]
    shares = [list(loader.epoch(0)) for loader in loaders]
    assert [len(share) for share in shares] == [loader.steps_per_epoch for loader in loaders]
    assert [sample for share in shares for sample in samples_of(share)] == list(range(7))


def test_more_ranks_than_samples_leave_some_without_any_in_evaluation(dataset):
    part = dataset.split("val")
    loaders = [SetLoader(part, batch_size=2, rank=rank, world_size=9, shuffle=False) for rank in range(9)]
    assert sorted(sample for loader in loaders for sample in samples_of(loader.epoch(0))) == list(range(7))


@pytest.mark.parametrize("cache", ["memory", "mmap"])
def test_batches_do_not_depend_on_how_many_are_read_at_once(dataset, cache, monkeypatch):
    many = SetLoader(dataset, batch_size=3, cache=cache, partners=True).epoch(0)
    first = next(many)
    monkeypatch.setattr(loader_module, "READ_BYTES", 1)
    one_by_one = list(SetLoader(dataset, batch_size=3, cache=cache, partners=True).epoch(0))
    assert_same([first, *many], one_by_one)


def test_an_encoding_that_is_no_float_is_decoded(tmp_path, monkeypatch):
    def pack(sets, _size):
        return np.round(sets * 200).astype("u1")

    def unpack(stored, out):
        np.divide(stored, np.float32(200), out=out)

    bytewise = Encoding("bytes", np.dtype("u1"), NUM_FIELDS, None, pack, unpack)
    monkeypatch.setitem(ENCODINGS, "bytes", bytewise)
    dataset = write_dataset(tmp_path / "shards", "bytes")
    for cache in ("memory", "mmap"):
        batches = list(SetLoader(dataset, batch_size=60, cache=cache).epoch(0))
        assert np.array_equal(batches[0].gaussians, dataset.gaussians(batches[0].indices.numpy()))


def test_a_centre_crop_has_the_aspect_of_a_square(tmp_path):
    dataset = write_dataset(tmp_path / "shards", crop="center")
    (batch,) = SetLoader(dataset, batch_size=60).epoch(0)
    assert torch.equal(batch.aspect, torch.ones(60))


def test_the_cache_is_memory_only_where_it_fits_easily_for_all_ranks(dataset, monkeypatch):
    needed = loader_module.stored_bytes(dataset)
    assert needed == 60 * N * NUM_FIELDS * 2
    monkeypatch.setattr(loader_module, "free_memory", lambda: 4 * 2 * needed)
    assert isinstance(loader_module.open_sets(dataset, "auto", ranks=2), loader_module.MemorySets)
    assert isinstance(loader_module.open_sets(dataset, "auto", ranks=3), loader_module.MappedSets)
    assert isinstance(loader_module.open_sets(dataset, "memory", ranks=3), loader_module.MemorySets)


def test_a_container_limits_the_free_memory(tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 900 kB\nMemAvailable: 500 kB\n")
    monkeypatch.setattr(cores, "MEMINFO", meminfo)
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    assert cores.free_memory() == 500 * 1024
    (tmp_path / "memory.current").write_text("1000\n")
    for limit, free in (("max\n", 500 * 1024), ("3000\n", 2000), ("900\n", 0)):
        (tmp_path / "memory.max").write_text(limit)
        assert cores.free_memory() == free
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 200\ninactive_file 700\nactive_file 100\n")
    assert cores.free_memory() == 2700
    meminfo.unlink()
    (tmp_path / "memory.max").unlink()
    assert cores.free_memory() > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch-size must be at least 1, not 0"),
        ({"batch_size": 1, "rank": 2, "world_size": 2}, "rank must be from 0 to world_size - 1, not 2 of 2"),
        ({"batch_size": 61}, "choose --batch-size 60 or less"),
        ({"batch_size": 31, "world_size": 2}, "choose --batch-size 60 or less"),
        ({"batch_size": 1, "world_size": 61}, "one batch of 61: start fewer ranks"),
        ({"batch_size": 8, "cache": "disk"}, "cache must be auto, memory or mmap, not 'disk'"),
    ],
)
def test_arguments_that_cannot_be_are_refused_in_one_sentence(dataset, options, words):
    with pytest.raises(GvitError, match=words):
        SetLoader(dataset, **options)


@pytest.mark.parametrize(("shuffle", "seen"), [(True, -1), (True, 61), (False, 1)])
def test_a_place_outside_of_the_epoch_is_refused_at_once(dataset, shuffle, seen):
    loader = SetLoader(dataset, batch_size=8, shuffle=shuffle)
    with pytest.raises(GvitError, match=f"samples_seen cannot be {seen}"):
        loader.epoch(0, samples_seen=seen)


def test_an_empty_dataset_is_refused(tmp_path):
    dst = tmp_path / "shards"
    dst.mkdir()
    row = Row("a", "train", -1, None, "x", None, None, None, "failed", "torn", "shard-000000", None, None)
    mark = commit_shard(dst, "shard-000000", [], [row], split="train", attempt="t", still_ours=lambda: True)
    about = {
        "gaussians": N,
        "size": SIZE,
        "encoding": "float16",
        "fit": FitInfo("default", 200, 0, "none", 1),
    }
    manifest = build_manifest(**about, classes=[], marks=[mark], tables=[read_rows(dst, mark)])
    write_manifest(dst, manifest)
    with pytest.raises(GvitError, match="has no sets to load"):
        SetLoader(open_dataset(dst), batch_size=1, shuffle=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gets_the_same_batches(dataset):
    options = {"batch_size": 8, "partners": True}
    for on_gpu, here in zip(
        list(SetLoader(dataset, device="cuda", **options).epoch(0)),
        SetLoader(dataset, **options).epoch(0),
        strict=True,
    ):
        assert on_gpu.gaussians.is_cuda
        assert torch.equal(on_gpu.gaussians.cpu(), here.gaussians)
        assert torch.equal(on_gpu.partner.gaussians.cpu(), here.partner.gaussians)
