import contextlib
import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvit.schemas import (
    ROW_SCHEMA,
    Block,
    DatasetError,
    DoneMark,
    FileInfo,
    FitInfo,
    GvitError,
    Manifest,
    Row,
    build_manifest,
    read_done_mark,
    read_manifest,
    rows_to_table,
    table_to_rows,
)
from gvit.schemas.documents import from_json, to_json
from gvit.schemas.rows import check_rows, parquet_bytes, parse_rows

FIT = FitInfo("default", 200, 0, "none", 1)
SHA = "0123456789abcdef" * 4
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
HERE = Path("rows.parquet")


def a_mark(number: int = 0, split: str = "train", images: int = 3, failed: int = 1) -> DoneMark:
    name = f"shard-{number:06d}"
    files = {f"{name}.tar": FileInfo(10240, SHA), f"{name}.parquet": FileInfo(99, SHA)}
    blocks = (Block(256 * number, images, 640, 2048),) if images else ()
    return DoneMark(name=name, split=split, images=images, failed=failed, files=files, blocks=blocks)


def a_row(key: str = "a", **fields) -> Row:
    row = {
        "key": key,
        "split": "train",
        "label": 0,
        "class_name": "cat",
        "source": f"cat/{key}.png",
        "width": 40,
        "height": 30,
        "psnr": 27.5,
        "status": "ok",
        "error": None,
        "shard": "shard-000000",
        "row": 0,
        "source_sha256": SHA,
    }
    return Row(**(row | fields))


def a_manifest(*marks: DoneMark, psnr: tuple[float, ...] = (20.0, 30.0, 31.0)) -> Manifest:
    table = rows_to_table([a_row(str(i), psnr=value, row=i) for i, value in enumerate(psnr)])
    arguments = {"gaussians": 64, "size": 32, "encoding": "float16", "fit": FIT, "classes": ["cat", "dog"]}
    return build_manifest(**arguments, marks=marks or (a_mark(),), tables=[table])


DOCUMENTS = {"manifest": (Manifest, a_manifest()), "done mark": (DoneMark, a_mark())}


def test_the_manifest_has_the_names_the_order_and_the_layout_of_the_contract():
    manifest = a_manifest(a_mark(1, "val", 1, 0), a_mark(0))
    assert to_json(manifest).decode().startswith('{\n "schema_version": 1,\n "name": null,\n "images": 4,')
    assert to_json(manifest).endswith(b"}\n")
    assert json.dumps(json.loads(to_json(manifest))) == json.dumps(
        {
            "schema_version": 1,
            "name": None,
            "images": 4,
            "failed": 1,
            "gaussians": 64,
            "size": 32,
            "fields": ["x", "y", "sx", "sy", "theta", "r", "g", "b", "opacity"],
            "encoding": "float16",
            "render": {
                "rule": "over-unpremultiplied",
                "alpha_max": 0.999,
                "alpha_min": 0.00392156862745098,
                "transmittance_min": 0.0001,
                "epsilon": 0.01,
            },
            "fit": {"preset": "default", "steps": 200, "seed": 0, "crop": "none", "fit_version": 1},
            "label_informed": False,
            "classes": ["cat", "dog"],
            "splits": {"train": 3, "val": 1},
            "psnr": {"mean": 27.0, "median": 30.0, "p5": 21.0},
            "shards": [
                {
                    "name": f"shard-{i:06d}",
                    "split": split,
                    "images": images,
                    "failed": failed,
                    "bytes": 10240,
                    "sha256": SHA,
                }
                for i, split, images, failed in ((0, "train", 3, 1), (1, "val", 1, 0))
            ],
        }
    )


def test_the_done_mark_has_the_names_and_the_order_of_the_contract():
    assert json.dumps(json.loads(to_json(a_mark()))) == json.dumps(
        {
            "schema_version": 1,
            "name": "shard-000000",
            "split": "train",
            "images": 3,
            "failed": 1,
            "files": {
                "shard-000000.tar": {"bytes": 10240, "sha256": SHA},
                "shard-000000.parquet": {"bytes": 99, "sha256": SHA},
            },
            "blocks": [{"first": 0, "rows": 3, "gaussians_offset": 640, "labels_offset": 2048}],
        }
    )


@given(
    name=st.none() | TEXT,
    classes=st.sets(TEXT, max_size=5),
    shards=st.lists(st.tuples(st.sampled_from(["train", "val", "test"]), st.integers(0, 256)), max_size=5),
    psnr=st.lists(st.floats(0, 100), max_size=5),
)
def test_manifests_and_done_marks_survive_json_whatever_they_hold(name, classes, shards, psnr):
    marks = [a_mark(i, split, images) for i, (split, images) in enumerate(shards)]
    rows = rows_to_table([a_row(str(i), psnr=value) for i, value in enumerate(psnr)])
    manifest = build_manifest(
        gaussians=1,
        size=1,
        encoding="float32",
        fit=FIT,
        name=name,
        classes=sorted(classes),
        marks=marks,
        tables=[rows],
    )
    assert from_json(Manifest, to_json(manifest), schema_version=1) == manifest
    for mark in marks:
        assert from_json(DoneMark, to_json(mark), schema_version=1) == mark


@given(st.permutations(range(4)))
def test_the_manifest_does_not_depend_on_the_order_of_its_parts(order):
    marks = [a_mark(i) for i in range(4)]
    tables = [rows_to_table([a_row(psnr=0.1 * 3**i)]) for i in range(4)]
    arguments = {"gaussians": 64, "size": 32, "encoding": "float16", "fit": FIT, "classes": []}
    shuffled = build_manifest(
        **arguments, marks=[marks[i] for i in order], tables=[tables[i] for i in reversed(order)]
    )
    assert to_json(shuffled) == to_json(build_manifest(**arguments, marks=marks, tables=tables))


def test_a_dataset_without_a_set_has_no_psnr():
    assert a_manifest(a_mark(images=0, failed=2), psnr=()).psnr is None


def every_place(value, place=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in items:
        yield (*place, step)
        yield from every_place(inner, (*place, step))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_any_field_that_is_missing_or_mistyped_is_refused_by_name(name):
    kind, value = DOCUMENTS[name]
    document = json.loads(to_json(value))
    for place in every_place(document):
        for wrong in (..., [None], {"a": 1}, True, "text", -1, 0.5, 1 << 70, None):
            broken = copy.deepcopy(document)
            holder = broken
            for step in place[:-1]:
                holder = holder[step]
            if wrong is ... and isinstance(holder, dict):
                del holder[place[-1]]
            elif wrong is ...:
                continue
            else:
                holder[place[-1]] = wrong
            with contextlib.suppress(DatasetError):
                parsed = from_json(kind, json.dumps(broken).encode(), schema_version=1)
                assert json.loads(to_json(parsed)) == broken, (place, wrong)


@pytest.mark.parametrize(
    ("place", "wrong", "sentence"),
    [
        (("images",), "3", r"the field images must be a whole number, not '3'"),
        (("images",), True, r"the field images must be a whole number, not True"),
        (("fit", "steps"), 2.5, r"the field fit.steps must be a whole number, not 2.5"),
        (("psnr", "mean"), "x", r"the field psnr.mean must be a number, not 'x'"),
        (
            ("shards", 0, "name"),
            "../shard",
            r"the field shards\[0\].name must be a shard's name \(shard-000000\), not '../shard'",
        ),
        (("schema_version",), 2, r"schema version 2 where this gvit reads version 1"),
        (("encoding",), "float8", "encoding 'float8' is unknown"),
        (("render", "epsilon"), 0.05, "blend rule"),
        (("images",), 4, "not the sums"),
        (("splits", "train"), 4, "splits are not those"),
        (("shards", 0, "sha256"), "xyz", "must be a SHA-256, not 'xyz'"),
    ],
)
def test_a_wrong_manifest_is_refused_in_one_sentence_that_names_file_and_field(
    tmp_path, place, wrong, sentence
):
    document = json.loads(to_json(a_manifest()))
    holder = document
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = wrong
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=f"dataset.json: .*{sentence}"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"images": NaN}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"1e999",
    ],
)
def test_what_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "dataset.json").write_bytes(text)
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        read_manifest(tmp_path)


def test_fields_that_a_later_writer_added_are_ignored():
    document = json.loads(to_json(a_mark())) | {"comment": "hello"}
    assert from_json(DoneMark, json.dumps(document).encode(), schema_version=1) == a_mark()


def test_a_done_mark_under_another_name_is_refused(tmp_path):
    (tmp_path / "shard-000001.json").write_bytes(to_json(a_mark(0)))
    with pytest.raises(DatasetError, match="done mark of shard-000000"):
        read_done_mark(tmp_path, "shard-000001")


OPTIONAL_TEXT = st.none() | TEXT
ROWS = st.builds(
    Row,
    **dict.fromkeys(("key", "split", "source", "status", "shard"), TEXT),
    **dict.fromkeys(("class_name", "error", "source_sha256"), OPTIONAL_TEXT),
    **dict.fromkeys(("width", "height", "row"), st.none() | st.integers(0, 2**31 - 1)),
    label=st.integers(-1, 2**40),
    psnr=st.none() | st.floats(-100, 100),
)


@given(st.lists(ROWS, max_size=6))
def test_rows_survive_parquet_with_the_same_bytes_each_time(rows):
    data = parquet_bytes(rows_to_table(rows))
    assert table_to_rows(parse_rows(data, HERE)) == rows
    assert parquet_bytes(parse_rows(data, HERE)) == data


def test_a_perfect_rendering_is_stored_with_a_finite_psnr():
    assert table_to_rows(rows_to_table([a_row(psnr=math.inf)]))[0].psnr == 100.0


def test_rows_are_plain_parquet_without_metadata_of_another_library(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(parquet_bytes(rows_to_table([a_row()])))
    table = pq.read_table(path)
    assert table.schema.equals(ROW_SCHEMA)
    assert not table.schema.metadata
    assert table.column_names == [
        *("key", "split", "label", "class", "source", "width", "height"),
        *("psnr", "status", "error", "shard", "row", "source_sha256"),
    ]


def test_a_name_that_is_no_unicode_is_refused_by_name():
    with pytest.raises(GvitError, match="rename"):
        rows_to_table([a_row(source="caf\udce9.png")])


@given(st.data())
def test_damaged_rows_are_refused_or_still_rows(data):
    good = parquet_bytes(rows_to_table([a_row(str(i)) for i in range(3)]))
    bad = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for place in data.draw(st.lists(st.integers(0, max(0, len(bad) - 1)), max_size=4)) if bad else ():
        bad[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(DatasetError):
        assert parse_rows(bytes(bad), HERE).schema.equals(ROW_SCHEMA)


def test_rows_that_would_decompress_to_far_more_than_the_file_are_refused():
    sink = pa.BufferOutputStream()
    huge = [a_row(source="x" * 50_000_000)]
    pq.write_table(rows_to_table(huge), sink, compression="zstd", use_dictionary=False, store_schema=False)
    with pytest.raises(DatasetError, match="claims"):
        parse_rows(sink.getvalue().to_pybytes(), HERE)


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        ({"row": 1}, "numbered in order"),
        ({"row": None}, "numbered in order"),
        ({"status": "done"}, "1 failed"),
        ({"shard": "shard-000001"}, "all are of shard-000000"),
        ({"split": "val"}, "split train"),
        ({"psnr": None}, "finite psnr"),
        ({"psnr": math.nan}, "finite psnr"),
        ({"label": -2}, "label"),
    ],
)
def test_rows_that_break_a_promise_are_refused(change, promise):
    failed = a_row("b", status="failed", error="no image", row=None, psnr=None, width=None, height=None)
    counts = {"shard": "shard-000000", "split": "train", "images": 1, "failed": 1, "path": HERE}
    check_rows(rows_to_table([a_row(), failed]), **counts)
    with pytest.raises(DatasetError, match=promise):
        check_rows(rows_to_table([a_row(**change), failed]), **counts)


def test_the_schemas_load_neither_torch_nor_ray_nor_numba():
    code = "import sys, gvit.schemas; print({'torch', 'ray', 'numba'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_psnr_summaries_are_plain_numbers():
    assert type(a_manifest().psnr.p5) is float
    assert a_manifest(psnr=tuple(np.linspace(20, 30, 101))[:3]).psnr.mean == 20.1
