"""`gvit view --checkpoint`: one image before and after guidance, as the run itself sees it."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from fake_sets import SIZE, make_sets, write_dataset
from gvit.commands import app as cli
from gvit.dataset.reader import open_dataset
from gvit.pictures.draw import find_row
from gvit.pictures.guided_view import draw_displacement, draw_guided_view
from gvit.pictures.page import shape_of
from gvit.pictures.view import Subject
from gvit.rendering.arrays import render_numpy
from gvit.schemas import GvitError
from gvit.train.config import OptimConfig, RunConfig, ScheduleConfig, TrainConfig
from gvit.train.data.augment import AugmentConfig
from gvit.train.data.split import DataConfig, open_training_data
from gvit.train.guidance.config import GuidanceConfig
from gvit.train.model.classifier import ModelConfig
from gvit.train.ranks import Ranks
from gvit.train.run.checkpoint import CheckpointFolder, read_checkpoint
from gvit.train.run.guided_sets import find_guided_set
from gvit.train.run.run import build_trainer, train

LEFT, TOP, GAP, SIDE = 28, 94, 20, 320  # of the panels of a 16 x 16 canvas
EPOCHS = 3


pytestmark = pytest.mark.usefixtures("one_thread")


def config_of(shards, out, mode, **data):
    return TrainConfig(
        epochs=EPOCHS,
        batch_size=16,
        data=DataConfig(shards=shards, **data),
        run=RunConfig(out=out, tensorboard=False),
        model=ModelConfig(name="vit_tiny_patch16_224", depth=1, width=32, heads=2),
        schedule=ScheduleConfig(lr=3e-3, warmup_epochs=0.5),
        optim=OptimConfig(ema=0.9),
        augment=AugmentConfig(flip=0.5),
        guidance=GuidanceConfig(mode=mode, gamma=0.5, gamma_warmup=0.0, reach=1.5, max_psnr_loss=50.0),
    )


def train_run(shards, out, mode, **data):
    train(config_of(shards, out, mode, **data), console=Console(file=io.StringIO()))
    return out


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A dataset with splits, one without, another one of the same kind; runs on them."""
    root = tmp_path_factory.mktemp("world")
    write_dataset(root / "split", {"train": 48, "val": 16})
    write_dataset(root / "whole", {"train": 60})
    write_dataset(root / "other", {"train": 20, "val": 10}, seed=7)
    for mode in ("none", "refine", "direct"):
        train_run(root / "split", root / mode, mode)
    train_run(root / "whole", root / "holding", "direct", val_fraction=0.2)
    train_run(root / "whole", root / "apart", "direct", val_shards=root / "other")
    return root


@pytest.fixture
def gvit_view(monkeypatch, capsys, world, tmp_path):
    """Run the command in a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gvit", "view", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def enlarged(gaussians):
    """The rendering of a set as a panel shows it."""
    (rendering,) = render_numpy(gaussians[None], SIZE, SIZE)
    small = Image.fromarray((rendering * 255.0).round().astype(np.uint8))
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.NEAREST))


def panel(image, number):
    left = LEFT + number * (SIDE + GAP)
    return np.asarray(image.convert("RGB"))[TOP : TOP + SIDE, left : left + SIDE]


def resumed(world, mode):
    """The trainer of a run as it ended."""
    config = config_of(world / "split", world / mode, mode)
    data = open_training_data(config.data, config.seed)
    trainer = build_trainer(config, data, Ranks(0, 1, torch.device("cpu")))
    saved = read_checkpoint(world / mode, with_state=True)
    trainer.restore(saved.model, saved.ema, saved.state["trainer"])
    return trainer


# ------------------------------------------------------------- the guided sets


@pytest.mark.parametrize("key", ["train/3", "val/5"])
def test_a_refined_set_is_the_one_that_evaluation_classifies(world, key):
    dataset = open_dataset(world / "split")
    stored = torch.from_numpy(dataset.by_key(key).gaussians)[None]
    model = resumed(world, "refine").evaluated.eval()
    with torch.no_grad():
        expected = model.refined(stored)[0]
    found = find_guided_set(world / "refine", dataset, key)
    assert (found.mode, found.epochs) == ("refine", EPOCHS)
    torch.testing.assert_close(torch.from_numpy(found.gaussians), expected)
    assert not torch.equal(expected, stored[0])


def test_a_refiner_moves_sets_of_a_dataset_that_it_never_saw(world):
    dataset = open_dataset(world / "other")
    found = find_guided_set(world / "refine", dataset, "val/2")
    assert np.abs(found.gaussians - dataset.by_key("val/2").gaussians).max() > 0


def test_a_direct_set_is_the_one_that_training_would_see_next(world):
    dataset = open_dataset(world / "split")
    guide = resumed(world, "direct").guide
    sizes = []
    for place, key in enumerate(dataset.split("train").keys):
        stored = torch.from_numpy(dataset.by_key(key).gaussians)[None]
        expected = guide.moved(stored, guide.store.read(torch.tensor([place]), stored.device))[0]
        found = find_guided_set(world / "direct", dataset, key)
        assert (found.mode, found.epochs) == ("direct", EPOCHS)
        torch.testing.assert_close(torch.from_numpy(found.gaussians), expected)
        sizes.append(float((expected - stored[0]).abs().max()))
    assert max(sizes) > 0.01
    assert len(set(sizes)) > 10


@pytest.mark.parametrize("run", ["holding", "apart"])
def test_moves_belong_to_keys_whatever_part_of_the_dataset_was_trained_on(world, run):
    dataset = open_dataset(world / "whole")
    data = {"holding": {"val_fraction": 0.2}, "apart": {"val_shards": world / "other"}}[run]
    keys = open_training_data(DataConfig(shards=world / "whole", **data), 0).train.keys
    moves = read_checkpoint(world / run, with_state=True).state["trainer"]["guide"]["moves"]
    still = [key for key, move in zip(keys, moves, strict=True) if not move.any()]
    moving = [key for key, move in zip(keys, moves, strict=True) if move.any()]
    for key in [*still, *moving[:5]]:
        found = find_guided_set(world / run, dataset, key).gaussians
        assert np.allclose(found, dataset.by_key(key).gaussians, atol=1e-6) == (key in still)
    for key in set(dataset.keys) - set(keys):
        with pytest.raises(GvitError, match="was not trained on"):
            find_guided_set(world / run, dataset, key)


def test_datasets_that_were_evaluated_on_need_not_be_there_any_more(world, tmp_path):
    for name in ("whole", "other"):
        shutil.copytree(world / name, tmp_path / name)
    out = train_run(tmp_path / "whole", tmp_path / "run", "direct", val_shards=tmp_path / "other")
    shutil.rmtree(tmp_path / "other")
    (tmp_path / "whole").rename(tmp_path / "renamed")
    assert find_guided_set(out, open_dataset(tmp_path / "renamed"), "train/0").mode == "direct"


def test_the_last_checkpoint_of_a_run_can_be_named_itself(world):
    dataset, folder = open_dataset(world / "split"), CheckpointFolder(world / "direct").last
    one, other = (find_guided_set(path, dataset, "train/1").gaussians for path in (world / "direct", folder))
    assert (one == other).all()


def test_a_checkpoint_away_from_its_run_asks_for_the_run(world, tmp_path):
    shutil.copytree(CheckpointFolder(world / "direct").last, tmp_path / "a" / "b" / "alone")
    with pytest.raises(GvitError, match=r"lies apart from the run.*give the folder of the run"):
        find_guided_set(tmp_path / "a" / "b" / "alone", open_dataset(world / "split"), "train/1")


def test_the_same_keys_with_other_sets_are_not_what_was_trained_on(world, tmp_path):
    write_dataset(tmp_path / "twin", {"train": 48, "val": 16}, seed=99)
    with pytest.raises(GvitError, match=r"is not the dataset that .* was trained on"):
        find_guided_set(world / "direct", open_dataset(tmp_path / "twin"), "train/1")


def test_a_refiner_needs_no_more_than_its_weights(world, tmp_path):
    shutil.copytree(CheckpointFolder(world / "refine").last, tmp_path / "alone")
    (tmp_path / "alone" / "state.pt").unlink()
    assert find_guided_set(tmp_path / "alone", open_dataset(world / "split"), "val/1").mode == "refine"


def test_a_checkpoint_without_what_guidance_saves_is_named_in_one_sentence(world, tmp_path):
    shutil.copytree(world / "direct", tmp_path / "run")
    folder = CheckpointFolder(tmp_path / "run").last
    torch.save({"trainer": {}}, folder / "state.pt")
    about = json.loads((folder / "about.json").read_text())
    del about["files"]  # as gvit 0.1 wrote it
    (folder / "about.json").write_text(json.dumps(about))
    with pytest.raises(GvitError, match="is of another version of gvit"):
        find_guided_set(tmp_path / "run", open_dataset(world / "split"), "train/1")


# -------------------------------------------------------------------- pictures


def shifted(gaussians, pixels, rows=slice(None)):
    moved = gaussians.copy()
    moved[rows, 0] += pixels * 2 / SIZE
    return moved


def test_psnr_and_shift_are_those_of_the_two_sets():
    stored = make_sets(1, 0)[0][0]
    (rendering,) = render_numpy(stored[None], SIZE, SIZE)
    original = (rendering * 255.0).round().astype(np.uint8)
    view = draw_guided_view(Subject("key", "note", stored, SIZE, original), shifted(stored, 1.5))
    (moved,) = render_numpy(shifted(stored, 1.5)[None], SIZE, SIZE)
    error = np.square(moved.astype(np.float64) - original / 255.0).mean()
    assert view.mean_shift == pytest.approx(1.5, abs=1e-5)
    assert view.psnr_guided == pytest.approx(-10 * np.log10(error), abs=1e-6)
    assert view.psnr_stored > 50
    assert (panel(view.image, 1) == enlarged(stored)).all()
    assert (panel(view.image, 2) == enlarged(shifted(stored, 1.5))).all()


def test_without_an_original_nothing_is_measured_against_it():
    stored = make_sets(1, 0)[0][0]
    view = draw_guided_view(Subject("key", "note", stored, SIZE, None, "it is gone"), shifted(stored, 1.0))
    assert (view.psnr_stored, view.psnr_guided) == (None, None)
    assert (panel(view.image, 0) == 255).mean() > 0.95
    assert (panel(view.image, 2) == enlarged(shifted(stored, 1.0))).all()


@pytest.mark.parametrize("pixels", [0.001, 0.01, 0.1, 1.0])
def test_arrows_of_small_moves_are_enlarged_to_be_seen_and_of_large_ones_not(pixels):
    stored = np.zeros((4, 9), np.float32)
    stored[:, 0:2] = [[-0.6, -0.6], [-0.2, 0.3], [0.1, -0.3], [0.3, 0.6]]
    stored[:, 2:9] = [0.1, 0.1, 0, 0.5, 0.5, 0.5, 1]
    drawn = draw_displacement(stored, shifted(stored, pixels), SIDE)
    assert drawn.shown == 4
    assert drawn.mean * SIZE == pytest.approx(pixels, rel=1e-3)
    length = drawn.factor * pixels / SIZE
    assert 0.02 <= length <= 0.1
    red = (np.asarray(drawn.picture).astype(int) @ [1, -1, 0]) > 100  # neither ground nor ellipses
    columns = np.flatnonzero(red.any(axis=0))
    first, last = ((stored[place, 0] + 1) / 2 * SIDE for place in (0, 3))
    assert columns[0] == pytest.approx(first, abs=2)
    assert columns[-1] == pytest.approx(last + length * SIDE, abs=2)


def test_a_move_across_the_picture_is_drawn_at_its_length():
    stored = make_sets(1, 0)[0][0]
    assert draw_displacement(stored, shifted(stored, SIZE), SIDE).factor == 1


def test_only_what_moved_has_an_arrow():
    stored = make_sets(1, 0)[0][0]
    assert draw_displacement(stored, stored, SIDE).shown == 0
    assert draw_displacement(stored, shifted(stored, 1.0, slice(0, 2)), SIDE).shown == 2


# ------------------------------------------------------------------ the command


@pytest.mark.parametrize("mode", ["refine", "direct"])
def test_the_command_draws_what_is_stored_beside_what_guidance_made_of_it(gvit_view, world, mode):
    arguments = (world / "split", "train/3", "--checkpoint", world / mode, "-o", "out.png", "--json")
    code, out, err = gvit_view(*arguments)
    assert (code, err) == (0, "the original is not shown: its folder is unknown; give --source\n")
    dataset = open_dataset(world / "split")
    with Image.open("out.png") as image:
        guided = find_guided_set(world / mode, dataset, "train/3").gaussians
        row = find_row(dataset, "train/3")
        width, height = shape = shape_of(SIDE, row.width / row.height)
        for place, gaussians in ((1, dataset.by_key("train/3").gaussians), (2, guided)):
            left = LEFT + place * (max(width, 300) + GAP)
            expected = Image.fromarray(enlarged(gaussians)).resize(shape, Image.Resampling.LANCZOS)
            shown = image.convert("RGB").crop((left, TOP, left + width, TOP + height))
            assert (np.asarray(shown) == np.asarray(expected)).all()
    facts = json.loads(out)
    assert (facts["guidance"], facts["psnr_stored"], facts["psnr_guided"]) == (mode, None, None)
    moved = (guided - dataset.by_key("train/3").gaussians)[:, 0:2] * SIZE / 2
    assert facts["mean_shift"] == pytest.approx(np.hypot(*moved.T).mean(), abs=1e-4)


@pytest.mark.parametrize(
    ("dataset", "key", "run", "sentence"),
    [
        (
            "split",
            "val/3",
            "direct",
            "val/3 was not trained on, and direct guidance moves training sets only",
        ),
        ("other", "train/3", "direct", "other is not the dataset that .*direct was trained on"),
        ("split", "train/3", "none", "none was trained without guidance and moves no Gaussians"),
        ("split", "train/3", "nowhere", "nowhere holds no checkpoint: give the folder of a run"),
        ("split", None, "refine", "--checkpoint draws one image .*: give its KEY"),
        ("split", "birds", "refine", "split has no image 'birds'"),
    ],
)
def test_every_mistake_is_one_sentence_and_exit_code_2(gvit_view, world, dataset, key, run, sentence):
    given = [] if key is None else [key]
    code, out, err = gvit_view(world / dataset, *given, "--checkpoint", world / run)
    assert (code, out) == (2, "")
    assert re.match(f"Error: .*{sentence}", err)
    assert len(err.splitlines()) == 1
    assert not Path("view.png").exists()


def test_a_refiner_is_not_asked_about_sets_of_another_kind(world, tmp_path):
    write_dataset(tmp_path / "larger", {"train": 5}, gaussians=9)
    with pytest.raises(GvitError, match=r"sets of 9 Gaussians .* trained on 6 .*give a dataset of that kind"):
        find_guided_set(world / "refine", open_dataset(tmp_path / "larger"), "train/1")
