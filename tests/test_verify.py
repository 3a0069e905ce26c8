import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import small_dataset as small
from gvit.commands.app import app
from gvit.dataset.commit import write_manifest
from gvit.dataset.reader import open_dataset
from gvit.dataset.verify import verify
from gvit.dataset.zarr.writer import convert_to_zarr
from gvit.schemas import ENCODINGS, ROW_SCHEMA, DatasetError, FileInfo, Row
from gvit.schemas.checksums import checksums_of, dump_checksums, hash_file
from gvit.schemas.documents import to_json
from gvit.schemas.manifest import read_done_mark, read_manifest
from gvit.schemas.rows import parquet_bytes, rows_to_table, table_to_rows

V1 = Path(__file__).parent / "data" / "v1"
FLIPS_PER_FILE = 40


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoded")
    small.save_images(folder / "src")
    small.encode_for_real(folder / "src", folder / "dst")
    return folder


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(V1, tmp_path / "v1")


def problems(dst, *, deep=True):
    return [str(fault) for fault in verify(dst, deep=deep).faults]


def flip(path, position, bit):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def reseal(dst):
    """Make every recorded checksum true again, as someone would who wants a change to go unnoticed."""
    for path in sorted(dst.glob("shard-*.json")):
        mark = json.loads(path.read_bytes())
        for name in mark["files"]:
            data = (dst / name).read_bytes()
            mark["files"][name] = {"bytes": len(data), "sha256": hash_file(dst / name)}
        path.write_text(json.dumps(mark))
    manifest = json.loads((dst / "dataset.json").read_bytes())
    for shard in manifest["shards"]:
        tar = read_done_mark(dst, shard["name"]).tar
        shard |= {"bytes": tar.bytes, "sha256": tar.sha256}
    (dst / "dataset.json").write_text(json.dumps(manifest))
    sums = checksums_of(dst, read_manifest(dst)) | {"dataset.json": hash_file(dst / "dataset.json")}
    (dst / "SHA256SUMS").write_bytes(dump_checksums(sums))


def change_rows(dst, shard, change):
    path = dst / f"{shard}.parquet"
    rows = [_fields(row) for row in table_to_rows(pq.read_table(path))]
    changed = [Row(**change(i, row)) for i, row in enumerate(rows)]
    psnr = pa.array([row.psnr for row in changed], pa.float64())  # as it is, not cut off at 100
    path.write_bytes(parquet_bytes(rows_to_table(changed).set_column(7, ROW_SCHEMA.field(7), psnr)))
    reseal(dst)


def _fields(row):
    return {name: getattr(row, name) for name in Row.__slots__}


# ---------------------------------------------------------------- sound datasets


def test_what_the_encoder_writes_has_no_fault(encoded):
    found = verify(encoded / "dst", deep=True)
    assert found.faults == ()
    assert (found.images, found.deep) == (12, True)
    assert found.files == len(small.files_of(encoded / "dst"))


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_a_dataset_of_every_encoding_has_no_fault(tmp_path, encoding):
    small.write_small(tmp_path, encoding=encoding)
    assert problems(tmp_path) == []


def test_a_dataset_without_classes_has_no_fault(tmp_path):
    small.write_small(tmp_path, classes=())
    assert problems(tmp_path) == []


@pytest.fixture(params=["zarr alone", "tars and zarr"])
def arrays(request, copy):
    convert_to_zarr(open_dataset(copy), copy)
    if request.param == "zarr alone":
        for tar in copy.glob("*.tar"):
            tar.unlink()
    write_manifest(copy, read_manifest(copy))
    return copy


def test_arrays_have_no_fault(arrays):
    assert problems(arrays) == []


# ---------------------------------------------------------------- tampering


def test_one_flipped_bit_anywhere_in_the_arrays_is_found(arrays):
    rng = np.random.default_rng(0)
    for path in sorted(path for path in (arrays / "gaussians.zarr").rglob("*") if path.is_file()):
        data = path.read_bytes()
        name = path.relative_to(arrays).as_posix()
        for position in rng.integers(0, len(data), 8).tolist():
            flip(path, position, int(rng.integers(8)))
            assert any(name in problem for problem in problems(arrays)), f"{name}, byte {position}"
            path.write_bytes(data)
    assert problems(arrays) == []


@pytest.mark.parametrize(
    "name", ["gaussians/c/0/0/0", "label/c/0", "key_utf8/c/0/0", "key/c/0", "key/zarr.json"]
)
def test_arrays_that_are_not_those_of_the_shards_are_found_even_with_true_checksums(arrays, name):
    flip(arrays / "gaussians.zarr" / name, 3, 0)
    write_manifest(arrays, read_manifest(arrays))
    assert any(problem.startswith("gaussians.zarr: ") for problem in problems(arrays))


def test_a_missing_array_needs_no_deep_look(arrays):
    (arrays / "gaussians.zarr" / "gaussians" / "c" / "0" / "0" / "0").unlink()
    assert problems(arrays, deep=False) == [
        "gaussians.zarr/gaussians/c/0/0/0: is missing: SHA256SUMS lists it"
    ]


@pytest.mark.parametrize("name", sorted(path.name for path in V1.iterdir()))
def test_one_flipped_bit_anywhere_is_found(copy, name):
    path = copy / name
    data = path.read_bytes()
    rng = np.random.default_rng(len(data))
    ends = [0, len(data) - 1]
    for position in ends + rng.integers(0, len(data), FLIPS_PER_FILE).tolist():
        flip(path, position, int(rng.integers(8)))
        found = problems(copy)
        assert found, f"byte {position}"
        assert name == "SHA256SUMS" or any(name in problem for problem in found)
        path.write_bytes(data)
    assert problems(copy) == []


@pytest.mark.parametrize("name", sorted(path.name for path in V1.iterdir()))
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "longer", "folder"])
def test_a_damaged_file_is_named(copy, name, damage):
    path = copy / name
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "cut": data[:-1], "longer": data + b"\n"}[damage])
    assert any(problem.startswith(f"{name}: ") for problem in problems(copy))


@pytest.mark.parametrize("damage", ["missing", "cut"])
@pytest.mark.parametrize("name", ["shard-000001.tar", "shard-000001.parquet", "shard-000001.json"])
def test_files_and_lengths_need_no_deep_look(copy, name, damage):
    data = (copy / name).read_bytes()
    (copy / name).unlink()
    if damage == "cut":
        (copy / name).write_bytes(data[:-1])
    assert any(problem.startswith(f"{name}: ") for problem in problems(copy, deep=False))


def test_every_fault_is_named_not_only_the_first(copy):
    for name in ("shard-000000.tar", "shard-000001.parquet", "README.md"):
        flip(copy / name, 100, 1)
    (copy / "shard-000002.json").unlink()
    text = "\n".join(problems(copy))
    for name in ("shard-000000.tar", "shard-000001.parquet", "README.md", "shard-000002.json"):
        assert re.search(f"^{name}: ", text, re.MULTILINE)


def test_shards_that_change_places_are_found(copy):
    a, b, c = (copy / f"shard-00000{n}.tar" for n in (0, 1, "x"))
    a.rename(c), b.rename(a), c.rename(b)
    assert {p.partition(":")[0] for p in problems(copy)} >= {"shard-000000.tar", "shard-000001.tar"}


def test_a_shard_that_the_manifest_does_not_list_is_found(copy):
    shutil.copy(copy / "shard-000000.tar", copy / "shard-000009.tar")
    assert problems(copy, deep=False) == ["shard-000009.tar: is not of a shard that dataset.json lists"]


def test_blocks_that_cannot_lie_where_they_should_need_no_deep_look(copy):
    manifest = json.loads((copy / "dataset.json").read_bytes())
    (copy / "dataset.json").write_text(json.dumps(manifest | {"gaussians": 100}))
    write_manifest(copy, read_manifest(copy))
    found = problems(copy, deep=False)
    assert [problem.partition(":")[0] for problem in found] == [f"shard-00000{n}.tar" for n in range(3)]
    assert "block 0 cannot be at byte" in found[0]


# ---------------------------------------------------------------- changes with true checksums


def gaussians_of(dst, shard, row):
    """Return where the set of a row of a shard begins in its tar file, and its bytes."""
    manifest = read_manifest(dst)
    begin = read_done_mark(dst, shard).blocks[0].gaussians_offset
    length = manifest.gaussians * 18
    return begin + row * length, length


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        (0, np.nan, r"row 3: x = nan is not in \[-1, 1\]"),
        (1, 1.5, r"row 3: y = 1.5 is not in \[-1, 1\]"),
        (2, np.inf, "row 3: sx = inf is not in"),
        (3, 0.001, "row 3: sy = 0.001.* is not in"),
        (4, 3.0, "row 3: theta = 3 is not in"),
        (5, 9.0, "row 3: r = 9 is not in"),
        (8, 0.0, "row 3: opacity = 0 is not in"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_row(copy, field, value, sentence):
    path = copy / "shard-000000.tar"
    begin, length = gaussians_of(copy, "shard-000000", 5)
    data = bytearray(path.read_bytes())
    one = np.frombuffer(data, "<f2", length // 2, begin).reshape(-1, 9)
    one[3, field] = value
    path.write_bytes(data)
    reseal(copy)
    (problem,) = problems(copy)
    key = open_dataset(copy).keys[5]
    assert re.fullmatch(f"shard-000000.tar, row 5: in the set of {key}, {sentence}.*", problem)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"key": "Upper.Case"}, "the key 'Upper.Case' is not of lower-case letters"),
        ({"label": 0, "class_name": "photo"}, "the class of .* is 'photo' where its label is 0"),
        ({"width": None}, "the size of .* is None x "),
        ({"height": 0}, "the size of .* is .* x 0"),
        ({"psnr": 101.0}, "the psnr of .* is 101.0 dB"),
        ({"source_sha256": "abc"}, "the source_sha256 of .* is no SHA-256"),
        ({"error": "torn"}, ".* is ok and yet has an error"),
    ],
)
def test_a_row_that_cannot_be_is_named(copy, change, sentence):
    change_rows(copy, "shard-000000", lambda i, row: row | change if i == 2 else row)
    text = "\n".join(problems(copy))
    assert re.search(f"^shard-000000.parquet, row 2: {sentence}", text, re.MULTILINE)


def test_a_key_that_comes_twice_is_named(copy):
    first = open_dataset(copy).keys[0]
    change_rows(copy, "shard-000002", lambda i, row: row | {"key": first} if i == 4 else row)
    assert problems(copy) == [
        f"shard-000002.parquet, row 4: the key '{first}' is also that of shard-000000.parquet, row 0"
    ]


def test_rows_whose_labels_are_not_those_of_the_blocks_are_named(copy):
    label = open_dataset(copy).labels[1]
    other = {"label": 1 - min(label, 1), "class_name": ["eight", "one"][1 - min(label, 1)]}
    change_rows(copy, "shard-000000", lambda i, row: row | other if i == 1 else row)
    (problem,) = problems(copy)
    assert problem.startswith("shard-000000.tar, row 1: the label of ")


def test_a_manifest_that_is_not_the_sum_of_its_rows_is_named(copy):
    change_rows(copy, "shard-000000", lambda i, row: row | {"psnr": 11.0} if i == 1 else row)
    assert problems(copy) == ["dataset.json: its psnr is not that of the rows"]


def test_a_done_mark_of_another_commit_is_named(copy):
    mark = read_done_mark(copy, "shard-000000")
    files = {**mark.files, "shard-000000.tar": FileInfo(mark.tar.bytes, "0" * 64)}
    changed = replace(mark, files=files)
    (copy / "shard-000000.json").write_bytes(to_json(changed))
    assert "shard-000000.json: is not the done mark that dataset.json lists" in problems(copy, deep=False)


# ---------------------------------------------------------------- against the originals, and the command


def run(*arguments):
    return CliRunner().invoke(app, ["verify", *map(str, arguments)], catch_exceptions=False)


def test_a_sample_rendered_again_has_the_recorded_psnr(encoded):
    done = run(encoded / "dst", "--deep", "--images", encoded / "src")
    assert (done.exit_code, "no fault" in done.stdout) == (0, True)


def test_sets_of_other_images_do_not_pass_for_these(encoded, tmp_path):
    dst = shutil.copytree(encoded / "dst", tmp_path / "dst")
    change_rows(dst, "shard-000000", lambda i, row: row | {"psnr": (row["psnr"] or 1) + 0.5 * (i == 1)})
    manifest = json.loads((dst / "dataset.json").read_bytes())
    rows = [row for row in open_dataset(dst).rows.to_pylist() if row["status"] == "ok"]
    values = np.array([row["psnr"] for row in rows])
    manifest["psnr"] = {
        "mean": round(float(values.mean()), 4),
        "median": round(float(np.median(values)), 4),
        "p5": round(float(np.percentile(values, 5)), 4),
    }
    (dst / "dataset.json").write_text(json.dumps(manifest))
    reseal(dst)
    done = run(dst, "--deep", "--images", encoded / "src")
    assert done.exit_code == 1
    assert re.search(r"^shard-000000.tar, row \d: the psnr of .* is .* dB where its row says", done.stdout)


def test_originals_that_are_gone_are_named(encoded, tmp_path):
    source = shutil.copytree(encoded / "src", tmp_path / "src")
    (source / "val" / "red" / "5.png").write_bytes(b"another file")
    (source / "val" / "blue" / "5.png").unlink()
    done = run(encoded / "dst", "--images", source, "--json")
    faults = json.loads(done.stdout.splitlines()[-1])["faults"]
    assert (done.exit_code, len(faults)) == (1, 2)


def test_the_command_names_faults_and_exits_with_1(copy):
    assert run(copy, "--deep").exit_code == 0
    flip(copy / "shard-000001.tar", 3000, 0)
    assert run(copy).exit_code == 0
    done = run(copy, "--deep", "--json")
    facts = json.loads(done.stdout.splitlines()[-1])
    assert done.exit_code == 1
    assert (facts["ok"], facts["deep"], facts["files"], facts["images"]) == (False, True, 12, 24)
    assert facts["faults"][0] == {
        "file": "shard-000001.tar",
        "row": None,
        "problem": "is damaged: its SHA-256 is not the recorded one",
    }
    assert "shard-000001.tar: is damaged" in run(copy, "--deep").stdout


def test_what_is_no_folder_cannot_be_checked(tmp_path):
    with pytest.raises(DatasetError, match="is not a folder"):
        verify(tmp_path / "nothing")
