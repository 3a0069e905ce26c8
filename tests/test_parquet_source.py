from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gvit.images.decode import Decoded, DecodeError
from gvit.images.decode_pool import MEMORY_LIMIT_BYTES, DecodeFailure, DecodePool
from gvit.images.open import locate, open_source
from gvit.images.reading import read_reference
from gvit.images.references import ParquetCell
from gvit.images.sources import parquet as parquet_source
from gvit.images.sources.parquet import ParquetSource
from gvit.pipeline.plan import make_plan
from gvit.schemas import GvitError
from packed_sources import DIGIT_NAMES, digit_files, write_digit_parquet, write_parquet

FILES, LABELS = digit_files(20)


def read_all(source, entries):
    return [read_reference(source.reference(entry)) for entry in entries]


def test_the_layout_of_the_hub_gives_images_with_splits_and_named_classes(tmp_path):
    source = open_source(write_digit_parquet(tmp_path, 40))
    assert isinstance(source, ParquetSource)
    listing = source.scan()
    files, labels = digit_files(40)
    assert listing.splits == {"train": 30, "val": 10}
    assert listing.classes == tuple(sorted(DIGIT_NAMES))
    assert [entry.class_name for entry in listing.entries] == [DIGIT_NAMES[label] for label in labels]
    assert all(listing.classes[entry.label] == entry.class_name for entry in listing.entries)
    assert read_all(source, listing.entries) == files
    assert listing.entries[0].source == "data/train-00000-of-00002.parquet/00000000"
    assert listing.entries[0].key == "data/train-00000-of-00002_parquet/00000000"


@pytest.mark.parametrize(
    ("labels", "classes", "first"),
    [
        ([3, 11, None, -1], tuple(f"{i:02d}" for i in range(12)), [3, 11, -1, -1]),
        (["cat", "dog", None, "cat"], ("cat", "dog"), [0, 1, -1, 0]),
        (None, (), [-1] * 4),
    ],
)
def test_labels_without_names_are_numbers_text_or_nothing(tmp_path, labels, classes, first):
    listing = open_source(write_parquet(tmp_path / "a.parquet", FILES[:4], labels)).scan()
    assert listing.classes == classes
    assert [entry.label for entry in listing.entries] == first


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("name", ["image", "img", "jpg"])
def test_a_plain_binary_column_serves_too(tmp_path, kind, name):
    pq.write_table(pa.table({"id": [1, 2], name: pa.array(FILES[:2], kind)}), tmp_path / "a.parquet")
    source = open_source(tmp_path)
    assert read_all(source, source.scan().entries) == FILES[:2]


def test_the_plan_keeps_a_row_group_together_and_shuffles_all_else(tmp_path):
    entries = (
        open_source(write_parquet(tmp_path / "a.parquet", FILES, LABELS, rows_in_group=5)).scan().entries
    )
    (shard,) = make_plan(entries, seed=0).shards
    groups = [entry.place[1] for entry in shard.entries]
    assert sorted(groups) == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert sum(a != b for a, b in pairwise(groups)) == 3
    assert [e.source for e in shard.entries if e.place[1] == 0] != sorted(
        e.source for e in shard.entries if e.place[1] == 0
    )
    (another,) = make_plan(entries, seed=1).shards
    assert [e.source for e in another.entries] != [e.source for e in shard.entries]


def test_the_image_of_a_row_is_found_again(tmp_path):
    write_parquet(tmp_path / "x/a.parquet", FILES, LABELS)
    assert read_reference(locate(tmp_path, "x/a.parquet/00000013")) == FILES[13]
    assert read_reference(locate(tmp_path / "x/a.parquet", "a.parquet/00000000")) == FILES[0]
    for nothing in ("x/a.parquet/00000020", "x/a.parquet/-1", "x/a.parquet/one", "x/a.parquet/" + "9" * 30):
        assert locate(tmp_path, nothing) is None


def test_missing_bytes_and_a_damaged_row_group_cost_their_images_only(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [*FILES[:7], None, *FILES[8:]], LABELS, rows_in_group=5)
    source = open_source(path)
    entries = source.scan().entries
    content = bytearray(path.read_bytes())
    chunk = pq.ParquetFile(path).metadata.row_group(2).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(content)
    with DecodePool(1, 8, memory_limit_bytes=MEMORY_LIMIT_BYTES + source.reading_bytes) as pool:
        outcomes = pool.prefetch([source.reference(entry) for entry in entries]).result()
    failed = {i: o.reason for i, o in enumerate(outcomes) if isinstance(o, DecodeFailure)}
    assert failed.pop(7) == "its row holds no bytes of an image"
    assert set(failed.values()) == {"the Parquet file that holds it is damaged"}
    assert set(failed) == {10, 11, 12, 13, 14}
    assert all(isinstance(o, Decoded) for i, o in enumerate(outcomes) if i not in {7, *failed})


def test_a_file_that_is_gone_or_another_one_is_a_failure_with_a_fixed_reason(tmp_path):
    with pytest.raises(DecodeError, match="it does not exist"):
        read_reference(ParquetCell(str(tmp_path / "no.parquet"), 0, 0))
    path = write_parquet(tmp_path / "a.parquet", FILES[:3], LABELS[:3])
    with pytest.raises(DecodeError, match="shorter than it was"):
        read_reference(ParquetCell(str(path), 0, 3))
    with pytest.raises(DecodeError, match="is damaged"):
        read_reference(ParquetCell(str(path), 1, 0))


def test_row_groups_that_are_too_large_are_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_source, "MAX_ROW_GROUP_BYTES", 1000)
    write_parquet(tmp_path / "a.parquet", FILES, LABELS, rows_in_group=20)
    with pytest.raises(GvitError, match="row_group_size=100"):
        open_source(tmp_path).scan()


@pytest.mark.parametrize(
    ("labels", "names", "sentence"),
    [
        ([0, 1, 5], ["a", "b"], "a label is 5 where there are 2 classes"),
        ([0, -7, 1], ["a", "b"], "a label is -7"),
        ([0, 2**40, 1], None, f"a label is {2**40}"),
    ],
)
def test_labels_without_a_class_are_refused(tmp_path, labels, names, sentence):
    write_parquet(tmp_path / "a.parquet", FILES[:3], labels, names)
    with pytest.raises(GvitError, match=sentence):
        open_source(tmp_path).scan()


def test_files_that_disagree_about_their_classes_are_refused(tmp_path):
    write_parquet(tmp_path / "a.parquet", FILES[:2], [0, 1], ["a", "b"])
    write_parquet(tmp_path / "b.parquet", FILES[:2], [0, 1], ["b", "a"])
    with pytest.raises(GvitError, match="name their classes differently"):
        open_source(tmp_path).scan()
    write_parquet(tmp_path / "b.parquet", FILES[:2], ["a", "b"])
    with pytest.raises(GvitError, match="numbers in some files and text in others"):
        open_source(tmp_path).scan()


def test_names_that_repeat_are_told_apart(tmp_path):
    write_parquet(tmp_path / "a.parquet", FILES[:3], [0, 1, 2], ["crane", "cat", "crane"])
    assert open_source(tmp_path).scan().classes == ("cat", "crane (0)", "crane (2)")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"text": ["a"]}, r"has no column of images \(there is text\)"),
        ({"a": [b"1"], "b": [b"2"]}, "has no column of images"),
        ({"image": [b"1"], "label": [1.5]}, "the column label holds double"),
        ({"image": pa.array([], pa.binary())}, "holds no image"),
    ],
)
def test_tables_of_something_else_are_refused(tmp_path, table, sentence):
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(GvitError, match=sentence):
        open_source(tmp_path).scan()


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\xff" * 100 + b"PAR1"])
def test_what_is_no_parquet_file_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(GvitError, match=r"a\.parquet cannot be used"):
        open_source(tmp_path).scan()


def rewrite_counts(path, before, after, places):
    """Replace a number in the footer, at these of the places where it stands."""
    content = path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    parts = content[start:-8].split(_varint(before))
    places = {place % (len(parts) - 1) for place in places}
    footer = parts[0]
    for place, part in enumerate(parts[1:]):
        footer += _varint(after if place in places else before) + part
    path.write_bytes(content[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1")


def _varint(number):
    """Encode a number that is not negative as Parquet's footer does."""
    digits = []
    number *= 2
    while number >= 128:
        digits.append(number % 128 + 128)
        number //= 128
    return bytes([*digits, number])


@pytest.mark.parametrize("labels", [None, [0] * 5001])
@pytest.mark.parametrize("rows", [4000, 6000, 5 * 10**10])
def test_a_row_group_that_lies_about_its_rows_is_refused_before_it_is_read(tmp_path, labels, rows):
    path = write_parquet(
        tmp_path / "a.parquet", [b"%020d" % i for i in range(5001)], labels, rows_in_group=9999
    )
    rewrite_counts(path, 5001, rows, [-1])
    assert pq.read_metadata(path).row_group(0).num_rows == rows
    with pytest.raises(GvitError, match=r"a\.parquet is damaged: its row groups do not make the 5001 rows"):
        open_source(tmp_path).scan()
    with pytest.raises(GvitError, match=r"a\.parquet is damaged"):
        locate(tmp_path, "a.parquet/00000000")


def test_a_file_with_fewer_labels_than_rows_is_refused(tmp_path):
    files = [b"%020d" % i for i in range(5001)]
    path = write_parquet(tmp_path / "a.parquet", files, [0] * 5001, rows_in_group=9999)
    rewrite_counts(path, 5001, 6000, [0, -1])
    assert pq.read_metadata(path).num_rows == pq.read_metadata(path).row_group(0).num_rows == 6000
    with pytest.raises(
        GvitError, match=r"a\.parquet (is damaged: it holds 5001 labels for 6000 rows|cannot be)"
    ):
        open_source(tmp_path).scan()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_flipped_only_our_own_errors_come_out(tmp_path, data):
    path = write_parquet(tmp_path / "a.parquet", FILES[:6], LABELS[:6], DIGIT_NAMES, rows_in_group=3)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    source = open_source(path)
    try:
        entries = source.scan().entries
    except GvitError:
        return
    for entry in entries:
        try:
            read_reference(source.reference(entry))
        except DecodeError:
            continue
