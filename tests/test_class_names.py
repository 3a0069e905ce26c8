import json

import pytest

from fake_encode import fake_config, fake_encode, files_of, make_source
from gvit.commands.look import info_command
from gvit.commands.sharing import export_command
from gvit.dataset.card import dataset_card
from gvit.dataset.class_names import class_names_file, read_class_names
from gvit.dataset.reader import open_dataset
from gvit.dataset.verify import verify
from gvit.pipeline.dry_run import estimate
from gvit.schemas import DatasetError, GvitError
from gvit.schemas.checksums import read_checksums

CLASSES = ("n01440764", "n01443537")
NAMES = {"n01440764": "tench, Tinca tinca", "n01443537": "goldfish"}
LINES = "n01440764 tench, Tinca tinca\nn01443537\tgoldfish\n\nn01484850 great white shark\n"
INDEX = json.dumps({"0": ["n01440764", "tench, Tinca tinca"], "1": ["n01443537", "goldfish"]})


def read(tmp_path, text, classes=CLASSES):
    (tmp_path / "names").write_text(text, encoding="utf-8")
    content = class_names_file(tmp_path / "names", classes)
    return json.loads(content)


@pytest.fixture
def named(tmp_path):
    (tmp_path / "names.txt").write_text(LINES)
    source = make_source(tmp_path / "src", CLASSES, per_class=3)
    fake_encode(source, tmp_path / "dst", class_names=tmp_path / "names.txt")
    return tmp_path / "dst"


@pytest.mark.parametrize("text", [LINES, INDEX, json.dumps(NAMES)])
def test_names_are_read_from_lines_from_an_object_and_from_the_class_index(tmp_path, text):
    assert read(tmp_path, text) == NAMES


def test_numbered_classes_are_found_by_number(tmp_path):
    assert read(tmp_path, INDEX, ("000", "001")) == {"000": "tench, Tinca tinca", "001": "goldfish"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("n01440764 tench\n", "has no name for class 'n01443537'"),
        ("n01440764 tench\nn01443537\n", r"cannot be understood \(line 2 has no name\)"),
        ('{"n01440764": 3}', r"cannot be understood \('n01440764' has no name\)"),
        ("{", "cannot be understood"),
        ("", "has no name for class 'n01440764'"),
    ],
)
def test_a_file_that_does_not_name_every_class_is_refused(tmp_path, text, sentence):
    with pytest.raises(GvitError, match=sentence):
        read(tmp_path, text)


def test_mistakes_are_told_before_anything_is_encoded(tmp_path):
    source = make_source(tmp_path / "src", CLASSES, per_class=1)
    with pytest.raises(GvitError, match=r"class names .* cannot be read: No such file"):
        estimate(fake_config(source, tmp_path / "dst", class_names=tmp_path / "no.txt"))
    assert not (tmp_path / "dst").exists()


def test_names_are_part_of_the_dataset_and_the_classes_stay_ids(named):
    dataset = open_dataset(named)
    assert dataset.manifest.classes == CLASSES
    assert read_class_names(named) == NAMES
    assert "class-names.json" in read_checksums(named)
    assert not verify(named, deep=True).faults
    assert "| 0 | n01440764 | tench, Tinca tinca | 3 |" in dataset_card(dataset)
    assert "`class-names.json`" in (named / "README.md").read_text()


def test_info_shows_them(named, capsys):
    info_command(named)
    assert "n01440764 tench, Tinca tinca" in capsys.readouterr().out


def test_an_export_takes_them_along(named, tmp_path):
    export_command(named, tmp_path / "out", "webdataset")
    assert files_of(tmp_path / "out") == files_of(named)


def test_a_later_run_keeps_them_and_an_overwrite_does_not(named):
    source = named.parent / "src"
    before = files_of(named)
    fake_encode(source, named)
    assert files_of(named) == before
    fake_encode(source, named, overwrite=True)
    assert set(files_of(named)) == set(before) - {"class-names.json"}


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"a": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_file_is_refused_by_name(named, content):
    (named / "class-names.json").write_bytes(content)
    with pytest.raises(DatasetError, match=r"class-names\.json is"):
        read_class_names(named)


def test_a_changed_name_is_found_by_any_check(named):
    path = named / "class-names.json"
    path.write_text(path.read_text().replace("goldfish", "goldfisk"))
    assert [fault.file for fault in verify(named).faults] == ["class-names.json"]
