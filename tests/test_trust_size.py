"""Nothing takes more memory than what is decoded may, whatever a file claims, and however small it is."""

import contextlib
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gvit.dataset.open_shard import read_rows
from gvit.dataset.reader import open_dataset
from gvit.images.sources.parquet import ParquetSource
from gvit.schemas import DatasetError, GvitError, read_manifest
from gvit.schemas.manifest import read_done_mark
from gvit.schemas.parquet_pages import page_bytes
from gvit.schemas.rows import ROW_SCHEMA, parse_rows

from .hostile import change_json, make_true
from .small_dataset import write_small

MEGABYTE = 1 << 20


def peak_of(program, *arguments):
    """Run a program in a process of its own; return what it said, and its peak beyond its imports."""
    code = (
        "import resource, sys\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        f"{program}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    *said, last = done.stdout.splitlines()
    return "\n".join(said), int(last)


OPEN = """
from gvit.dataset.reader import open_dataset
from gvit.schemas import GvitError
import pyarrow.parquet, pyarrow.compute
before = peak()
try: open_dataset(sys.argv[1])
except GvitError as error: print(error)
print(peak() - before)
"""

SCAN = """
from pathlib import Path
from gvit.images.open import open_source
from gvit.images.sources.parquet import ParquetSource
before = peak()
try: print(len(open_source(Path(sys.argv[1])).scan().entries))
except Exception as error: print(error)
print(peak() - before)
"""


def expanding_rows(rows, length, column="class"):
    """Return a table of rows of which one column holds one long text over and over."""
    columns = {}
    for field in ROW_SCHEMA:
        if field.name == column:
            columns[field.name] = pa.DictionaryArray.from_arrays(
                pa.array([0] * rows, pa.int32()), pa.array(["x" * length])
            )
        elif field.type == pa.string():
            columns[field.name] = pa.DictionaryArray.from_arrays(
                pa.array([0] * rows, pa.int32()), pa.array(["a"])
            )
        else:
            columns[field.name] = pa.array([0] * rows, field.type)
    return pa.table(columns)


def as_parquet(table):
    sink = pa.BufferOutputStream()
    fields = [pa.field(f.name, table.schema.field(f.name).type, f.nullable) for f in ROW_SCHEMA]
    pq.write_table(
        table.cast(pa.schema(fields)), sink, use_dictionary=True, compression="zstd", store_schema=False
    )
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("column", ["class", "source", "key", "error"])
def test_rows_that_expand_are_refused_before_they_do(column):
    data = as_parquet(expanding_rows(30_000, 30_000, column))
    assert len(data) < 20_000
    before = pa.total_allocated_bytes()
    with pytest.raises(DatasetError, match="would take more than"):
        parse_rows(data, "x.parquet")
    assert pa.total_allocated_bytes() - before < MEGABYTE


def test_more_rows_than_there_can_be_are_refused():
    data = as_parquet(expanding_rows(3_000_000, 1))
    assert len(data) < MEGABYTE
    with pytest.raises(DatasetError, match=r"claims 3000000 rows|would take more"):
        parse_rows(data, "x.parquet")


def test_a_small_shard_cannot_make_a_dataset_large(tmp_path):
    write_small(tmp_path / "d", shards={"shard-000000": ("train", (3,))})
    (tmp_path / "d" / "shard-000000.parquet").write_bytes(as_parquet(expanding_rows(300_000, 30_000)))
    make_true(tmp_path / "d")
    said, peak = peak_of(OPEN, tmp_path / "d")
    assert "would take more than" in said
    assert peak < 200 * MEGABYTE


@settings(max_examples=30)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=40),
    dictionary=st.booleans(),
    group=st.integers(1, 50),
)
def test_honest_rows_come_back_whichever_way_they_are_written(texts, dictionary, group):
    rows = [
        {
            field.name: text if field.type == pa.string() else (1 if pa.types.is_integer(field.type) else 1.5)
            for field in ROW_SCHEMA
        }
        for text in texts
    ]
    table = pa.Table.from_pylist(rows, schema=ROW_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, use_dictionary=dictionary, row_group_size=group, store_schema=False)
    assert parse_rows(sink.getvalue().to_pybytes(), "x").equals(table)


def test_labels_that_expand_are_kept_once(tmp_path):
    rows = 40_000
    table = pa.table(
        {
            "image": pa.array([os.urandom(16) for _ in range(rows)], pa.binary()),
            "label": pa.DictionaryArray.from_arrays(
                pa.array([0] * rows, pa.int32()), pa.array(["x" * 200_000])
            ),
        }
    )
    pq.write_table(
        table, tmp_path / "a.parquet", use_dictionary=["label"], compression="zstd", store_schema=False
    )
    said, peak = peak_of(SCAN, tmp_path / "a.parquet")
    assert said == str(rows)
    assert peak < 300 * MEGABYTE


def test_labels_of_all_kinds_are_read_as_before(tmp_path):
    for name, values in {
        "numbers": [1, 0, None, 2],
        "texts": ["b", "a", None, "b"],
        "repeated": pa.array(["b", "a", None, "b"]).dictionary_encode(),
    }.items():
        table = pa.table({"image": pa.array([b"1"] * 4, pa.binary()), "label": values})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        entries = ParquetSource(tmp_path, (f"{name}.parquet",)).scan().entries
        assert [entry.label for entry in entries] == ([1, 0, -1, 2] if name == "numbers" else [1, 0, -1, 1])


def test_rows_of_a_true_dataset_are_what_they_were(tmp_path):
    write_small(tmp_path / "d")
    for shard in read_manifest(tmp_path / "d").shards:
        mark = read_done_mark(tmp_path / "d", shard.name)
        assert read_rows(tmp_path / "d", mark).equals(pq.read_table(tmp_path / "d" / f"{shard.name}.parquet"))
    assert len(open_dataset(tmp_path / "d")) == 269


# ---------------------------------------------------------------- models, and what is predicted


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from fake_sets import write_dataset
    from gvit.train.run.run import train
    from test_train_loop import SILENT, config_of

    folder = tmp_path_factory.mktemp("size")
    shards = write_dataset(folder / "d", {"train": 60, "val": 20})
    train(config_of(shards, folder / "run"), console=SILENT)
    return folder / "run"


@pytest.mark.parametrize(
    "claim",
    [{"depth": 10**7}, {"depth": 1000}, {"width": 65536, "heads": 64}, {"depth": None, "width": None}],
)
def test_a_config_that_claims_a_giant_is_refused_without_building_it(run, tmp_path, claim):
    import shutil

    import torch

    from gvit.train.run.trained import load_trained

    checkpoint = max((run / "checkpoints").iterdir())
    shutil.copytree(checkpoint, tmp_path / "c")

    def change(about):
        del about["files"]
        about["model"] |= {"name": "vit_giant_patch14_224", **claim}

    change_json(tmp_path / "c" / "about.json", change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(GvitError, match=r"another model|model\.depth|damaged"):
        load_trained(tmp_path / "c", torch.device("cpu"))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 400 * MEGABYTE


def test_predict_refuses_what_encode_refuses_and_stays_small(run, tmp_path):
    from gvit.images.decode_pool import DecodePool
    from gvit.train.ranks import pick_device
    from gvit.train.run.predicted import decode_files
    from gvit.train.run.trained import load_trained

    (tmp_path / "text.png").write_text("no image")
    Image.new("1", (16000, 16000)).save(tmp_path / "large.png", transparency=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = replace(load_trained(run, pick_device("cpu")).about.data, size=16)
    (text, large) = decode_files([tmp_path / "text.png", tmp_path / "large.png"], data)
    assert text.reason == "the file is not an image of a known format"
    with DecodePool(1, 16) as pool:
        (encoded,) = pool.prefetch([tmp_path / "large.png"]).result()
    assert large.reason == encoded.reason
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 200 * MEGABYTE
    assert json.loads((run / "checkpoints.json").read_text())["last"]


def chunks_of(metadata):
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    return [group.column(i) for group in groups for i in range(group.num_columns)]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 400),
    dictionary=st.booleans(),
    version=st.sampled_from(["1.0", "2.0"]),
    page=st.integers(16, 4096),
    compression=st.sampled_from(["zstd", "snappy", "none"]),
    statistics=st.booleans(),
    checksums=st.booleans(),
)
def test_lengths_of_pages_add_up_to_what_the_footer_says_of_an_honest_file(
    rows, dictionary, version, page, compression, statistics, checksums
):
    table = pa.table({"a": [f"{i % 7}-{i}" for i in range(rows)], "b": range(rows), "c": [None] * rows})
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        use_dictionary=dictionary,
        data_page_version=version,
        data_page_size=page,
        compression=compression,
        write_statistics=statistics,
        write_page_checksum=checksums,
        row_group_size=150,
    )
    data = sink.getvalue().to_pybytes()
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    headers = page_bytes(metadata, data)
    claimed = sum(chunk.total_uncompressed_size for chunk in chunks_of(metadata))  # with the headers
    assert 0 < headers <= claimed <= headers + 400 * (rows + 20)


def test_a_page_that_is_larger_than_the_footer_says_is_refused_before_it_is_read():
    """Zeros of one long text: the footer is made to lie, the page cannot."""
    table = expanding_rows(2, 200 * MEGABYTE)
    data = as_parquet(table)
    assert len(data) < MEGABYTE // 4
    before = pa.total_allocated_bytes()
    with pytest.raises(DatasetError, match=r"claims|much larger"):
        parse_rows(data, "x.parquet")
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    assert page_bytes(metadata, data) > 200 * MEGABYTE
    assert pa.total_allocated_bytes() - before < MEGABYTE


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_headers_of_pages_end_in_a_sentence_or_in_rows(data):
    whole = bytearray(as_parquet(expanding_rows(20, 10)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DatasetError):
        parse_rows(bytes(whole), "x.parquet")
