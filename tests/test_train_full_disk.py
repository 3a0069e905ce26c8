"""Training on a disk that fills up: one sentence, and what was there before."""

from __future__ import annotations

import errno
import os
import resource
from dataclasses import replace

import pytest
import torch

import test_train_loop as loop
from fake_sets import write_dataset
from gvit.schemas import GvitError
from gvit.train.guidance.shared_tensor import MoveStore
from gvit.train.run.checkpoint import CheckpointFolder, read_checkpoint
from gvit.train.run.metrics import MetricLog
from gvit.train.run.run import train
from test_train_checkpoint import make, steps


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("part", ["model", "ema", "state"])
def test_a_checkpoint_without_room_says_what_the_disk_said_and_leaves_what_was_there(tmp_path, part):
    folder = CheckpointFolder(tmp_path)
    folder.save(make(1), best=True)
    large = replace(make(2), **{part: {"w": torch.zeros(10**6)}})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            folder.save(large, best=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert steps(tmp_path) == [1]
    assert read_checkpoint(tmp_path, with_state=True).step == 1


@pytest.mark.parametrize("action", ["__init__", "write", "close"])
def test_a_run_that_cannot_write_its_metrics_ends_with_one_sentence(tmp_path, monkeypatch, action):
    shards = write_dataset(tmp_path / "shards", {"train": 70, "val": 23})
    stock = MetricLog.close

    def fail(self, *_, **__):
        if action == "close":
            stock(self)
        full()

    monkeypatch.setattr(MetricLog, action, fail)
    with pytest.raises(GvitError, match=r"^cannot save in .*: No space left on device$"):
        train(loop.config_of(shards, tmp_path / "run", epochs=1), console=loop.SILENT)


def test_moves_without_room_are_refused_before_any_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        GvitError, match=r"\.moves cannot be made \(No space left on device\): free some space"
    ):
        MoveStore(tmp_path, 10, 6, loop.ALONE)
    assert not any(tmp_path.iterdir())
