"""Whatever the files hold, reading them ends with sets of the right shape, or with a DatasetError."""

import contextlib
import io
import json
import os
import pickle
import shutil
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gvit.dataset.reader import open_dataset
from gvit.dataset.verify import verify
from gvit.schemas import ROW_SCHEMA, DatasetError, read_manifest
from gvit.schemas.checksums import SUMS_NAME, hash_file, parse_checksums
from gvit.schemas.rows import parse_rows

V1 = Path(__file__).parent / "data" / "v1"
NAMES = sorted(path.name for path in V1.iterdir())
FILES = {name: (V1 / name).read_bytes() for name in NAMES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shutil.copytree(V1, tmp_path_factory.mktemp("fuzz") / "v1")


@pytest.fixture(autouse=True)
def untouched(folder):
    yield
    for name, data in FILES.items():
        (folder / name).write_bytes(data)


def read_all(folder):
    """Read as users do; the only error that may come out is our own."""
    try:
        dataset = open_dataset(folder)
        sets = dataset.gaussians(slice(None))
        assert sets.shape == (len(dataset), dataset.manifest.gaussians, 9)
        assert sum(len(labels) for _, _, labels in dataset.blocks()) == len(dataset)
        assert len(dataset.keys) == len(dataset.labels) == len(dataset)
        return dataset
    except DatasetError:
        return None


def forgive(folder, shard="shard-000000"):
    """Make the recorded lengths and checksums of a shard those of its files."""
    mark = json.loads((folder / f"{shard}.json").read_bytes())
    for name in mark["files"]:
        mark["files"][name] = {
            "bytes": (folder / name).stat().st_size,
            "sha256": hash_file(folder / name),
        }
    (folder / f"{shard}.json").write_text(json.dumps(mark))
    manifest = json.loads((folder / "dataset.json").read_bytes())
    manifest["shards"][0] |= mark["files"][f"{shard}.tar"]
    (folder / "dataset.json").write_text(json.dumps(manifest))


@st.composite
def damages(draw, name):
    """Draw what may happen to the bytes of a file: flips, a cut, or something put in."""
    data = bytearray(FILES[name])
    for _ in range(draw(st.integers(0, 8))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    end = draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))
    place = draw(st.integers(0, end))
    return bytes(data[:place]) + draw(st.binary(max_size=20)) + bytes(data[place:end])


@settings(max_examples=60)
@given(st.data())
def test_damaged_files_are_read_right_or_refused(folder, data):
    name = data.draw(st.sampled_from(NAMES))
    (folder / name).write_bytes(data.draw(damages(name)))
    read_all(folder)
    verify(folder, deep=True)
    (folder / name).write_bytes(FILES[name])


@settings(max_examples=60)
@given(damages("shard-000000.tar"))
def test_a_damaged_tar_with_true_checksums_is_read_or_refused(folder, damaged):
    (folder / "shard-000000.tar").write_bytes(damaged)
    forgive(folder)
    read_all(folder)
    verify(folder, deep=True)
    for name in ("shard-000000.json", "dataset.json"):
        (folder / name).write_bytes(FILES[name])


@settings(max_examples=60)
@given(damages("shard-000000.parquet"))
def test_damaged_parquet_with_true_checksums_is_read_or_refused(folder, damaged):
    (folder / "shard-000000.parquet").write_bytes(damaged)
    forgive(folder)
    read_all(folder)
    verify(folder, deep=True)
    for name in ("shard-000000.json", "dataset.json"):
        (folder / name).write_bytes(FILES[name])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places_of(document, path=()):
    """Return the path of every value in a JSON document."""
    if not isinstance(document, dict | list):
        return [path]
    inner = document.items() if isinstance(document, dict) else enumerate(document)
    return [path, *(place for key, value in inner for place in places_of(value, (*path, key)))]


def replaced(document, path, value):
    if not path:
        return value
    copy = json.loads(json.dumps(document))
    at = copy
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return copy


@pytest.mark.parametrize("name", ["dataset.json", "shard-000000.json"])
@settings(max_examples=60)
@given(data=st.data())
def test_any_value_in_any_place_of_the_json_is_read_or_refused(folder, name, data):
    document = json.loads(FILES[name])
    place = data.draw(st.sampled_from(places_of(document)))
    (folder / name).write_text(json.dumps(replaced(document, place, data.draw(VALUES))))
    read_all(folder)
    verify(folder, deep=True)


@settings(max_examples=60)
@given(st.binary(max_size=200) | damages(SUMS_NAME))
@example(b"\x85")  # a line break for some readers, not for sha256sum
@example(b"\n")
def test_checksums_are_read_or_refused(data):
    with contextlib.suppress(DatasetError):
        assert all(".." not in name for name in parse_checksums(data, "sums"))


@settings(max_examples=60)
@given(st.binary(max_size=300) | damages("shard-000001.parquet"))
def test_rows_are_read_or_refused(data):
    with contextlib.suppress(DatasetError):
        assert parse_rows(data, Path("rows")).schema.equals(ROW_SCHEMA)


# ---------------------------------------------------------------- hostile tar members


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def npy(array, allow_pickle=False):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def npy_claiming(shape, descr="<f2"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(12 * 24 * 18)


GOOD = np.zeros((12, 24, 9), "<f2")
HOSTILE = {
    "absolute path": {"name": "/tmp/x.gaussians.npy"},
    "parent folder": {"name": "../x.gaussians.npy"},
    "link": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
    "hard link": {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"},
    "device": {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
    "pipe": {"type": tarfile.FIFOTYPE},
    "pickle": {"data": npy(np.array([Bomb()], dtype=object), allow_pickle=True)},
    "bare pickle": {"data": pickle.dumps(Bomb())},
    "other type": {"data": npy(GOOD.astype("<f4"))},
    "big endian": {"data": npy(GOOD.astype(">f2"))},
    "fortran order": {"data": npy(np.asfortranarray(GOOD))},
    "other shape": {"data": npy(GOOD.reshape(24, 12, 9))},
    "huge shape": {"data": npy_claiming((1 << 40, 24, 9))},
    "overflowing shape": {"data": npy_claiming((1 << 62, 1 << 62, 9))},
    "negative shape": {"data": npy_claiming((-1, 24, 9))},
    "code for a shape": {"data": npy_claiming((12, 24, 9)).replace(b"(12, 24, 9)", b"exit(1)    ")},
    "huge member": {"size": 0o77777777777},
    "pax header": {"pax_headers": {"size": "99999999999"}},
}


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_hostile_members_are_refused_without_leaving_the_file(folder, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    fields = {"name": "00000000.gaussians.npy", "data": npy(GOOD), **HOSTILE[kind]}
    data = fields.pop("data")
    member = tarfile.TarInfo(fields.pop("name"))
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    head = member.tobuf(tarfile.PAX_FORMAT if "pax_headers" in fields else tarfile.GNU_FORMAT)
    tail = FILES["shard-000000.tar"][len(head) + len(data) :]
    (folder / "shard-000000.tar").write_bytes(head + data + tail)
    forgive(folder)
    tracemalloc.start()
    assert read_all(folder) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    assert list(tmp_path.iterdir()) == []
    assert any("no 00000000.gaussians.npy" in str(fault) for fault in verify(folder, deep=True).faults)


@pytest.mark.parametrize(("field", "value"), [("gaussians", 1 << 20), ("size", 1 << 16), ("images", 1 << 60)])
def test_huge_claims_of_the_manifest_allocate_nothing(folder, field, value):
    document = json.loads(FILES["dataset.json"])
    (folder / "dataset.json").write_text(json.dumps(document | {field: value}))
    tracemalloc.start()
    if field != "size":
        assert read_all(folder) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_links_and_pipes_in_place_of_files_are_refused_at_once(folder, tmp_path):
    pipe = folder / "shard-000001.tar"
    pipe.unlink()
    os.mkfifo(pipe)
    assert read_all(folder) is None
    pipe.unlink()


def test_deep_nesting_is_refused(folder):
    (folder / "dataset.json").write_text("[" * 100_000)
    with pytest.raises(DatasetError, match="is not valid JSON"):
        read_manifest(folder)
