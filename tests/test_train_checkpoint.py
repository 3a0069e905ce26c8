import json
import os

import pytest
import torch

from gvit.schemas import FitInfo, GvitError
from gvit.train.data.augment import AugmentConfig
from gvit.train.model.classifier import ModelConfig
from gvit.train.model.evaluate import Scores
from gvit.train.model.refiner import RefinerConfig
from gvit.train.run import checkpoint as module
from gvit.train.run.about import About, DataAbout
from gvit.train.run.checkpoint import Checkpoint, CheckpointFolder, read_checkpoint


def about(step):
    data = DataAbout(
        classes=("a", "b"),
        gaussians=6,
        size=16,
        encoding="float16",
        fit=FitInfo("default", 200, 0, "none", 1),
        train="0" * 64,
        val="1" * 64,
    )
    parts = {"model": ModelConfig(), "augment": AugmentConfig(), "refiner": RefinerConfig(), "data": data}
    return About(step=step, epoch=2, evaluation=Scores(top1=0.5, top5=1.0, loss=2.5, samples=8), **parts)


def make(step, value=0.0, ema=True):
    weights = {"w": torch.full((2, 3), value), "b": torch.arange(3.0)}
    average = {"w": torch.full((2, 3), value + 1), "b": torch.zeros(3)} if ema else None
    state = {"optimiser": {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"lr": 0.1}]}, "epoch": 2}
    return Checkpoint(about(step), weights, average, state)


def steps(run):
    return sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").iterdir())


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    saved = make(7, 0.5)
    CheckpointFolder(tmp_path).save(saved, best=False)
    found = read_checkpoint(tmp_path, with_state=True)
    assert (found.step, found.about) == (7, saved.about)
    assert torch.equal(found.model["w"], saved.model["w"])
    assert torch.equal(found.weights["w"], saved.ema["w"])
    assert found.state == saved.state


def test_without_an_average_the_weights_are_the_trained_ones(tmp_path):
    CheckpointFolder(tmp_path).save(make(7, 0.5, ema=False), best=False)
    found = read_checkpoint(tmp_path)
    assert found.ema is None
    assert found.weights is found.model


def test_state_that_is_not_plain_is_not_loaded(tmp_path):
    path = CheckpointFolder(tmp_path).save(make(1), best=False)
    torch.save({"fit": CheckpointFolder}, path / "state.pt")
    with pytest.raises(GvitError, match="damaged"):
        read_checkpoint(tmp_path, with_state=True)


def test_old_checkpoints_go_and_the_best_stays(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in range(1, 7):
        folder.save(make(step), best=step == 2)
    assert steps(tmp_path) == [2, 5, 6]
    assert folder.best.name == "step-00000002"
    assert folder.last.name == "step-00000006"


def test_the_model_of_a_run_is_the_last_not_the_one_that_was_best_on_validation(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(make(1), best=True)
    folder.save(make(2), best=False)
    assert read_checkpoint(tmp_path).step == 2
    assert read_checkpoint(folder.best).step == 1


@pytest.mark.parametrize("name", ["_write_state", "atomic_write"])
def test_a_save_that_fails_leaves_the_checkpoint_before_it(tmp_path, monkeypatch, name):
    folder = CheckpointFolder(tmp_path)
    folder.save(make(1), best=True)

    def fail(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(module, name, fail)
    with pytest.raises(OSError, match="No space"):
        folder.save(make(2), best=True)
    assert read_checkpoint(tmp_path, with_state=True).step == 1
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_the_same_step_saved_again_replaces_the_older_one(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(make(1, 0.0), best=True)
    folder.save(make(1, 5.0), best=False)
    assert read_checkpoint(tmp_path).model["w"][0, 0] == 5.0
    assert folder.best == folder.last


def test_a_crash_between_the_two_renames_of_the_same_step_loses_nothing(tmp_path):
    folder = CheckpointFolder(tmp_path)
    path = folder.save(make(1), best=True)
    path.rename(path.parent / f".{path.name}.old.tmp")  # where the crash left it
    assert read_checkpoint(tmp_path).step == 1
    folder.save(make(2), best=False)
    assert folder.best is not None
    assert read_checkpoint(folder.best).step == 1


def test_what_a_crash_left_behind_is_swept(tmp_path):
    left = tmp_path / "checkpoints" / ".step-00000009.77.tmp"
    left.mkdir(parents=True)
    CheckpointFolder(tmp_path).save(make(10), best=False)
    assert not left.exists()


@pytest.mark.parametrize("name", ["about.json", "model.safetensors", "ema.safetensors", "state.pt"])
def test_a_damaged_file_is_named_in_one_sentence(tmp_path, name):
    path = CheckpointFolder(tmp_path).save(make(1), best=False)
    (path / name).write_bytes((path / name).read_bytes()[:7])
    with pytest.raises(GvitError, match="is damaged") as refused:
        read_checkpoint(tmp_path, with_state=True)
    assert "\n" not in str(refused.value)


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    path = CheckpointFolder(tmp_path).save(make(1), best=False) / "about.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(GvitError, match="of another version"):
        read_checkpoint(tmp_path)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(GvitError, match="holds no checkpoint"):
        read_checkpoint(tmp_path)


def test_a_damaged_index_is_named(tmp_path):
    CheckpointFolder(tmp_path).save(make(1), best=False)
    (tmp_path / "checkpoints.json").write_text("{")
    with pytest.raises(GvitError, match=r"checkpoints.json is damaged"):
        read_checkpoint(tmp_path)
