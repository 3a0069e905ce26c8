import os
from pathlib import Path

import pytest

from gvit.images.decode import DecodeError
from gvit.images.open import list_images
from gvit.images.reading import read_reference
from gvit.images.sources.folder import FolderSource
from gvit.images.sources.images import Entry
from gvit.images.sources.source import Hints
from gvit.schemas.errors import GvitError


def make_tree(root, *files):
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return FolderSource(root)


def table(listing):
    return [(entry.source, entry.split, entry.label, entry.class_name) for entry in listing.entries]


def scan_with_labels(tmp_path, text, *files):
    labels = tmp_path / "labels.csv"
    labels.write_bytes(text if isinstance(text, bytes) else text.encode())
    make_tree(tmp_path / "src", *files)
    return list_images(FolderSource(tmp_path / "src"), Hints(labels=labels))


# ---------------------------------------------------------------- layouts


def test_a_flat_folder_is_one_split_without_classes(tmp_path):
    listing = make_tree(tmp_path, "b.png", "a.jpg").scan()
    assert table(listing) == [("a.jpg", "train", -1, None), ("b.png", "train", -1, None)]
    assert listing.classes == ()
    assert listing.splits == {"train": 2}


def test_the_first_folder_is_the_class_and_deeper_folders_belong_to_it(tmp_path):
    listing = make_tree(tmp_path, "dog/x/y/1.png", "cat/1.png", "cat/sub/2.png").scan()
    assert listing.classes == ("cat", "dog")
    assert table(listing) == [
        ("cat/1.png", "train", 0, "cat"),
        ("cat/sub/2.png", "train", 0, "cat"),
        ("dog/x/y/1.png", "train", 1, "dog"),
    ]


def test_an_image_beside_class_folders_has_no_class(tmp_path):
    listing = make_tree(tmp_path, "cat/1.png", "stray.png").scan()
    assert table(listing)[0] == ("stray.png", "train", -1, None)


def test_split_folders_are_splits_and_share_the_class_list(tmp_path):
    listing = make_tree(tmp_path, "train/b/1.png", "train/c/1.png", "validation/a/1.png", "test/1.png").scan()
    assert listing.classes == ("a", "b", "c")
    assert table(listing) == [
        ("test/1.png", "test", -1, None),
        ("train/b/1.png", "train", 1, "b"),
        ("train/c/1.png", "train", 2, "c"),
        ("validation/a/1.png", "val", 0, "a"),
    ]
    assert listing.splits == {"test": 1, "train": 2, "val": 1}


def test_split_folders_may_be_written_in_capitals(tmp_path):
    listing = make_tree(tmp_path, "Train/a/1.png", "VAL/a/1.png").scan()
    assert listing.splits == {"train": 1, "val": 1}
    assert listing.classes == ("a",)


def test_folders_are_classes_when_one_of_them_is_no_split(tmp_path):
    listing = make_tree(tmp_path, "train/1.png", "car/1.png").scan()
    assert listing.classes == ("car", "train")
    assert listing.splits == {"train": 2}


def test_a_folder_without_images_does_not_hide_the_splits(tmp_path):
    listing = make_tree(tmp_path, "train/a/1.png", "val/a/1.png", "annotations/a.xml").scan()
    assert listing.splits == {"train": 1, "val": 1}


# ---------------------------------------------------------------- which files


def test_image_suffixes_count_in_any_case_and_other_files_are_counted_as_ignored(tmp_path):
    images = ["a.JPG", "b.jpeg", "c.Png", "d.bmp", "e.gif", "f.webp", "g.tif", "h.TIFF", "i.ppm", "j.pgm"]
    listing = make_tree(tmp_path, *images, "notes.txt", "jpg", "sub/x.tar", "a.jpg.bak").scan()
    assert [entry.source for entry in listing.entries] == sorted(images)
    assert listing.ignored == 4


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    listing = make_tree(tmp_path, "a.png", ".b.png", ".gvit/c.png", "._a.png").scan()
    assert [entry.source for entry in listing.entries] == ["a.png"]
    assert listing.ignored == 0


def test_unicode_spaces_dots_and_upper_case_survive_in_the_source_and_lead_to_the_file(tmp_path):
    names = ["Größe 1.5/日本 語.v2.PNG", "emoji 🎈.jpg", "new\nline.png"]
    source = make_tree(tmp_path, *names)
    entries = source.scan().entries
    assert {entry.source for entry in entries} == set(names)
    assert all(source.path_of(entry).is_file() for entry in entries)


def test_files_whose_keys_would_collide_keep_different_keys(tmp_path):
    keys = [entry.key for entry in make_tree(tmp_path, "a.png", "A.png", "a.jpg", "b c.png").scan().entries]
    assert len(set(keys)) == 4
    assert sum(key.startswith("a-") for key in keys) == 3


@pytest.mark.parametrize("name", [b"caf\xe9.jpg", b"caf\xe9/1.jpg"])
def test_a_name_that_is_not_utf8_is_a_row_and_its_neighbours_are_read(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    path.parent.mkdir(exist_ok=True)
    path.touch()
    (tmp_path / "a.jpg").touch()
    source = FolderSource(tmp_path)
    good, bad = source.scan().entries
    assert source.reference(good) == tmp_path / "a.jpg"
    assert bad.source == name.decode("utf-8", "backslashreplace")
    with pytest.raises(DecodeError, match="not valid UTF-8") as raised:
        read_reference(source.reference(bad))
    assert raised.value.kind == "name"


def test_the_listing_does_not_depend_on_the_order_of_the_file_system(tmp_path):
    files = [f"{c}/{i}.png" for c in "cab" for i in range(5)]
    first = make_tree(tmp_path / "one", *files).scan()
    second = make_tree(tmp_path / "two", *reversed(files)).scan()
    assert (table(first), first.classes) == (table(second), second.classes)


# ---------------------------------------------------------------- links


def test_linked_folders_and_files_are_followed(tmp_path):
    make_tree(tmp_path / "elsewhere", "1.png")
    make_tree(tmp_path / "src", "a/1.png")
    (tmp_path / "src/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "src/a/2.png").symlink_to(tmp_path / "elsewhere/1.png")
    sources = [entry.source for entry in FolderSource(tmp_path / "src").scan().entries]
    assert sources == ["a/1.png", "a/2.png", "b/1.png"]


def test_links_that_lead_back_up_are_not_followed(tmp_path):
    source = make_tree(tmp_path, "a/b/1.png", "c/2.png")
    (tmp_path / "a/b/up").symlink_to(tmp_path)
    (tmp_path / "a/b/here").symlink_to(".")
    (tmp_path / "c/across").symlink_to(tmp_path / "a")
    (tmp_path / "a/across").symlink_to(tmp_path / "c")
    sources = [entry.source for entry in source.scan().entries]
    assert sources == ["a/across/2.png", "a/b/1.png", "c/2.png", "c/across/b/1.png"]


def test_a_link_to_itself_and_a_broken_link_are_inputs_when_named_like_images(tmp_path):
    source = make_tree(tmp_path, "a.png")
    (tmp_path / "broken.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "loop").symlink_to("loop")
    listing = source.scan()
    assert [entry.source for entry in listing.entries] == ["a.png", "broken.jpg", "loop.jpg"]
    assert listing.ignored == 1


# ---------------------------------------------------------------- bad sources


def test_a_missing_source_is_refused_by_name(tmp_path):
    with pytest.raises(GvitError, match=r"no-such-folder does not exist; give the folder"):
        FolderSource(tmp_path / "no-such-folder").scan()


def test_a_file_as_source_is_refused(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(GvitError, match=r"a\.png is not a folder"):
        FolderSource(tmp_path / "a.png").scan()
    with pytest.raises(GvitError, match="does not exist"):
        FolderSource(tmp_path / "a.png" / "below").scan()


def test_a_source_that_is_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(GvitError, match="loop cannot be read"):
        FolderSource(tmp_path / "loop").scan()


@pytest.mark.parametrize("files", [(), ("notes.txt", "sub/deeper/data.csv")])
def test_a_source_without_an_image_is_refused_and_says_what_counts(tmp_path, files):
    with pytest.raises(GvitError, match=r"holds no image.*\.jpeg"):
        make_tree(tmp_path, *files).scan()


def test_a_folder_that_may_not_be_read_is_refused_by_name(tmp_path, monkeypatch):
    # chmod does nothing to root, who runs the tests in containers.
    source = make_tree(tmp_path, "a/1.png", "b/1.png")
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(GvitError, match=r"/b cannot be read: Permission denied"):
        source.scan()


# ---------------------------------------------------------------- labels


def test_labels_give_a_flat_folder_its_classes(tmp_path):
    text = "path,label\n1.png,cat\n./2.png, dog \n\n"
    listing = scan_with_labels(tmp_path, text, "1.png", "2.png", "3.png")
    assert listing.classes == ("cat", "dog")
    assert table(listing) == [
        ("1.png", "train", 0, "cat"),
        ("2.png", "train", 1, "dog"),
        ("3.png", "train", -1, None),
    ]


def test_labels_cover_a_flat_validation_folder_with_the_classes_of_train(tmp_path):
    listing = scan_with_labels(tmp_path, "val/1.png,dog\n", "train/cat/1.png", "train/dog/1.png", "val/1.png")
    assert listing.classes == ("cat", "dog")
    assert table(listing)[2] == ("val/1.png", "val", 1, "dog")


def test_labels_override_folders_and_a_class_without_images_is_dropped(tmp_path):
    listing = scan_with_labels(tmp_path, "wrong/1.png,right\n", "wrong/1.png")
    assert listing.classes == ("right",)


def test_labels_may_hold_unicode_commas_in_quotes_and_a_byte_order_mark(tmp_path):
    text = '\ufeffPath,Label\r\n"a, b.png","Größe, 1"\r\n'
    listing = scan_with_labels(tmp_path, text, "a, b.png")
    assert listing.classes == ("Größe, 1",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n1.png,cat\nnowhere.png,cat\n", r"line 3: nowhere\.png is no image"),
        ("1.png,cat\n./1.png,cat\n", r"line 2: \./1\.png has a label already"),
        ("path,label\n1.png\n", r"line 2: expected an image and a label"),
        ("1.png,cat,dog\n", "several columns and no header; say with --label-column"),
        ("1.png, \n", r"line 1: expected an image and a label"),
        ('1.png,"cat\n', "is not a CSV file"),
        (b"1.png,caf\xe9\n", "is not text in UTF-8"),
    ],
)
def test_a_labels_file_with_a_mistake_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(GvitError, match=message):
        scan_with_labels(tmp_path, text, "1.png")


def test_a_missing_labels_file_is_refused_by_name(tmp_path):
    make_tree(tmp_path, "1.png")
    with pytest.raises(GvitError, match=r"labels file .*none\.csv cannot be read"):
        list_images(FolderSource(tmp_path), Hints(labels=tmp_path / "none.csv"))


def test_path_of_an_entry_is_below_the_root(tmp_path):
    entry = Entry("a/b", "A/b.png", "train", -1, None)
    assert FolderSource(tmp_path).path_of(entry) == tmp_path / "A/b.png"
