"""The front door in Python, and a researcher who walks through it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import gvit
from fake_sets import write_dataset
from gvit.front.images import canvases
from gvit.schemas import GvitError
from small_dataset import save_images

TINY = {"num_gaussians": 16, "size": 16, "preset": "fast"}


def picture(height=20, width=30, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


# ---------------------------------------------------------------- fit


def test_every_way_to_give_an_image_gives_the_same_set(tmp_path):
    array = picture()
    Image.fromarray(array).save(tmp_path / "a.png")
    floats = (array / 255.0).astype(np.float32)
    ways = [
        array,
        floats,
        Image.fromarray(array),
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        torch.from_numpy(array.copy()).permute(2, 0, 1),
        torch.from_numpy(floats).permute(2, 0, 1),
    ]
    first, *others = [gvit.fit(way, **TINY) for way in ways]
    assert first.gaussians.shape == (16, 9)
    assert first.gaussians.dtype == np.float32
    assert isinstance(first.psnr, float)
    for other in others:
        np.testing.assert_array_equal(other.gaussians, first.gaussians)
    assert repr(first) == f"<Fit: 16 Gaussians at 16 x 16, {first.psnr:.2f} dB>"


def test_a_batch_and_a_list_give_a_set_each(tmp_path):
    batch = np.stack([picture(seed=seed) for seed in range(2)])
    found = gvit.fit(batch, **TINY)
    assert (found.gaussians.shape, found.psnr.shape, found.psnr.dtype) == ((2, 16, 9), (2,), np.float64)
    mixed = gvit.fit([batch[0], Image.fromarray(batch[1])], **TINY)
    np.testing.assert_array_equal(mixed.gaussians, found.gaussians)
    one = gvit.fit([picture(9, 50)], **TINY)
    assert one.gaussians.shape == (1, 16, 9)
    assert gvit.fit(torch.from_numpy(batch).permute(0, 3, 1, 2), **TINY).gaussians.shape == (2, 16, 9)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((4, 4), np.uint8), r"must be \[H, W, 3\] or \[B, H, W, 3\], not \[4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), r"image 0 must be an array \[H, W, 3\], not \[4, 4, 4\]"),
        (np.full((4, 4, 3), 200.0), r"floats from 200 to 200: they must be in 0\.\.1; or give uint8"),
        (np.full((4, 4, 3), np.nan), r"they must be in 0\.\.1"),
        (np.zeros((4, 4, 3), np.int64), "image 0 is of int64: give uint8"),
        (torch.zeros(4, 4, 3), r"image 0 must be a tensor \[3, H, W\], not \[4, 4, 3\]"),
        (torch.zeros(4, 4), r"a tensor of images must be \[3, H, W\]"),
        ([], "there is no image"),
        ([7], "image 0 is no path"),
        (7, "not int"),
        ("nowhere.png", r"nowhere\.png: the file cannot be read: it does not exist"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(image, sentence):
    with pytest.raises(GvitError, match=sentence):
        gvit.fit(image, **TINY)


def test_images_of_any_size_become_canvases_with_their_aspect():
    made = canvases([picture(10, 40), picture(40, 10)], 16)
    assert made.pixels.shape == (2, 16, 16, 3)
    assert made.aspects.tolist() == [4.0, 0.25]


# ---------------------------------------------------------------- render


@pytest.fixture(scope="module")
def sets():
    return gvit.fit([picture(seed=seed) for seed in range(2)], **TINY).gaussians


def test_arrays_and_tensors_are_rendered_alike_and_keep_their_kind(sets):
    images = gvit.render(sets, 12, 20)
    assert (images.shape, images.dtype) == ((2, 12, 20, 3), np.float32)
    np.testing.assert_array_equal(gvit.render(sets[0], 12, 20), images[0])
    shown = gvit.render(torch.from_numpy(sets), 12, 20)
    assert isinstance(shown, torch.Tensor)
    np.testing.assert_allclose(shown.numpy(), images, atol=1e-6)
    assert gvit.render(torch.from_numpy(sets[0]), 12, 20).shape == (12, 20, 3)
    assert gvit.render(sets.astype(np.float64), 12, 20).dtype == np.float32


def test_a_rendering_of_tensors_is_differentiable(sets):
    given = torch.from_numpy(sets.copy()).requires_grad_()
    gvit.render(given, 12, 20).sum().backward()
    assert given.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("given", "size", "sentence"),
    [
        (np.zeros((4, 8), np.float32), (4, 4), r"\[N, 9\] or \[B, N, 9\], not \[4, 8\]"),
        (np.zeros(9, np.float32), (4, 4), r"not \[9\]"),
        (np.zeros((1, 9), np.int32), (4, 4), "of floats, not of int32"),
        (torch.zeros(1, 9, dtype=torch.int32), (4, 4), "of floats, not of torch.int32"),
        ([[0.0] * 9], (4, 4), "an array or a tensor, not list"),
        (np.zeros((1, 9), np.float32), (0, 4), "at least 1 x 1 pixels"),
    ],
)
def test_what_is_no_set_is_refused_in_a_sentence(given, size, sentence):
    with pytest.raises(GvitError, match=sentence):
        gvit.render(given, *size)


def test_a_drawing_shows_a_set_and_its_ellipses(sets):
    drawn = gvit.draw(sets[0], size=16)
    assert drawn.size == (680, 336)
    assert len(drawn.getcolors(10**6)) > 50
    with pytest.raises(GvitError, match=r"a set to draw is \[N, 9\], not \[2, 16, 9\]"):
        gvit.draw(sets)


# ---------------------------------------------------------------- encode and models


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """Images, the dataset and the run of somebody who has gone all the way."""
    root = tmp_path_factory.mktemp("walk")
    save_images(root / "images", per_class=16)
    (root / "images" / "train" / "red" / "broken.png").unlink()
    gvit.encode(str(root / "images"), str(root / "out"), num_gaussians=16, size=16, preset="fast", workers=1)
    script = (
        "from pathlib import Path\n"
        "from gvit.commands.app import main\nimport sys\n"
        f"sys.argv = ['gvit', 'train', '--shards', {str(root / 'out')!r}, '--out', {str(root / 'run')!r},"
        " '--recipe', 'tiny', '--epochs', '2', '--batch-size', '8']\nmain()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    return root


def test_encode_takes_strings_and_names_what_it_does_not_know(walked):
    assert len(gvit.open_dataset(str(walked / "out"))) == 32
    with pytest.raises(GvitError, match="encode has no setting 'num_gausians', but 'num_gaussians'"):
        gvit.encode("in", "out", num_gausians=3)
    with pytest.raises(GvitError, match="encode needs a destination"):
        gvit.encode("in")


def test_a_sample_is_short_in_print(walked):
    sample = gvit.open_dataset(walked / "out")[0]
    assert repr(sample).startswith("<Sample '")
    assert len(repr(sample)) < 100


def test_a_model_is_a_module_with_logits_features_and_predictions(walked):
    dataset = gvit.open_dataset(walked / "out")
    model = gvit.load_model(walked / "run")
    sets = torch.from_numpy(dataset.gaussians(slice(0, 3)))
    logits, features = model(sets), model.features(sets)
    assert logits.shape == (3, len(model.classes))
    assert features.ndim == 2
    head = model.network.vit.head
    torch.testing.assert_close(head(features), logits)
    assert not model.training
    image = next((walked / "images" / "val").rglob("*.png"))
    found = model.predict(image, top=1)
    assert found.classes[0] in model.classes
    assert [
        p.classes
        for p in gvit.predict(walked / "run", [image, np.asarray(Image.open(image).convert("RGB"))], top=1)
    ] == [found.classes] * 2
    assert gvit.predict(model, str(image), top=1) == found
    with pytest.raises(GvitError, match=r"sets to classify are \[B, N, 9\], not \[16, 9\]"):
        model(sets[0])
    with pytest.raises(GvitError, match="is no model: give a folder, or hf://USER/NAME"):
        gvit.load_model("s3://bucket/run")


def test_a_model_of_the_hub_is_fetched(walked, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name: asked.append(name) or walked / "run"
    )
    assert gvit.load_model("hf://me/digits").classes == gvit.load_model(walked / "run").classes
    assert asked == ["me/digits"]


def run_gvit(*words):
    code = "from gvit.commands.app import main; main()"
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    return done.returncode, done.stdout, done.stderr


def test_evaluation_says_its_split_and_writes_what_was_predicted(walked, tmp_path):
    words = ["evaluate", "--checkpoint", walked / "run", "--shards", walked / "out", "--per-class", "--json"]
    code, out, _ = run_gvit(*words, "--predictions", tmp_path / "p.csv", "--confusion", tmp_path / "c.csv")
    assert code == 0
    facts = json.loads(out.splitlines()[-1])
    dataset = gvit.open_dataset(walked / "out").split("val")
    assert (facts["split"], facts["samples"]) == ("val", len(dataset))
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0].replace('"', "") == "key,source,class,predicted"
    cells = [line.replace('"', "").split(",") for line in lines[1:]]
    assert [cell[0] for cell in cells] == dataset.keys
    right = [cell[2] == cell[3] for cell in cells]
    assert sum(right) / len(right) == pytest.approx(facts["top1"])
    assert set(facts["per_class"]) == set(dataset.manifest.classes)
    assert (tmp_path / "c.csv").read_text().count("\n") == 1 + len(dataset.manifest.classes)
    code, _, err = run_gvit(*words[:-1], "--split", "test")
    assert code == 2
    assert "no sets in the split 'test'; it has train, val" in " ".join(err.split())
    code, _, err = run_gvit(*words, "--predictions", "p.txt")
    assert (code, "ends with .csv or .parquet" in err) == (2, True)


def test_predict_goes_on_past_a_bad_file_and_draws_the_others(walked, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, path in enumerate(sorted((walked / "images" / "val").rglob("*.png"))[:2]):
        (folder / f"{number}.png").write_bytes(path.read_bytes())
    (folder / "bad.png").write_text("no image")
    words = ["predict", "--checkpoint", walked / "run", folder, "--json", "-o", tmp_path / "said.csv"]
    code, out, err = run_gvit(*words, "--draw", tmp_path / "seen")
    assert code == 1
    facts = json.loads(out.splitlines()[-1])
    assert [p["image"] for p in facts["predictions"]] == [str(folder / "0.png"), str(folder / "1.png")]
    assert [f["image"] for f in facts["failed"]] == [str(folder / "bad.png")]
    assert "bad.png: the file is not an image of a known format" in err
    run_gvit(*words, "--draw", tmp_path / "seen")  # once more, and there are no more pictures
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["0.png", "1.png"]
    assert len((tmp_path / "said.csv").read_text().splitlines()) == 4
    code, _, _ = run_gvit("predict", "--checkpoint", walked / "run", f"{folder}/[01].png")
    assert code == 0
    code, _, err = run_gvit("predict", "--checkpoint", walked / "run", f"{folder}/x*.png")
    assert (code, "no file matches" in err) == (2, True)


def test_the_version_is_said_and_what_is_complete_is_said_to_be(walked):
    assert run_gvit("--version")[1] == f"gvit {gvit.__version__}\n"
    words = ("--num-gaussians", 16, "--size", 16, "--preset", "fast", "--workers", 1)
    code, out, _ = run_gvit("encode", walked / "images", walked / "out", *words)
    assert (code, "already complete" in out, "images/s" in out) == (0, True, False)


def test_training_says_what_is_left_aside_and_what_is_held_out(tmp_path):
    shards = write_dataset(tmp_path / "d", {"train": 40, "test": 10})
    words = ["train", "--shards", shards, "--out", tmp_path / "run", "--recipe", "tiny", "--epochs", 1]
    code, _, err = run_gvit(*words, "--batch-size", 8)
    assert code == 0
    assert "evaluating on 4 images of 40 held out" in err
    assert "left aside: the split test, 10 images" in err
