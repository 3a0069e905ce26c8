"""What a dataset says never becomes a path outside of the folder that was named."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvit.dataset.export import export_samples
from gvit.dataset.reader import open_dataset
from gvit.dataset.verify import verify
from gvit.images.open import locate
from gvit.images.originals import Originals
from gvit.pictures.image_folder import Canvas, export_images, image_paths
from gvit.schemas import DatasetError, Row
from gvit.schemas.files import inside

from .hostile import change_json, change_rows, change_split, make_true
from .small_dataset import write_small

LEADING_OUT = ["../../x", "/x", "a/../../x", "..", "a/..", "\0"]
SHARD = {"shard-000000": ("train", (3,))}


@pytest.fixture
def dst(tmp_path):
    write_small(tmp_path / "d", shards=SHARD)
    return tmp_path / "d"


def everything_below(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


@pytest.mark.parametrize("key", [*LEADING_OUT, "A", "a.b", "a\n", ""])
def test_a_key_that_is_none_is_refused_at_open_and_named_by_verify(dst, key):
    change_rows(dst, lambda rows: rows[0].update(key=key))
    with pytest.raises(DatasetError, match="is no key"):
        open_dataset(dst)
    assert any("the key" in fault.problem for fault in verify(dst, deep=True).faults)


@pytest.mark.parametrize("split", ["../x", "/x", "x/y", "..", "", "a\n"])
def test_a_split_that_is_none_is_refused_at_open_and_named_by_verify(dst, split):
    change_split(dst, split)
    with pytest.raises(DatasetError, match="split"):
        open_dataset(dst)
    assert verify(dst).faults


@pytest.mark.parametrize("source", ["../secret.png", "/etc/passwd", "a/../../b.png", "a\0b"])
def test_a_source_that_leads_out_is_refused_at_open_and_named_by_verify(dst, source):
    change_rows(dst, lambda rows: rows[0].update(source=source))
    with pytest.raises(DatasetError, match="is no source"):
        open_dataset(dst)
    assert any("leads out" in fault.problem for fault in verify(dst, deep=True).faults)


@pytest.mark.parametrize(
    ("field", "value"), [("preset", "x`; rm -rf ~"), ("preset", "../x"), ("crop", "a b"), ("crop", "\x1b[2J")]
)
def test_preset_and_crop_are_words(dst, field, value):
    change_json(dst / "dataset.json", lambda manifest: manifest["fit"].update({field: value}))
    make_true(dst)
    with pytest.raises(DatasetError, match=f"fit.{field}"):
        open_dataset(dst)


@pytest.mark.parametrize("text", ["../../x", "/x", "[red]x", "a\nb", "|", "..", ".hidden", "x\0y"])
def test_class_and_error_are_any_text_and_stay_text(tmp_path, text):
    classes = tuple(sorted({text, "other"}))
    write_small(tmp_path / "d", shards=SHARD, classes=classes)
    change_rows(tmp_path / "d", lambda rows: rows[-1].update(error=text))
    dataset = open_dataset(tmp_path / "d")
    before = everything_below(tmp_path)
    export_images(dataset, tmp_path / "images", Canvas(8, true_aspect=False))
    export_samples(dataset, tmp_path / "samples")
    made = set(everything_below(tmp_path)) - set(before)
    assert {path.parts[0] for path in made} == {"images", "samples"}


def test_every_writer_refuses_what_leads_out_whoever_checked_before(tmp_path, dst, monkeypatch):
    change_rows(dst, lambda rows: rows[0].update(key="../../x"))
    monkeypatch.setattr("gvit.dataset.open_shard.check_names", lambda *_: None)
    dataset = open_dataset(dst)
    before = everything_below(tmp_path)
    with pytest.raises(DatasetError, match="leads out"):
        export_images(dataset, tmp_path / "images", Canvas(8, true_aspect=False))
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize("source", LEADING_OUT)
def test_readers_of_originals_stay_inside(tmp_path, dst, source):
    (tmp_path / "x").write_bytes(b"secret")
    (tmp_path / "src").mkdir()
    assert locate(tmp_path / "src", source) is None
    row = Row("a", "train", 0, "ant", source, 1, 1, 30.0, "ok", None, "shard-000000", 0, "0" * 64)
    found = Originals(tmp_path / "src", open_dataset(dst).manifest).find(row)
    assert found.pixels is None
    assert "leads out" in found.absence


@given(name=st.text(st.sampled_from("./ab\\\0~"), max_size=12))
def test_inside_is_inside(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp() / "f"
    try:
        path = inside(folder, name)
    except DatasetError:
        return
    assert path.resolve().is_relative_to(folder.resolve())
    assert path.resolve() != folder.resolve()


@given(
    names=st.lists(
        st.tuples(st.text(st.sampled_from("./ab\0"), min_size=1, max_size=6), st.sampled_from(["a", "a/b"])),
        max_size=6,
    )
)
def test_images_get_paths_below_split_and_class_and_each_its_own(names):
    rows = [
        Row(key, "train", 0, name, "s.png", 1, 1, 30.0, "ok", None, "shard-000000", i, "0" * 64)
        for i, (name, key) in enumerate(names)
    ]
    paths = image_paths(rows)
    assert len(set(paths)) == len(paths)
    assert all(re.fullmatch(r"train/[^/\0]+/[^\0]+\.png", path) and "/../" not in path for path in paths)
