"""Datasets as they are distributed, in miniature: their lists and folders are read as they are meant."""

import json

import pyarrow.parquet as pq
import pytest

from gvit.images.accept import check_listing
from gvit.images.open import list_images, open_source
from gvit.images.sources.source import Hints
from gvit.images.understood import understood
from gvit.schemas import GvitError
from small_dataset import encode_for_real, save_images


def touch(root, *files):
    for file in files:
        write(root, file, "")


def write(root, file, text):
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text if isinstance(text, str) else json.dumps(text))


def listed(root, **hints):
    listing = list_images(open_source(root), Hints(**hints))
    check_listing(root, listing, ())
    return listing


def table(listing):
    return {entry.source: (entry.split, entry.class_name) for entry in listing.entries}


def test_tiny_imagenet(tmp_path):
    touch(tmp_path, *(f"train/{name}/images/{name}_{i}.JPEG" for name in ("n01", "n02") for i in range(2)))
    touch(tmp_path, "train/n01/n01_boxes.txt", "val/images/val_0.JPEG", "val/images/val_1.JPEG")
    touch(tmp_path, "test/images/test_0.JPEG")
    lines = "val_0.JPEG\tn02\t0\t32\t44\t62\nval_1.JPEG\tn01\t52\t55\t57\t59\n"
    write(tmp_path, "val/val_annotations.txt", lines)
    listing = listed(tmp_path)
    assert listing.splits == {"test": 1, "train": 4, "val": 2}
    assert listing.classes == ("n01", "n02")
    found = table(listing)
    assert found["val/images/val_0.JPEG"] == ("val", "n02")
    assert found["train/n01/images/n01_0.JPEG"] == ("train", "n01")
    assert found["test/images/test_0.JPEG"] == ("test", None)
    write(tmp_path, "val/val_annotations.txt", "val_0.JPEG n02\n")
    with pytest.raises(GvitError, match="an image and its class with tabs between"):
        listed(tmp_path)


@pytest.mark.parametrize("base", ["", "food-101/"])
def test_food_101(tmp_path, base):
    touch(tmp_path, *(f"{base}images/{name}/{i}.jpg" for name in ("pie", "sushi") for i in range(3)))
    write(tmp_path, f"{base}meta/train.json", {"pie": ["pie/0", "pie/1"], "sushi": ["sushi/2"]})
    write(tmp_path, f"{base}meta/test.json", {"pie": ["pie/2"], "sushi": [f"sushi/{i}" for i in (0, 1, 404)]})
    found = table(listed(tmp_path))
    assert found[f"{base}images/pie/2.jpg"] == ("test", "pie")
    assert found[f"{base}images/sushi/2.jpg"] == ("train", "sushi")
    assert len(found) == 6


def test_cub_200(tmp_path):
    names = ["001.Albatross/a.jpg", "002.Auklet/b.jpg"]
    touch(tmp_path, *(f"images/{name}" for name in names), "segmentations/001.Albatross/a.png")
    write(tmp_path, "images.txt", f"1 {names[0]}\n2 {names[1]}\n")
    write(tmp_path, "train_test_split.txt", "1 1\n2 0\n")
    listing = listed(tmp_path)
    assert table(listing) == {
        "images/001.Albatross/a.jpg": ("train", "001.Albatross"),
        "images/002.Auklet/b.jpg": ("test", "002.Auklet"),
    }
    assert dict(listing.beside) == {"segmentations/001.Albatross": 1}


def test_oxford_pets(tmp_path):
    kinds = [f"Abyssinian_{i}" for i in range(30)] + [f"american_bulldog_{i}" for i in range(30)]
    touch(tmp_path, *(f"images/{kind}.jpg" for kind in kinds), "images/Abyssinian_99.jpg")
    touch(tmp_path, *(f"annotations/trimaps/{kind}.png" for kind in kinds))
    write(tmp_path, "annotations/trainval.txt", "".join(f"{kind} 1 1 1\n" for kind in kinds[::2]))
    write(tmp_path, "annotations/test.txt", "".join(f"{kind} 1 1 1\n" for kind in kinds[1::2]))
    listing = listed(tmp_path)
    assert listing.splits == {"test": 30, "train": 30}
    assert listing.classes == ("Abyssinian", "american_bulldog")
    assert "annotations/trimaps (60 images), 1 image that no list names" in understood(listing)


def test_imagenet_as_kaggle_has_it(tmp_path):
    base = "ILSVRC/Data/CLS-LOC/"
    touch(tmp_path, *(f"{base}train/{name}/{name}_1.JPEG" for name in ("n01", "n02")))
    touch(tmp_path, f"{base}val/ILSVRC2012_val_00000001.JPEG", f"{base}test/ILSVRC2012_test_00000001.JPEG")
    touch(tmp_path, "ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml", "LOC_synset_mapping.txt")
    solution = "ImageId,PredictionString\nILSVRC2012_val_00000001,n02 1 2 3 4\n"
    write(tmp_path, "LOC_val_solution.csv", solution)
    listing = listed(tmp_path)
    assert listing.splits == {"test": 1, "train": 2, "val": 1}
    assert table(listing)[f"{base}val/ILSVRC2012_val_00000001.JPEG"] == ("val", "n02")
    assert "LOC_val_solution.csv" in understood(listing)


def test_the_numbers_of_the_development_kit_are_read_with_its_synsets(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    touch(tmp_path / "in", "train/n01/a.JPEG", "train/n02/b.JPEG", "val/v_1.JPEG", "val/v_2.JPEG")
    synsets = [{"ILSVRC2012_ID": 1, "WNID": "n02"}, {"ILSVRC2012_ID": 2, "WNID": "n01"}]
    scipy_io.savemat(tmp_path / "meta.mat", {"synsets": synsets})
    write(tmp_path, "truth.txt", "2\n1\n")
    found = table(listed(tmp_path / "in", labels=tmp_path / "truth.txt"))
    assert [found[f"val/v_{i}.JPEG"][1] for i in (1, 2)] == ["n01", "n02"]
    write(tmp_path, "meta.mat", "MATLAB")
    with pytest.raises(GvitError, match="not the list of synsets"):
        listed(tmp_path / "in", labels=tmp_path / "truth.txt")


@pytest.mark.parametrize("base", ["gaussian_noise/", "noise/gaussian_noise/"])
def test_imagenet_c_keeps_corruption_and_severity(tmp_path, base):
    noise = [f"{base}{severity}/{name}/a.JPEG" for severity in (1, 5) for name in ("n01", "n02")]
    touch(tmp_path, *noise, *(path.replace("gaussian", "shot") for path in noise))
    listing = listed(tmp_path, split="test")
    assert listing.splits == {"test": 8}
    assert listing.classes == ("n01", "n02")
    (entry,) = (e for e in listing.entries if e.source == f"{base}5/n02/a.JPEG")
    assert listing.extras.of([entry]) == [{"corruption": "gaussian_noise", "severity": 5}]


def test_images_in_folders_within_folders_are_refused_until_it_is_said_which_is_the_class(tmp_path):
    touch(tmp_path, *(f"train_val2018/Aves/{kind}/1.jpg" for kind in "12"), "train_val2018/Fungi/3/1.jpg")
    with pytest.raises(
        GvitError, match=r"--class-level first \(as 'Aves'\) or --class-level last \(as '1'\)"
    ):
        listed(tmp_path)
    assert listed(tmp_path, class_level="last").classes == ("1", "2", "3")
    assert listed(tmp_path, class_level="first").classes == ("Aves", "Fungi")
    with pytest.raises(GvitError, match="there are no folders that could be classes"):
        listed(tmp_path / "train_val2018" / "Aves" / "1", class_level="last")


def test_inaturalist_2018(tmp_path):
    files = [f"train_val2018/Aves/{kind}/{i}.jpg" for kind in (7, 8) for i in range(2)]
    touch(tmp_path, *files)
    for split, part in (("train", files[::2]), ("val", files[1::2])):
        said = {
            "images": [{"id": number, "file_name": file} for number, file in enumerate(part)],
            "annotations": [{"image_id": number, "category_id": 7 + number} for number in range(2)],
            "categories": [{"id": 7, "name": "Parus major"}, {"id": 8, "name": "Pica pica"}],
        }
        write(tmp_path, f"{split}2018.json", said)
    found = table(listed(tmp_path))
    assert found[files[0]] == ("train", "Parus major")
    assert found[files[3]] == ("val", "Pica pica")


def test_img2dataset_in_folders_has_no_classes_and_keeps_what_is_asked_for(tmp_path):
    save_images(tmp_path / "plain", per_class=3)
    pictures = [path for path in sorted((tmp_path / "plain").rglob("*.png")) if path.name != "broken.png"][:4]
    for number, path in enumerate(pictures):
        shard = f"in/{number // 2:05d}"
        touch(tmp_path, f"{shard}_stats.json", f"{shard}.parquet")
        write(tmp_path, f"{shard}/{number:09d}.txt", f"caption {number}")
        (tmp_path / shard / f"{number:09d}.png").write_bytes(path.read_bytes())
    listing = listed(tmp_path / "in", keep=("txt",))
    assert listing.classes == ()
    assert "No labels were found" in understood(listing)
    encode_for_real(tmp_path / "in", tmp_path / "out", keep=("txt",))
    kept = pq.read_table(tmp_path / "out" / "shard-000000.extra.parquet").to_pylist()
    assert sorted((row["key"], row["txt"]) for row in kept) == [
        (f"{number // 2:05d}/{number:09d}", f"caption {number}") for number in range(4)
    ]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_the_metadata_of_the_hubs_imagefolder(tmp_path, form):
    touch(tmp_path, *(f"{split}/{i}.png" for split in ("train", "test") for i in range(2)))
    rows = [{"file_name": f"{i}.png", "text": "a, b", "label": kind} for i, kind in enumerate(("cat", "dog"))]
    text = "\n".join(map(json.dumps, rows))
    if form == "csv":
        text = "file_name,text,label\n" + "\n".join(
            f'{row["file_name"]},"a, b",{row["label"]}' for row in rows
        )
    for split in ("train", "test"):
        write(tmp_path, f"{split}/metadata.{form}", text)
    assert table(listed(tmp_path))["test/1.png"] == ("test", "dog")
    assert listed(tmp_path, label_column="text").classes == ("a, b",)


def test_metadata_without_a_label_is_said_to_have_none(tmp_path):
    touch(tmp_path, "1.png")
    write(tmp_path, "metadata.csv", "file_name,text\n1.png,a\n")
    assert "metadata.csv, which has no label but text" in understood(listed(tmp_path))


@pytest.mark.parametrize(
    ("name", "text"),
    [("metadata.jsonl", "{"), ("metadata.jsonl", "[]"), ("train2018.json", "{}"), ("train2018.json", "no")],
)
def test_a_list_that_is_damaged_is_refused_by_name(tmp_path, name, text):
    touch(tmp_path, "1.png")
    write(tmp_path, name, text)
    with pytest.raises(GvitError, match=f"{name} should hold .*; correct it, or move it away"):
        listed(tmp_path)
