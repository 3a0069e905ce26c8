"""A damaged checkpoint is never read as a good one, and a run goes on from the newest that is whole."""

import contextlib
import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from gvit.schemas import GvitError
from gvit.train.run.checkpoint import CheckpointFolder, newest_sound, read_checkpoint
from test_train_checkpoint import make

FILES = ("about.json", "model.safetensors", "ema.safetensors", "state.pt")
RUN_0_1 = Path(__file__).parent / "data" / "run-0.1"


def flip(path, at, bit):
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data)


def damaged(path, rng):
    """Flip a bit, cut the file, or exchange two bytes that differ."""
    data = bytearray(path.read_bytes())
    at, way = rng.randrange(len(data)), rng.randrange(3)
    if way == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif way == 1:
        del data[at:]
    else:
        other = next((i for i in rng.sample(range(len(data)), 20) if data[i] != data[at]), None)
        if other is None:
            data[at] ^= 1
        else:
            data[at], data[other] = data[other], data[at]
    path.write_bytes(data)


@pytest.mark.parametrize("name", FILES)
def test_no_random_damage_is_read_as_good(tmp_path, name, request):
    path = CheckpointFolder(tmp_path).save(make(3), best=False)
    good = (path / name).read_bytes()
    saved = read_checkpoint(path, with_state=True)
    rng = random.Random(5)
    for _ in range(1000 if request.config.getoption("--slow") else 60):
        damaged(path / name, rng)
        found = None
        with contextlib.suppress(GvitError):
            found = read_checkpoint(path, with_state=True)
        if found is not None:  # white space of the JSON, which says nothing
            assert found.about == saved.about
            assert json.loads((path / name).read_bytes()) == json.loads(good)
        (path / name).write_bytes(good)
    assert read_checkpoint(path, with_state=True).checked


def test_files_of_another_checkpoint_are_noticed(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    one, other = folder.save(make(1, 0.0), best=False), folder.save(make(2, 1.0), best=False)
    shutil.copy(one / "model.safetensors", other / "model.safetensors")
    with pytest.raises(GvitError, match=r"SHA-256 of model\.safetensors"):
        read_checkpoint(other)


def test_an_average_that_is_missing_is_noticed(tmp_path):
    path = CheckpointFolder(tmp_path).save(make(1), best=False)
    (path / "ema.safetensors").unlink()
    with pytest.raises(GvitError, match="damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", FILES)
def test_the_newest_whole_checkpoint_is_found_and_the_others_are_named(tmp_path, name):
    folder = CheckpointFolder(tmp_path, keep=3)
    paths = [folder.save(make(step), best=False) for step in (1, 2, 3)]
    for path in paths[1:]:
        flip(path / name, 60, 1)
    found, passed = newest_sound(tmp_path)
    assert found.step == 1
    assert passed == tuple(reversed(paths[1:]))
    flip(paths[0] / name, 60, 1)
    with pytest.raises(GvitError, match="damaged"):
        newest_sound(tmp_path)
    assert newest_sound(tmp_path / "none") is None


def test_one_checkpoint_can_be_picked(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=3)
    for step in (1, 2, 3):
        folder.save(make(step, float(step)), best=False)
    picked = read_checkpoint(tmp_path / "checkpoints" / "step-00000002")
    assert torch.equal(picked.model["w"], torch.full((2, 3), 2.0))


def test_a_checkpoint_of_0_1_is_read_and_not_called_checked():
    found = read_checkpoint(RUN_0_1, with_state=True)
    assert not found.checked
    assert found.about.files is None
