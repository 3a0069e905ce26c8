"""`gvit demo`: the same real images for everybody, out of installed libraries alone."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from importlib import resources

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from gvit.commands import app as cli
from gvit.commands.demo import PHOTOS
from gvit.images.sources.folder import FolderSource


@pytest.fixture
def gvit_demo(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gvit", "demo", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What the command writes where nothing can be downloaded."""
    folder = tmp_path_factory.mktemp("demo") / "not/there/yet"

    def refuse(*_args, **_kwargs):
        raise AssertionError("the demo must not reach for the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", refuse)
        patch.setattr(sys, "argv", ["gvit", "demo", str(folder)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert not ended.value.code
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_digits_are_split_as_pinned(demo):
    labels = load_digits().target
    train, val = train_test_split(np.arange(1797), test_size=360, stratify=labels, random_state=0)
    expected = {
        f"{split}/{labels[i]}/{i:04d}.png" for split, some in (("train", train), ("val", val)) for i in some
    }
    assert set(contents(demo / "digits")) == expected


def test_a_digit_is_the_8_x_8_one_scaled_to_32_x_32(demo):
    labels, images = load_digits().target, load_digits().images
    (path,) = (demo / "digits").glob(f"*/{labels[7]}/0007.png")
    with Image.open(path) as image:
        assert (image.size, image.mode) == ((32, 32), "L")
        pixels = np.asarray(image).astype(float)
    means = pixels.reshape(8, 4, 8, 4).mean(axis=(1, 3))
    assert np.corrcoef(means.ravel(), images[7].ravel())[0, 1] > 0.99
    assert pixels.max() > 240


def test_gvit_finds_two_splits_and_ten_classes_in_the_digits(demo):
    listing = FolderSource(demo / "digits").scan()
    assert listing.splits == {"train": 1437, "val": 360}
    assert listing.classes == tuple("0123456789")


def test_the_photos_are_the_files_of_scikit_image(demo):
    shelf = resources.files("skimage") / "data"
    assert contents(demo / "photos") == {name: (shelf / name).read_bytes() for name in PHOTOS}


def test_a_second_run_changes_nothing(demo, gvit_demo):
    before = contents(demo)
    code, out, _ = gvit_demo(demo, "--json")
    assert code == 0
    assert json.loads(out) == {"digits": {"train": 1437, "val": 360}, "photos": len(PHOTOS)}
    assert contents(demo) == before


def test_a_missing_library_is_named_with_what_to_install(monkeypatch, tmp_path, gvit_demo):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "skimage" else find(name))
    code, out, err = gvit_demo(tmp_path / "demo")
    assert (code, out) == (2, "")
    needed = "Error: gvit demo needs scikit-image, which is not installed: pip install 'gvit[demo]'\n"
    assert err == needed
    assert not (tmp_path / "demo").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, gvit_demo):
    (tmp_path / "file").touch()
    code, out, err = gvit_demo(tmp_path / "file")
    assert (code, out) == (2, "")
    assert "choose another folder" in err
    assert len(err.splitlines()) == 1
