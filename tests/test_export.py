import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import webdataset
import zarr
from PIL import Image
from typer.testing import CliRunner

import small_dataset as small
from gvit.commands.app import app
from gvit.dataset.export import appearing
from gvit.dataset.reader import open_dataset
from gvit.dataset.selection import Selection, select
from gvit.dataset.verify import verify
from gvit.pictures.image_folder import image_paths, render_at
from gvit.rendering.arrays import render_numpy
from gvit.schemas import ENCODINGS, GvitError, Row


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "tars"
    small.write_small(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(tars):
    return open_dataset(tars)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def export(source, out, form, *options):
    arguments = ["export", source, out, "--to", form, *options]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(done.exception, GvitError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return open_dataset(out) if form in ("zarr", "webdataset") else done


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_zarr_and_back_gives_the_same_bytes(tmp_path, encoding):
    small.write_small(tmp_path / "tars", encoding=encoding)
    arrays = export(tmp_path / "tars", tmp_path / "zarr", "zarr")
    assert arrays.format == "zarr"
    assert not list((tmp_path / "zarr").glob("*.tar"))
    export(tmp_path / "zarr", tmp_path / "back", "webdataset")
    before, after = small.files_of(tmp_path / "tars"), small.files_of(tmp_path / "back")
    different = {name for name in before | after if before.get(name) != after.get(name)}
    assert different == {"README.md", "SHA256SUMS"}  # a card is written anew
    for folder in ("zarr", "back"):
        assert verify(tmp_path / folder, deep=True).faults == ()


def test_the_same_export_has_the_same_bytes(tars, tmp_path):
    for form in ("samples", "zarr", "webdataset"):
        export(tars, tmp_path / form, form, "--max-images", "50")
        export(tars, tmp_path / f"{form}2", form, "--max-images", "50")
        assert small.files_of(tmp_path / form) == small.files_of(tmp_path / f"{form}2")


def test_an_exported_zarr_is_that_of_the_encoder(tars, tmp_path):
    source = shutil.copytree(tars, tmp_path / "tars")
    export(source, tmp_path / "zarr", "zarr")
    group = zarr.open_group(tmp_path / "zarr" / "gaussians.zarr", mode="r")
    np.testing.assert_array_equal(group["gaussians"][:], open_dataset(tars).stored(slice(None)))


# ---------------------------------------------------------------- a part


@pytest.mark.parametrize("form", ["zarr", "webdataset"])
def test_a_part_is_a_dataset_of_its_own(tars, dataset, tmp_path, form):
    part = export(tars, tmp_path / "part", form, "--classes", "ant,cat", "--min-psnr", "25")
    rows = [row for row in dataset.rows.to_pylist() if row["status"] == "ok"]
    wanted = [i for i, row in enumerate(rows) if row["class"] in ("ant", "cat") and row["psnr"] >= 25]
    assert part.keys == [rows[i]["key"] for i in wanted]
    np.testing.assert_array_equal(part.stored(slice(None)), dataset.stored(wanted))
    np.testing.assert_array_equal(part.labels, dataset.labels[wanted])
    assert part.manifest.classes == dataset.manifest.classes
    assert part.manifest.failed == 0
    assert part.manifest.psnr.mean == pytest.approx(np.mean([rows[i]["psnr"] for i in wanted]), abs=1e-4)
    assert verify(tmp_path / "part", deep=True).faults == ()


def test_a_part_of_a_part_from_zarr_is_the_same(tars, tmp_path):
    export(tars, tmp_path / "zarr", "zarr", "--split", "train")
    export(tmp_path / "zarr", tmp_path / "a", "webdataset", "--max-images", "9")
    export(tars, tmp_path / "b", "webdataset", "--split", "train", "--max-images", "9")
    assert small.files_of(tmp_path / "a") == small.files_of(tmp_path / "b")


def test_keys_come_from_a_file(tars, dataset, tmp_path):
    (tmp_path / "keys.txt").write_text("val/2-003\n\ntrain/0-100  \n")
    part = export(tars, tmp_path / "part", "webdataset", "--keys", tmp_path / "keys.txt")
    assert part.keys == ["train/0-100", "val/2-003"]


def test_so_many_images_are_spread_over_everything(dataset):
    chosen = select(dataset, Selection(max_images=10))
    indices = [dataset.keys.index(key) for key in chosen.keys]
    assert len(set(indices)) == 10
    assert (indices[0], indices[-1]) == (0, small.IMAGES - 1)
    assert np.diff(indices).max() <= 31
    assert len(select(dataset, Selection(max_images=10**6))) == small.IMAGES


@pytest.mark.parametrize(
    ("selection", "sentence"),
    [
        ({"classes": frozenset({"bea"})}, "the dataset has no class 'bea'; it has bee"),
        ({"keys": frozenset({"x", "y"})}, "the dataset has no key 'x' and 1 more"),
        ({"splits": frozenset({"test"})}, "the dataset has no split 'test'; it has "),
        ({"min_psnr": 99.0}, "no image of .* is chosen"),
    ],
)
def test_what_is_not_there_cannot_be_chosen(dataset, selection, sentence):
    with pytest.raises(GvitError, match=sentence):
        select(dataset, Selection(**selection))


# ---------------------------------------------------------------- samples


# webdataset leaves closing its files to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")
def test_the_webdataset_library_reads_samples_one_by_one(tars, dataset, tmp_path):
    export(tars, tmp_path / "samples", "samples", "--split", "val")
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["val-000000.tar"]
    url = str(tmp_path / "samples" / "val-000000.tar")
    samples = list(webdataset.WebDataset(url, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == dataset.split("val").keys
    for theirs, ours in zip(samples, dataset.split("val"), strict=True):
        np.testing.assert_array_equal(theirs["gaussians.npy"], ours.gaussians)
        assert (theirs["cls"], theirs["json"]["key"]) == (ours.label, ours.key)
        assert theirs["json"]["width"] == 40


def test_samples_are_members_next_to_each_other_without_times(tars, tmp_path, monkeypatch):
    monkeypatch.setattr("gvit.dataset.export.SAMPLES_PER_TAR", 100)
    export(tars, tmp_path / "samples", "samples")
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["train-000000.tar", "train-000001.tar", "train-000002.tar", "val-000000.tar"]
    with tarfile.open(tmp_path / "samples" / "train-000000.tar") as tar:
        members = tar.getmembers()
    assert len(members) == 300
    assert [m.name for m in members[:3]] == [
        *("train/0-000.gaussians.npy", "train/0-000.cls", "train/0-000.json")
    ]
    assert {(m.mtime, m.uid, m.mode, m.isreg()) for m in members} == {(0, 0, 0o644, True)}


def test_samples_of_the_compact_encoding_are_floats(tmp_path):
    small.write_small(tmp_path / "tars", encoding="compact", classes=())
    export(tmp_path / "tars", tmp_path / "samples", "samples", "--max-images", "1")
    with tarfile.open(tmp_path / "samples" / "train-000000.tar") as tar:
        assert [name.partition(".")[2] for name in tar.getnames()] == ["gaussians.npy", "json"]
        one = np.load(io.BytesIO(tar.extractfile(tar.getmembers()[0]).read()))
    np.testing.assert_array_equal(one, open_dataset(tmp_path / "tars")[0].gaussians)


# ---------------------------------------------------------------- images


def test_images_are_a_folder_tree_that_can_be_encoded_again(tars, dataset, tmp_path):
    export(tars, tmp_path / "images", "images", "--max-images", "12", "--size", "48")
    found = sorted(path.relative_to(tmp_path / "images") for path in (tmp_path / "images").rglob("*.png"))
    assert len(found) == 12
    assert {path.parts[0] for path in found} == {"train", "val"}
    assert {path.parts[1] for path in found} <= set(small.CLASSES)
    key, label = dataset.keys[0], small.CLASSES[dataset.labels[0]]
    with Image.open(tmp_path / "images" / "train" / label / f"{key.split('/')[1]}.png") as image:
        pixels = np.asarray(image)
    expected = render_numpy(dataset.gaussians([0]), 48, 48)[0]
    np.testing.assert_array_equal(pixels, (expected * 255).round().astype(np.uint8))


def test_small_images_are_averaged_over_larger_ones(dataset):
    sets = dataset.gaussians([0, 1])
    large = render_numpy(sets, 32, 32)
    expected = large.reshape(2, 8, 4, 8, 4, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(render_at(sets, 8, 8, fit_size=32), expected, atol=1e-6)
    np.testing.assert_array_equal(render_at(sets, 40, 64, fit_size=32), render_numpy(sets, 40, 64))


def test_the_true_aspect_comes_back(tars, tmp_path):
    export(tars, tmp_path / "images", "images", "--max-images", "1", "--size", "40", "--true-aspect")
    (path,) = (tmp_path / "images").rglob("*.png")
    with Image.open(path) as image:
        assert image.size == (40, 30)


def row(key, split="train", class_name=None):
    return Row(key, split, -1, class_name, key, 1, 1, 1.0, "ok", None, "shard-000000", 0, None)


def test_no_two_images_have_the_same_path_and_none_leaves_the_folder():
    rows = [
        row("train/red/0", class_name="Red"),
        row("red/0", class_name="Red"),
        row("0", class_name="Red"),
        row("train/red/0-1", class_name=".."),
        row("train/x", class_name="a/../../b"),
        row("train/y"),
    ]
    paths = image_paths(rows)
    assert paths[0] == "train/Red/0.png"
    assert paths[-1] == "train/y.png"
    assert len(set(paths)) == len(rows)
    assert all(not {"..", ""} & set(path.split("/")) for path in paths)


# ---------------------------------------------------------------- all or nothing


def test_an_export_that_fails_leaves_nothing(tars, tmp_path):
    damaged = shutil.copytree(tars, tmp_path / "tars")
    data = bytearray((damaged / "shard-000001.tar").read_bytes())
    data[300] ^= 1
    (damaged / "shard-000001.tar").write_bytes(data)
    for form in ("samples", "zarr", "webdataset"):
        with pytest.raises(GvitError, match=r"shard-000001\.tar is damaged"):
            export(damaged, tmp_path / "out", form)
    assert names_in(tmp_path) == ["tars"]


def test_what_a_killed_export_left_does_not_disturb_the_next(tmp_path):
    left = tmp_path / ".out.export.tmp"
    left.mkdir()
    (left / "old").touch()
    (tmp_path / "out").mkdir()
    with appearing(tmp_path / "out") as folder:
        (folder / "new").touch()
    assert names_in(tmp_path) == ["out"]
    assert names_in(tmp_path / "out") == ["new"]


def test_a_folder_that_holds_something_is_left_alone(tars, tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(GvitError, match="is there already and is not an empty folder"):
        export(tars, tmp_path, "zarr")
    assert names_in(tmp_path) == ["mine"]


def test_the_command_says_what_it_wrote(tars, tmp_path):
    done = export(tars, tmp_path / "out", "samples", "--max-images", "3", "--json")
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts == {"output": str(tmp_path / "out"), "to": "samples", "images": 3}
    with pytest.raises(GvitError, match="--to is 'tar'; give one of samples, zarr, webdataset, images"):
        export(tars, tmp_path / "out2", "tar")
