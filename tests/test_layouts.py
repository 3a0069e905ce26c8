"""Layouts of folders as people have them, and what looks like a mistake in them."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from gvit.commands.app import app
from gvit.images.accept import KINDS, check_listing
from gvit.images.decode import decode_image
from gvit.images.open import open_source
from gvit.images.sources.folder import FolderSource
from gvit.images.sources.layout import understand
from gvit.images.sources.split_names import split_of_folder
from gvit.pipeline.config import EncodeConfig, FitConfig
from gvit.schemas import GvitError
from small_dataset import save_images


def tree(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return FolderSource(root).scan()


def table(listing):
    return {entry.source: (entry.split, entry.class_name) for entry in listing.entries}


SPLITS = {
    "train": "train", "Training": "train", "train_set": "train", "train-extra": "train", "train2017": "train",
    "val": "val", "VALID": "val", "validation": "val", "dev": "val", "val_set": "val",
    "test": "test", "testing": "test", "eval": "test", "Evaluation.v2": "test",
    "train_val_images": None, "trainer": None, "latest": None, "cat": None, "development": None,
}  # fmt: skip


@pytest.mark.parametrize(("name", "split"), SPLITS.items())
def test_names_of_splits_are_read_as_the_hub_reads_them(name, split):
    assert split_of_folder(name) == split


def test_any_spelling_of_splits_gives_the_same_classes(tmp_path):
    for names in (
        ("train", "valid", "test"),
        ("Training", "Validation", "Testing"),
        ("train_set", "dev", "eval"),
    ):
        paths = [f"{name}/{kind}/1.png" for name in names for kind in ("cat", "dog")]
        listing = tree(tmp_path / names[1], *paths)
        assert listing.splits == {"test": 2, "train": 2, "val": 2}
        assert listing.classes == ("cat", "dog")


@pytest.mark.parametrize("container", ["images/", "Data/CLS-LOC/", "train_val_images/", "food101/images/"])
def test_folders_that_only_contain_are_gone_through(tmp_path, container):
    paths = ["train/cat/1.png", "train/dog/1.png", "val/cat/1.png"]
    listing = tree(tmp_path, *(container + path for path in paths), "meta/classes.txt")
    assert table(listing)[f"{container}val/cat/1.png"] == ("val", "cat")
    assert listing.splits == {"train": 2, "val": 1}
    assert understand({"images/cat/": 1, "images/dog/": 1}).class_of("images/cat/") == "cat"


def test_a_single_class_folder_contains_nothing_but_its_class(tmp_path):
    assert tree(tmp_path, "cat/1.png", "cat/2.png").classes == ("cat",)


def test_a_folder_beside_the_splits_is_left_out_and_named(tmp_path):
    listing = tree(
        tmp_path,
        "train/cat/1.png",
        "val/cat/1.png",
        "figures/1.png",
        "figures/2.png",
        "train_extra/cat/9.png",
    )
    assert dict(listing.beside) == {"figures": 2}
    assert listing.splits == {"train": 2, "val": 1}
    assert listing.classes == ("cat",)


def test_folders_whose_names_merely_hold_the_word_of_a_split_are_classes(tmp_path):
    listing = tree(tmp_path, "bullet_train/1.png", "steam-train/1.png", "car/1.png")
    assert listing.classes == ("bullet_train", "car", "steam-train")
    check_listing(tmp_path, listing, ())


DOUBTS = {
    "split-class": (["train/1.png", "car/1.png"], "'train' would be a class, and is named like a split"),
    "one-class": (["all/1.png", "all/cat/1.png"], "all images would be of the class 'all'"),
    "new-class": (
        ["train/cat/1.png", "val/figures/1.png"],
        "'figures' is a class of the split val and not of train",
    ),
    "part-labelled": (
        ["cat/1.png", "dog/1.png", "stray.png"],
        "1 of the 3 images of the split train .* 'stray.png'",
    ),
    "lost-pictures": (
        ["cat/1.png", "dog/1.png", "dog/2.jp2"],
        r"1 of the 2 pictures of the class 'dog' would be passed over, .*\(\.jp2\)",
    ),
    "unlisted": (
        ["images/cat_1.jpg", "images/cat_2.jpg", "annotations/test.txt"],
        "1 of the 2 images are not in annotations/trainval.txt and test.txt",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_looks_like_a_mistake_is_refused_unless_it_is_accepted(tmp_path, kind):
    paths, words = DOUBTS[kind]
    if kind == "unlisted":
        (tmp_path / "annotations").mkdir()
        (tmp_path / "annotations" / "trainval.txt").write_text("cat_1 1 1 1")
    listing = tree(tmp_path, *paths)
    with pytest.raises(GvitError, match=f"{words}.*--accept {kind}"):
        check_listing(tmp_path, listing, [other for other in KINDS if other != kind])
    check_listing(tmp_path, listing, [kind])


def test_a_test_split_without_classes_and_numbers_that_train_lacks_are_no_mistake(tmp_path):
    check_listing(tmp_path, tree(tmp_path / "a", "train/cat/1.png", "test/1.png"), ())
    check_listing(tmp_path, tree(tmp_path / "b", "train/0/1.png", "val/1/1.png"), ())
    check_listing(tmp_path, tree(tmp_path / "c", "1.png", "2.png"), ())


def test_another_kind_is_refused_with_the_ones_there_are(tmp_path):
    with pytest.raises(GvitError, match=r"--accept takes split-class, .*, not 'all'"):
        EncodeConfig(source=tmp_path, destination=tmp_path / "out", fit=FitConfig(), accept=("all",))


def test_encode_refuses_before_it_touches_dst_and_names_what_is_left_out(tmp_path):
    save_images(tmp_path / "images", per_class=8)
    (tmp_path / "images" / "train" / "red" / "broken.png").unlink()
    (tmp_path / "images" / "train").rename(tmp_path / "images" / "trains")
    words = ["encode", str(tmp_path / "images"), str(tmp_path / "out"), "--size", "16", "--preset", "fast"]
    words += ["--num-gaussians", "16"]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, GvitError)
    assert "--accept split-class" in str(refused.exception)
    assert not (tmp_path / "out").exists()
    (tmp_path / "images" / "trains").rename(tmp_path / "images" / "train")
    save_images(tmp_path / "images" / "figures", per_class=8)
    found = json.loads(CliRunner().invoke(app, [*words, "--dry-run", "--json"]).stdout)
    assert list(found["beside"]) == ["figures"]
    done = CliRunner().invoke(app, words)
    assert "Left out: figures (" in " ".join(done.output.split())


def test_what_pillow_reads_under_other_names_is_an_image(tmp_path):
    picture = Image.effect_noise((16, 12), 60).convert("RGB")
    for name, kind in (("a.jfif", "JPEG"), ("b.jpe", "JPEG"), ("c.avif", "AVIF")):
        picture.save(tmp_path / name, kind)
    assert [entry.source for entry in FolderSource(tmp_path).scan().entries] == ["a.jfif", "b.jpe", "c.avif"]
    for name in ("a.jfif", "b.jpe", "c.avif"):
        assert decode_image((tmp_path / name).read_bytes(), 8).pixels.shape == (8, 8, 3)


def test_what_img2dataset_writes_beside_its_tars_is_passed_over(tmp_path):
    for name in ("00000.tar", "00001.tar", "00000.parquet", "00000_stats.json"):
        (tmp_path / name).touch()
    assert open_source(tmp_path).files == ("00000.tar", "00001.tar")
    (tmp_path / "train-0.parquet").touch()
    with pytest.raises(GvitError, match=r"\.tar and \.parquet"):
        open_source(tmp_path)
