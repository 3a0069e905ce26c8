import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import small_dataset as small
from fake_encode import BROKEN, fake_encode, make_flawed_source
from gvit.commands.app import app
from gvit.dataset.card import About, dataset_card
from gvit.dataset.export import export_zarr
from gvit.dataset.markdown import parse_front_matter
from gvit.dataset.reader import open_dataset
from gvit.dataset.verify import verify
from gvit.schemas import ENCODINGS

V1 = Path(__file__).parent / "data" / "v1"
PROGRAM = re.compile("^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(V1, tmp_path / "v1")


def card(*arguments):
    done = CliRunner().invoke(app, ["card", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def front_matter(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_a_card_with_the_line_ends_of_another_system_is_read():
    card = dataset_card(open_dataset(V1))
    assert parse_front_matter(card.replace("\n", "\r\n").encode()) == front_matter(card)


@pytest.mark.parametrize("use", ["[*a, *a]", "{<<: [*a, *a]}", "*a"])
def test_a_card_whose_front_matter_refers_to_itself_has_none(use):
    assert parse_front_matter(f"---\na: &a {{x: y}}\nb: {use}\n---\n".encode()) == {}
    assert parse_front_matter(b"---\na: {x: y}\n---\n") == {"a": {"x": "y"}}


def test_the_front_matter_points_the_hub_to_the_rows_of_every_split():
    front = front_matter(dataset_card(open_dataset(V1)))
    (rows,) = front["configs"]
    assert (rows["config_name"], rows["default"]) == ("rows", True)
    train, val = rows["data_files"]
    assert train == {"split": "train", "path": ["shard-000000.parquet", "shard-000001.parquet"]}
    assert val == {"split": "val", "path": ["shard-000002.parquet"]}
    assert front["size_categories"] == ["n<1K"]
    assert front["task_categories"] == ["image-classification"]
    names = [feature["name"] for feature in front["dataset_info"][0]["features"]]
    assert names == open_dataset(V1).rows.column_names


def test_the_tables_tell_counts_and_quality():
    dataset = open_dataset(V1)
    text = dataset_card(dataset)
    assert f"| all | 24 | 1 | {dataset.manifest.psnr.mean:.2f} |" in text
    assert re.search(r"^\| train \| 18 \| 1 \| \d+\.\d\d \|", text, re.MULTILINE)
    assert "| 0 | eight | 8 |" in text
    assert "--num-gaussians 24 --size 32 --preset default" in text
    assert "does not know under which licence" in text


# webdataset leaves closing its files to the garbage collector; the programs leave it to the end
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("form", ["webdataset", "zarr"])
@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_every_program_of_a_card_runs_in_the_folder_of_the_dataset(tmp_path, monkeypatch, form, encoding):
    small.write_small(tmp_path / "tars", encoding=encoding)
    folder = tmp_path / "tars"
    if form == "zarr":
        export_zarr(open_dataset(folder), folder := tmp_path / "zarr", dataset_card)
    monkeypatch.chdir(folder)
    columns = ENCODINGS[encoding].columns
    programs = PROGRAM.findall(dataset_card(open_dataset(folder)))
    assert len(programs) == {"webdataset": 4, "zarr": 3}[form]
    for program in programs:
        names = {}
        exec(program, names)
        shapes = [names[name].shape for name in ("gaussians", "batch") if name in names]
        assert all(shape[1:] in ((small.N, 9), (small.N, columns)) for shape in shapes)


def test_a_card_of_nothing_and_of_no_classes_can_be_written(tmp_path):
    small.write_small(tmp_path / "empty", shards={"shard-000000": ("train", ())}, classes=())
    text = dataset_card(open_dataset(tmp_path / "empty"))
    assert "0 images" in text
    assert "no classes" in text
    card(tmp_path / "empty")
    assert verify(tmp_path / "empty", deep=True).faults == ()


def test_what_authors_add_is_told():
    dataset = open_dataset(V1)
    dataset.manifest = replace(dataset.manifest, name="Café: 100 %", label_informed=True)
    text = dataset_card(dataset, About(license="cc0-1.0", origin="scikit-image", sheet="contact-sheet.png"))
    assert (front_matter(text)["pretty_name"], front_matter(text)["license"]) == ("Café: 100 %", "cc0-1.0")
    assert "# Café: 100 %" in text
    assert "from scikit-image" in text
    assert "(contact-sheet.png)" in text
    assert "do not evaluate" in text


def test_the_command_writes_card_and_contact_sheet_and_renews_the_checksums(copy):
    card(copy, "--license", "mit", "--name", "Things")
    assert verify(copy, deep=True).faults == ()
    assert json.loads((copy / "dataset.json").read_bytes())["name"] == "Things"
    with Image.open(copy / "contact-sheet.png") as sheet:
        assert sheet.width > 500
    before = small.files_of(copy)
    card(copy)  # the license and the name stay
    assert small.files_of(copy) == before
    card(copy, "--sheet", "0")
    assert not (copy / "contact-sheet.png").exists()
    assert "contact-sheet" not in (copy / "README.md").read_text()
    assert verify(copy, deep=True).faults == ()


def test_a_card_edited_by_hand_can_be_kept(copy):
    (copy / "README.md").write_text("mine")
    assert [fault.file for fault in verify(copy).faults] == ["README.md"]
    card(copy, "--keep")
    assert (copy / "README.md").read_text() == "mine"
    assert verify(copy, deep=True).faults == ()


def test_an_encode_that_goes_on_keeps_name_license_and_contact_sheet(tmp_path):
    source = make_flawed_source(tmp_path / "src")
    fake_encode(source, tmp_path / "dst")
    card(tmp_path / "dst", "--name", "Cats and dogs", "--license", "cc0-1.0")
    before = small.files_of(tmp_path / "dst")
    fake_encode(source, tmp_path / "dst")
    assert small.files_of(tmp_path / "dst") == before
    (source / BROKEN).write_bytes((source / "cats/1.png").read_bytes())
    fake_encode(source, tmp_path / "dst", retry_failed=True)
    assert open_dataset(tmp_path / "dst").manifest.name == "Cats and dogs"
    text = (tmp_path / "dst" / "README.md").read_text()
    assert (front_matter(text)["pretty_name"], front_matter(text)["license"]) == ("Cats and dogs", "cc0-1.0")
    assert "(contact-sheet.png)" in text
    fake_encode(source, tmp_path / "dst", overwrite=True)
    assert open_dataset(tmp_path / "dst").manifest.name is None
