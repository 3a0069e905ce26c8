"""A run that two ranks began goes on with one, and ends where it would have ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import test_train_loop as loop
from fake_sets import write_dataset
from gvit.train.model.classifier import ModelConfig
from gvit.train.run.run import train

EPOCHS, STEPS_PER_EPOCH = 3, 4
STOP = 6  # amid the second epoch

RANK = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import test_train_resume_ranks as here
from gvit.train.run.interruption import Interrupted
from gvit.train.run.trainer import Trainer

stock = Trainer.update

def update(self, batch):
    stock(self, batch)
    if self.step + 1 == here.STOP:
        os.kill(os.getpid(), signal.SIGINT)

Trainer.update = update
try:
    here.run(sys.argv[1], sys.argv[2])
except Interrupted:
    sys.exit(130)
"""


def run(shards, out):
    """Train without drop-path, whose random numbers are those of a rank."""
    still = ModelConfig(name="vit_tiny_patch16_224", depth=2, width=32, heads=2)
    return train(loop.config_of(Path(shards), Path(out), model=still, epochs=EPOCHS), console=loop.SILENT)


def start_rank(script, rank, port, *arguments):
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
    }
    return subprocess.Popen([sys.executable, str(script), *map(str, arguments)], env=environment)


def interrupt_two_ranks(folder, shards, out):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = folder / "rank.py"
    script.write_text(RANK.format(tests=str(Path(__file__).parent)))
    ranks = [start_rank(script, rank, port, shards, out) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [130, 130]


def losses(out):
    points = [point for point in loop.curve(out) if point["kind"] == "train"]
    return {point["step"]: point["loss"] for point in points}


def last_weights(out):
    path = out / "checkpoints" / f"step-{EPOCHS * STEPS_PER_EPOCH:08d}"
    return load_file(path / "model.safetensors") | {
        f"ema {name}": value for name, value in load_file(path / "ema.safetensors").items()
    }


def test_a_run_that_two_ranks_began_goes_on_with_one_to_the_same_end(tmp_path):
    shards = write_dataset(tmp_path / "shards", {"train": 70, "val": 23})
    out = tmp_path / "resumed"
    interrupt_two_ranks(tmp_path, shards, out)
    assert max(losses(out)) == STOP
    summary = run(shards, out)
    whole = run(shards, tmp_path / "whole")
    assert (summary.samples, summary.steps) == (whole.samples, whole.steps) == (23, EPOCHS * STEPS_PER_EPOCH)
    assert sorted(losses(out)) == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
    assert losses(out) == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)
    mine, theirs = last_weights(out), last_weights(tmp_path / "whole")
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert (value.float() - theirs[name].float()).abs().max() < 1e-2, name
