"""Guided runs of two ranks, which share a store of moves and each count what they moved themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fake_sets import SIZE, write_dataset
from gvit.dataset.reader import open_dataset
from gvit.train.guidance.movement import Movement
from gvit.train.guidance.source_images import SourceImages
from gvit.train.ranks import Ranks
from gvit.train.run.checkpoint import read_checkpoint
from gvit.train.run.metrics import read_metrics

CPU = torch.device("cpu")
STOP = 6  # amid the second epoch of four steps


def start(shards, out, *stop):
    script = Path(__file__).parent / "guided_ranks.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(script), str(shards), str(out), "direct", *map(str, stop)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def curve(out):
    return [{k: v for k, v in point.items() if k != "samples_per_second"} for point in read_metrics(out)]


def test_an_interrupted_run_of_two_ranks_goes_on_bit_for_bit(tmp_path):
    shards = write_dataset(tmp_path / "shards", {"train": 70, "val": 23})
    start(shards, tmp_path / "whole")
    start(shards, tmp_path / "parts", STOP)
    assert max(point["step"] for point in read_metrics(tmp_path / "parts")) == STOP
    start(shards, tmp_path / "parts")
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")
    one, other = (read_checkpoint(tmp_path / name, with_state=True) for name in ("whole", "parts"))
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    moves = [part.state["trainer"]["guide"]["moves"] for part in (one, other)]
    assert torch.equal(*moves)
    assert moves[0].abs().max() > 0


def test_counts_of_two_ranks_go_on_with_one_and_none_is_counted_twice():
    counts = torch.arange(28.0, dtype=torch.float64).view(2, 14)
    found = []
    for saved, rank, world in ((counts, 0, 1), (counts[:1], 0, 2), (counts[:1], 1, 2), (counts, 1, 2)):
        movement = Movement(16, CPU)
        movement.restore(saved, Ranks(rank, world, CPU))
        found.append(movement._sums)
    assert torch.equal(torch.stack(found), torch.stack([counts.sum(0), counts[0], 0 * counts[0], counts[1]]))


@dataclass(frozen=True, slots=True)
class Thread(Ranks):
    """A rank that is a thread of this process."""

    barrier: threading.Barrier

    def wait(self):
        self.barrier.wait(60)


def test_two_ranks_read_each_source_image_once_and_both_have_all(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "shards", {"train": 7}))
    barrier, asked = threading.Barrier(2), []

    def read_images(rank):
        def find(row):
            asked.append((rank, row.row))
            return np.full((SIZE, SIZE, 3), row.row, np.uint8)

        return SourceImages(dataset, find, SIZE, tmp_path / "run", Thread(rank, 2, CPU, barrier))

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(read_images, range(2)))
    assert sorted(number for _, number in asked) == list(range(7))
    assert {rank for rank, _ in asked} == {0, 1}
    for images in both:
        found = images(torch.arange(7), CPU)
        assert torch.equal(found, (torch.arange(7.0) / 255).view(7, 1, 1, 1).expand_as(found))
    assert not any((tmp_path / "run").iterdir())
