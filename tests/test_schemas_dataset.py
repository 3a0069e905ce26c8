import gc
import io
import json
import os
import pickle
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvit.dataset.commit import commit_shard, write_manifest
from gvit.dataset.open_shard import read_rows
from gvit.dataset.reader import open_dataset
from gvit.schemas import BlockArrays, DatasetError, FitInfo, GvitError, Row, build_manifest, decode
from gvit.schemas.documents import to_json

SHARDS = {
    "shard-000000": ("train", [3, 256]),
    "shard-000001": ("train", [5]),
    "shard-000002": ("val", [4, 1]),
}
CLASSES = ["ant", "bee", "cat"]
FIT = FitInfo("default", 200, 0, "none", 1)
N = 7


def write_dataset(dst: Path) -> np.ndarray:
    """Write three shards with a failed row at the end of each; return all sets as stored, in order."""
    rng, marks, sets, first = np.random.default_rng(0), [], [], 0
    for name, (split, counts) in SHARDS.items():
        blocks, rows = [], []
        for count in counts:
            stored = rng.random((count, N, 9)).astype("<f2")
            blocks.append(BlockArrays(first, stored, rng.integers(0, 3, count)))
            sets.append(stored)
            first += 256
        for label in np.concatenate([block.labels for block in blocks]).tolist():
            n = len(rows)
            values = (f"{name[-1]}/{n}", split, label, CLASSES[label], f"{n}.png", 40, 30, 25.0, "ok", None)
            rows.append(Row(*values, name, n, "0" * 64))
        rows.append(
            Row(f"{name}-bad", split, 0, "ant", "x", None, None, None, "failed", "torn", name, None, None)
        )
        marks.append(commit_shard(dst, name, blocks, rows, split=split, attempt="t", still_ours=lambda: True))
    tables = [read_rows(dst, mark) for mark in marks]
    arguments = {"gaussians": N, "size": 32, "encoding": "float16", "fit": FIT, "classes": CLASSES}
    write_manifest(dst, build_manifest(**arguments, marks=marks, tables=tables))
    return np.concatenate(sets)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    dst = tmp_path_factory.mktemp("dataset")
    return dst, write_dataset(dst)


@pytest.fixture
def fresh(tmp_path):
    write_dataset(tmp_path)
    return tmp_path


def edit_json(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_the_tar_is_plain_ustar_without_times_and_owners(written):
    dst, _ = written
    data = (dst / "shard-000000.tar").read_bytes()
    assert len(data) % 10240 == 0
    assert data[257:265] == b"ustar\x0000"
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.pax_headers == {}
        members = tar.getmembers()
    assert [member.name for member in members] == [
        *("00000000.gaussians.npy", "00000000.label.npy"),
        *("00000256.gaussians.npy", "00000256.label.npy"),
    ]
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
        assert (member.mode, member.type, member.pax_headers) == (0o644, tarfile.REGTYPE, {})
    ends = [(m.offset_data + m.size + 511) // 512 * 512 for m in members]
    assert [member.offset for member in members] == [0, *ends[:-1]]
    assert not any(data[ends[-1] :])


def test_offsets_point_to_the_data_of_each_array(written):
    dst, sets = written
    first = json.loads((dst / "shard-000000.json").read_text())["blocks"][0]
    assert first == {"first": 0, "rows": 3, "gaussians_offset": 640, "labels_offset": 1664}
    place = 0
    for name in SHARDS:
        data = (dst / f"{name}.tar").read_bytes()
        for block in json.loads((dst / f"{name}.json").read_text())["blocks"]:
            at = block["gaussians_offset"]
            stored = np.frombuffer(data, "<f2", block["rows"] * N * 9, at).reshape(-1, N, 9)
            np.testing.assert_array_equal(stored, sets[place : place + block["rows"]])
            assert at % 64 == block["labels_offset"] % 64 == 0
            place += block["rows"]
    assert place == len(sets)


def test_each_member_is_a_version_1_npy_file(written):
    dst, sets = written
    with tarfile.open(dst / "shard-000000.tar") as tar:
        member = tar.extractfile("00000000.gaussians.npy").read()
        labels = tar.extractfile("00000256.label.npy").read()
    assert member[:8] == b"\x93NUMPY\x01\x00"
    np.testing.assert_array_equal(np.load(io.BytesIO(member), allow_pickle=False), sets[:3])
    assert np.load(io.BytesIO(labels), allow_pickle=False).dtype == np.dtype("<i8")


# webdataset leaves closing its files to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")
def test_the_webdataset_library_alone_reads_the_shards(written):
    dst, sets = written
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of what webdataset imports
        import webdataset

        names = [str(dst / f"{name}.tar") for name in SHARDS]
        samples = list(webdataset.WebDataset(names, shardshuffle=False, empty_check=False).decode())
    gc.collect()  # here, so that no other test is blamed for them
    assert [sample["__key__"] for sample in samples] == [f"{256 * i:08d}" for i in range(5)]
    np.testing.assert_array_equal(np.concatenate([sample["gaussians.npy"] for sample in samples]), sets)
    np.testing.assert_array_equal(
        np.concatenate([sample["label.npy"] for sample in samples]), open_dataset(dst).labels
    )


def test_pyarrow_alone_reads_the_rows(written):
    dst, sets = written
    table = pq.read_table([dst / f"{name}.parquet" for name in SHARDS])
    assert table["status"].to_pylist().count("ok") == len(sets)
    assert table["error"].to_pylist().count("torn") == 3
    rows = table.slice(0, 260)["row"].to_pylist()
    assert rows == [*range(259), None]


def test_samples_come_in_the_order_of_shards_then_rows(written):
    dst, sets = written
    dataset = open_dataset(dst)
    samples = list(dataset)
    assert len(samples) == len(dataset) == dataset.manifest.images == 269
    np.testing.assert_array_equal([sample.gaussians for sample in samples], decode(sets, "float16"))
    assert samples[0].gaussians.dtype == np.float32
    assert [sample.key for sample in samples] == dataset.keys
    assert [sample.label for sample in samples] == dataset.labels.tolist()
    assert dataset.keys[258:260] == ["0/258", "1/0"]
    assert (dataset.rows.num_rows, dataset.failures["key"].to_pylist()) == (272, [f"{n}-bad" for n in SHARDS])


def test_a_sample_is_found_by_index_by_slice_and_by_key(written):
    dst, sets = written
    dataset = open_dataset(dst)
    for index in (0, 2, 3, 258, 259, 268, -1, -269, np.int64(5)):
        key, gaussians, label = dataset[index]
        np.testing.assert_array_equal(gaussians, sets[index].astype(np.float32))
        assert (key, label) == (dataset.keys[index], dataset.labels[index])
        np.testing.assert_array_equal(dataset.by_key(key).gaussians, gaussians)
    assert [sample.key for sample in dataset[257:262]] == dataset.keys[257:262]
    assert [sample.key for sample in dataset[::-100]] == dataset.keys[::-100]
    for index in (269, -270):
        with pytest.raises(IndexError, match="out of range for 269 sets"):
            dataset[index]
    with pytest.raises(GvitError, match="no set with the key 'nobody'"):
        dataset.by_key("nobody")
    with pytest.raises(GvitError, match="torn"):
        dataset.by_key("shard-000001-bad")


@given(indices=st.lists(st.integers(-269, 268), max_size=20))
def test_many_sets_at_once_are_those_of_their_indices(written, indices):
    dst, sets = written
    dataset = open_dataset(dst)
    expected = sets[np.array(indices, dtype=int)]
    np.testing.assert_array_equal(dataset.stored(indices), expected)
    np.testing.assert_array_equal(dataset.gaussians(indices), expected.astype(np.float32))


def test_sets_can_be_read_into_memory_that_is_there(written):
    dst, sets = written
    dataset = open_dataset(dst)
    out = np.zeros((269, N, 9), np.float32)
    assert dataset.gaussians(slice(None), out=out) is out
    np.testing.assert_array_equal(out, sets.astype(np.float32))
    half = np.zeros((2, N, 9), np.float16)
    np.testing.assert_array_equal(dataset.stored([-1, 260], out=half), sets[[-1, 260]])
    for wrong in (out[:1], half, out[1:3].astype(np.float64), np.zeros((4, N, 9), np.float32)[::2]):
        with pytest.raises(ValueError, match="out must be contiguous float32"):
            dataset.gaussians([0, 1], out=wrong)


@given(st.slices(269))
def test_a_slice_of_sets_is_that_of_an_array(written, part):
    dst, sets = written
    np.testing.assert_array_equal(open_dataset(dst).gaussians(part), sets[part].astype(np.float32))


@pytest.mark.parametrize("wrong", [[0.5], [[0]], ["a"], 3, [True]])
def test_indices_that_are_no_integers_are_refused(written, wrong):
    with pytest.raises(TypeError, match="indices are"):
        open_dataset(written[0]).gaussians(wrong)


@pytest.mark.parametrize("outside", [[0, 269], [-270], np.array([2**63], dtype=np.uint64)])
def test_indices_out_of_range_are_refused(written, outside):
    with pytest.raises(IndexError, match="out of range"):
        open_dataset(written[0]).gaussians(outside)


def test_a_split_is_a_dataset_of_its_own(written):
    dst, sets = written
    dataset = open_dataset(dst)
    train, val = dataset.split("train"), dataset.split("val")
    assert (len(train), len(val)) == (264, 5)
    np.testing.assert_array_equal(val.gaussians(slice(None)), sets[264:].astype(np.float32))
    assert val.keys == dataset.keys[264:]
    assert val[0].key == val.by_key("2/0").key == "2/0"
    assert val.rows["split"].unique().to_pylist() == ["val"]
    with pytest.raises(GvitError, match="no set with the key"):
        val.by_key("0/0")
    with pytest.raises(GvitError, match="no split 'test': it has train, val"):
        dataset.split("test")


def test_a_dataset_travels_to_another_process(written):
    dst, _ = written
    val = pickle.loads(pickle.dumps(open_dataset(dst).split("val")))
    assert (len(val), val.keys[0]) == (5, "2/0")


def test_blocks_are_views_that_nobody_can_write_to(written):
    dst, sets = written
    blocks = list(open_dataset(dst).blocks())
    assert [block.start for block in blocks] == [0, 3, 259, 264, 268]
    np.testing.assert_array_equal(np.concatenate([block.gaussians for block in blocks]), sets)
    assert not any(block.gaussians.flags.writeable or block.gaussians.flags.owndata for block in blocks)


def test_a_folder_without_a_dataset_says_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match="is not a folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="holds no gvit dataset: make one with gvit encode"):
        open_dataset(tmp_path)
    (tmp_path / ".gvit").mkdir()
    with pytest.raises(DatasetError, match="not complete: run gvit encode again"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("dataset.json", "not complete: run gvit encode again"),
        ("shard-000001.json", "not complete .* run gvit encode again"),
        ("shard-000001.tar", "shard-000001.tar is missing"),
        ("shard-000001.parquet", "shard-000001.parquet is missing"),
    ],
)
def test_a_dataset_with_a_file_missing_says_what_to_run(fresh, name, sentence):
    (fresh / name).unlink()
    with pytest.raises(DatasetError, match=sentence):
        open_dataset(fresh)


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
@pytest.mark.parametrize("length", [0, 1, 600, -1, +1])
def test_a_file_of_another_length_is_refused(fresh, suffix, length):
    path = fresh / f"shard-000001.{suffix}"
    os.truncate(path, length if length not in (-1, 1) else path.stat().st_size + length)
    with pytest.raises(DatasetError, match=f"{suffix} has .* bytes"):
        open_dataset(fresh)


def test_a_flipped_bit_in_the_rows_is_found_on_opening(fresh):
    path = fresh / "shard-000001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="damaged"):
        open_dataset(fresh)


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


WRONG_ARRAYS = {
    "another type": npy(np.zeros((5, N, 9), "<f4")),
    "big-endian": npy(np.zeros((5, N, 9), ">f2")),
    "fortran order": npy(np.asfortranarray(np.zeros((5, N, 9), "<f2"))),
    "another shape": npy(np.zeros((5, 9, N), "<f2")),
    "objects": npy(np.full((5, N, 9), {}, dtype=object), allow_pickle=True),
    "a huge shape": npy(np.zeros((5, N, 9), "<f2")).replace(b"(5, 7, 9), }", b"(5, 7, 9999999999), }"),
    "no header": bytes(128),
}


@pytest.mark.parametrize("wrong", WRONG_ARRAYS)
def test_an_array_that_is_not_what_it_should_be_is_refused(fresh, wrong):
    with (fresh / "shard-000001.tar").open("r+b") as file:
        file.seek(512)
        file.write(WRONG_ARRAYS[wrong][:1000])
    assert_no_set_is_read(fresh)


@pytest.mark.parametrize("place", [0, 100, 130, 150, 257, 512, 530, 600, 1300])
def test_a_flipped_header_is_refused(fresh, place):
    path = fresh / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    if place < 640:
        assert_no_set_is_read(fresh)
    else:
        open_dataset(fresh).gaussians([260])  # inside the data: for gvit verify --deep to find


def assert_no_set_is_read(dst: Path) -> None:
    reads = [lambda ds: ds[260], lambda ds: ds.gaussians([0, 261]), list, lambda ds: list(ds.blocks())]
    for read in reads:
        with pytest.raises(DatasetError, match=r"shard-000001\.tar is damaged"):
            read(open_dataset(dst))


@pytest.mark.parametrize("offset", [0, 1, 639, 641, 704, 10239, 10240, 1 << 40, (1 << 63) - 1])
@pytest.mark.parametrize("name", ["gaussians_offset", "labels_offset"])
def test_an_offset_that_is_wrong_reads_nothing(fresh, name, offset):
    edit_json(fresh / "shard-000001.json", lambda mark: mark["blocks"][0].update({name: offset}))
    assert_no_set_is_read(fresh)


@pytest.mark.parametrize("gaussians", [1, N + 1, 1 << 40, (1 << 63) - 1])
def test_a_declared_size_is_never_allocated_before_it_is_checked(fresh, gaussians):
    edit_json(fresh / "dataset.json", lambda manifest: manifest.update(gaussians=gaussians))
    with pytest.raises(DatasetError, match=r"damaged|gaussians must be"):
        open_dataset(fresh).stored(slice(None))


def test_blocks_that_share_their_bytes_are_refused(fresh):
    path = fresh / "shard-000000.json"
    edit_json(path, lambda mark: mark["blocks"][1].update(gaussians_offset=640))
    with pytest.raises(DatasetError, match="damaged"):
        open_dataset(fresh)


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("dataset.json", {"schema_version": 2}, "schema version 2"),
        ("dataset.json", {"encoding": "float32"}, "damaged"),
        ("dataset.json", {"classes": ["ant"]}, "beyond the 1 classes"),
        ("dataset.json", {"images": "269"}, "the field images must be a whole number, not '269'"),
        ("shard-000000.json", {"schema_version": 7}, "schema version 7"),
        ("shard-000000.json", {"blocks": None}, "the field blocks must be a list, not None"),
        ("shard-000000.json", {"split": "val"}, "is not the one that dataset.json lists"),
        ("shard-000000.json", {"files": {}}, "the files of shard-000000 are"),
    ],
)
def test_a_document_that_disagrees_is_refused(fresh, file, change, sentence):
    edit_json(fresh / file, lambda document: document.update(change))
    with pytest.raises(DatasetError, match=sentence):
        open_dataset(fresh).gaussians([0])


def test_a_shard_committed_anew_waits_for_its_manifest(fresh):
    manifest = open_dataset(fresh).manifest
    edit_json(fresh / "shard-000002.json", lambda mark: mark["files"]["shard-000002.tar"].update(bytes=1))
    with pytest.raises(DatasetError, match="run gvit encode again"):
        open_dataset(fresh)
    assert to_json(manifest) == (fresh / "dataset.json").read_bytes()


def test_a_pipe_in_place_of_a_file_blocks_nobody(fresh):
    (fresh / "shard-000001.tar").unlink()
    os.mkfifo(fresh / "shard-000001.tar")
    with pytest.raises(DatasetError, match="not a regular file"):
        open_dataset(fresh)
