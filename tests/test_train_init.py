"""Runs that begin from another model, and epochs that are added to a finished run."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from fake_sets import CLASSES, write_dataset
from gvit.commands.train import read_config
from gvit.schemas import GvitError
from gvit.train.config import Restart, ScheduleConfig, learning_rate
from gvit.train.data.split import open_training_data
from gvit.train.guidance.config import GuidanceConfig
from gvit.train.model.classifier import ModelConfig
from gvit.train.run import run as running
from gvit.train.run.checkpoint import CheckpointFolder, read_about, read_checkpoint
from gvit.train.run.metrics import read_metrics
from gvit.train.run.run import build_trainer, train
from small_runs import ALONE, SILENT, config_of

pytestmark = pytest.mark.usefixtures("one_thread")

OTHERS = (*CLASSES[:-1], "zebra")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Datasets `shards` and, of other classes, `others`; and a finished `run` of the first."""
    root = tmp_path_factory.mktemp("world")
    write_dataset(root / "shards", {"train": 70, "val": 23})
    write_dataset(root / "others", {"train": 70, "val": 23}, classes=OTHERS)
    train(config_of(root / "shards", root / "run"), console=SILENT)
    return root


def built(world, dataset, **changes):
    config = config_of(world / dataset, world / "unused", init=str(world / "run"), **changes)
    return build_trainer(config, open_training_data(config.data, config.seed), ALONE)


def averaged(run):
    return load_file(CheckpointFolder(run).last / "ema.safetensors")


def test_with_the_same_classes_a_run_begins_where_the_model_was(world):
    trainer, known = built(world, "shards"), averaged(world / "run")
    mine = trainer.model.state_dict()
    assert mine.keys() == known.keys()
    assert all(torch.equal(mine[name], known[name]) for name in known)
    assert all(torch.equal(value, known[name]) for name, value in trainer.evaluated.state_dict().items())
    assert trainer.init.head


def test_with_other_classes_the_head_is_new_and_all_else_is_kept(world):
    trainer, known = built(world, "others"), averaged(world / "run")
    differing = [
        name for name, value in trainer.model.state_dict().items() if not torch.equal(value, known[name])
    ]
    assert differing == ["vit.head.weight", "vit.head.bias"]
    assert not trainer.init.head


def test_the_model_is_that_of_the_run_it_begins_from_unless_another_is_asked_for(world):
    flags = {"init": str(world / "run"), "data": {"shards": str(world / "others")}}
    found = read_config("tiny", None, flags, ["model.drop_path=0.3"])
    assert found.model == replace(config_of("x", "y").model, drop_path=0.3)
    other = read_config("tiny", None, flags, ["model.depth=3"])
    with pytest.raises(GvitError, match="is another model than this run's"):
        build_trainer(other, open_training_data(other.data, 0), ALONE)


def test_a_model_with_a_refiner_is_not_begun_from_without_one(world, tmp_path):
    refining = GuidanceConfig(mode="refine")
    train(config_of(world / "shards", tmp_path / "moved", epochs=1, guidance=refining), console=SILENT)
    config = config_of(world / "shards", tmp_path / "next", init=str(tmp_path / "moved"))
    with pytest.raises(GvitError, match="give --guidance refine too"):
        build_trainer(config, open_training_data(config.data, 0), ALONE)
    kept = build_trainer(replace(config, guidance=refining), open_training_data(config.data, 0), ALONE)
    assert torch.equal(kept.model.refiner.head.weight, averaged(tmp_path / "moved")["refiner.head.weight"])


def test_rates_fall_from_the_head_to_the_tokens(world):
    model = ModelConfig(
        name="vit_tiny_patch16_224", depth=2, width=32, heads=2, drop_path=0.2, stem="splat", rope=True
    )
    config = config_of(world / "shards", world / "unused", model=model)
    config = replace(config, optim=replace(config.optim, layer_decay=0.5))
    trainer = build_trainer(config, open_training_data(config.data, 0), ALONE)
    names = {id(value): name for name, value in trainer.model.named_parameters()}
    scales = {
        names[id(value)]: group["lr_scale"]
        for group in trainer._optimiser.param_groups
        for value in group["params"]
    }
    assert set(scales) == set(names.values())
    for name, scale in scales.items():
        block = int(name.split(".")[2]) if name.startswith("vit.blocks") else None
        below = name.startswith(("tokens", "stem", "vit.embeds"))
        head = name.startswith("vit.head")
        last = 1 if block is None else block  # norms and rope are the last block's
        assert scale == (0.125 if below else 1.0 if head else 0.5 ** (2 - last)), name


def test_what_a_run_began_from_is_noted_and_not_needed_to_go_on(world, tmp_path, monkeypatch):
    shutil.copytree(world / "run", tmp_path / "before")
    shards = {"shards": str(world / "others")}
    flags = {"init": str(tmp_path / "before"), "data": shards, "run": {"out": str(tmp_path / "next")}}
    small = ["epochs=2", "batch_size=16", "run.tensorboard=false", "run.compile=false"]

    def stops(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(running.Trainer, "evaluate", stops)
    with pytest.raises(KeyboardInterrupt):
        train(read_config("tiny", None, flags, small), console=SILENT)
    monkeypatch.undo()
    train(read_config("tiny", None, flags, ["epochs=1", *small[1:]]), console=SILENT)
    shutil.rmtree(tmp_path / "before")
    train(read_config("tiny", None, flags, small), console=SILENT)  # epochs are added
    about = json.loads((CheckpointFolder(tmp_path / "next").last / "about.json").read_bytes())
    source = read_about(world / "run")
    assert about["init"] == {
        "source": str(tmp_path / "before"),
        "step": source.step,
        "train": source.data.train,
        "head": False,
    }
    assert about["epoch"] == 2


def test_nothing_there_to_begin_from_costs_a_sentence(tmp_path):
    flags = {"init": str(tmp_path / "nowhere"), "data": {"shards": "x"}}
    with pytest.raises(GvitError, match="nowhere holds no checkpoint"):
        read_config("tiny", None, flags, [])
    with pytest.raises(GvitError, match="is no model: give a folder, or hf://"):
        read_config("tiny", None, flags | {"init": "s3://bucket/run"}, [])


# ---------------------------------------------------------------- epochs that are added


def test_after_a_restart_rates_are_those_of_a_run_that_begins_there():
    restarts = (Restart(epoch=4, lr=0.1), Restart(epoch=6, lr=0.3))
    config = ScheduleConfig(lr=1.0, warmup_epochs=2, restarts=restarts)
    found = [learning_rate(config, step, 10, 9) for step in range(90)]

    def alone(epochs, **changes):
        return [learning_rate(ScheduleConfig(**changes), step, 10, epochs) for step in range(10 * epochs)]

    parts = [alone(4, lr=1.0, warmup_epochs=2), alone(2, lr=0.1, warmup_epochs=0)]
    assert found == [*parts[0], *parts[1], *alone(3, lr=0.3, warmup_epochs=0)]


@pytest.mark.parametrize("epochs", [[4, 2], [2, 2], [9]])
def test_restarts_out_of_order_or_after_the_end_are_refused(epochs, world):
    with pytest.raises(GvitError, match="restarts"):
        config_of(
            world / "shards",
            world / "unused",
            epochs=9,
            schedule=ScheduleConfig(restarts=tuple(Restart(epoch=epoch, lr=0.1) for epoch in epochs)),
        )


@pytest.mark.parametrize(("asked", "rate"), [(3e-3, 3e-4), (1e-3, 1e-3)])
def test_more_epochs_go_on_from_a_tenth_of_the_rate_or_from_that_which_is_asked_for(
    world, tmp_path, asked, rate
):
    out = tmp_path / "run"
    shutil.copytree(world / "run", out)
    first = read_metrics(out)
    longer = config_of(world / "shards", out, epochs=5, schedule=ScheduleConfig(lr=asked, warmup_epochs=1))
    summary = train(longer, console=SILENT)
    assert (summary.epochs, summary.steps) == (5, 20)
    points = read_metrics(out)
    assert points[: len(first)] == first
    later = [point["lr"] for point in points if point["kind"] == "train" and point["epoch"] > 3]
    assert later[0] == pytest.approx(rate)
    assert later == sorted(later, reverse=True)
    (restart,) = read_about(out).restarts
    assert (restart.epoch, restart.lr) == (3, pytest.approx(rate))
    again = train(longer, console=SILENT)  # the same command: it is done
    assert (again.steps, again.top1) == (20, summary.top1)


def test_added_epochs_that_were_interrupted_go_on_to_the_same_end(world, tmp_path, monkeypatch):
    for name in ("whole", "cut"):
        shutil.copytree(world / "run", tmp_path / name)
    longer = {name: config_of(world / "shards", tmp_path / name, epochs=5) for name in ("whole", "cut")}
    train(longer["whole"], console=SILENT)
    step = running.Trainer.update

    def until_epoch_4(trainer, batch):
        if trainer.epoch == 4:
            raise KeyboardInterrupt
        step(trainer, batch)

    monkeypatch.setattr(running.Trainer, "update", until_epoch_4)
    with pytest.raises(KeyboardInterrupt):
        train(longer["cut"], console=SILENT)
    monkeypatch.undo()
    train(longer["cut"], console=SILENT)
    whole, cut = (read_checkpoint(tmp_path / name).model for name in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_epochs_are_not_added_to_a_run_that_has_not_ended(world, tmp_path, monkeypatch):
    out = tmp_path / "run"

    def stops(trainer, batch):
        raise KeyboardInterrupt

    train(config_of(world / "shards", out, epochs=1), console=SILENT)
    monkeypatch.setattr(running.Trainer, "update", stops)
    with pytest.raises(KeyboardInterrupt):
        train(config_of(world / "shards", out, epochs=2), console=SILENT)
    monkeypatch.undo()
    with pytest.raises(GvitError, match="has done 1 of 2 epochs: let it finish"):
        train(config_of(world / "shards", out, epochs=3), console=SILENT)
    with pytest.raises(GvitError, match=r"other settings, epochs \(2 there, 1 here\)"):
        train(config_of(world / "shards", out, epochs=1), console=SILENT)
