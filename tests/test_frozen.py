"""What gvit 0.1 left unfinished goes on: see data/make_unfinished.py."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gvit import open_dataset
from gvit.commands import app as cli
from gvit.dataset.verify import verify
from gvit.train.run.checkpoint import read_checkpoint
from gvit.train.run.metrics import read_metrics
from gvit.train.run.run import train
from small_runs import SILENT, config_of

DATA = Path(__file__).parent / "data"
FIT = ("--num-gaussians", "8", "--size", "16", "--steps", "20", "--shard-size", "5", "--workers", "1")


def write_images(root):
    """The same as of data/make_unfinished.py."""
    for number in range(12):
        rng = np.random.default_rng(number)
        pixels = np.full((20, 24 + number, 3), rng.integers(0, 256, 3), np.uint8)
        for _ in range(6):
            top, left = rng.integers(0, 16, 2)
            pixels[top : top + rng.integers(3, 9), left : left + rng.integers(3, 9)] = rng.integers(0, 256, 3)
        path = root / ("val" if number >= 9 else "train") / ("ant", "bee")[number % 2] / f"{number}.ppm"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width, _ = pixels.shape
        path.write_bytes(f"P6 {width} {height} 255\n".encode() + pixels.tobytes())
    (root / "train" / "ant" / "broken.ppm").write_bytes(b"no image")


def gvit(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["gvit", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.fixture
def unfinished(tmp_path):
    """The dataset of a machine that went away some time ago."""
    shutil.copytree(DATA / "unfinished-0.1", tmp_path / "dst")
    os.utime(tmp_path / "dst" / ".gvit" / "lease", (1, 1))
    write_images(tmp_path / "images")
    return tmp_path / "dst"


def test_an_unfinished_dataset_of_0_1_is_finished(unfinished, tmp_path, monkeypatch, capfd):
    kept = {path.name: path.read_bytes() for path in unfinished.glob("shard-000000.*")}
    assert len(kept) == 3
    assert gvit(monkeypatch, "encode", tmp_path / "images", unfinished, *FIT) == 2
    assert "what was begun with gvit 0.1 goes on with --color raw" in " ".join(capfd.readouterr().err.split())
    assert gvit(monkeypatch, "encode", tmp_path / "images", unfinished, *FIT, "--color", "raw", "--json") == 1
    facts = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (facts["images"], facts["failed"]) == (12, 1)
    assert {name: (unfinished / name).read_bytes() for name in kept} == kept
    assert verify(unfinished, deep=True).faults == ()
    assert not list(unfinished.glob(".*.tmp"))


def test_what_0_1_had_journaled_is_not_fitted_again(unfinished, tmp_path, monkeypatch):
    entry = (unfinished / ".gvit" / "journal" / "shard-000001" / "00000005").read_bytes()
    values = entry.split(b"\n", 2)[2]
    assert gvit(monkeypatch, "encode", tmp_path / "images", unfinished, *FIT, "--color", "raw") == 1
    dataset = open_dataset(unfinished)
    assert values in (unfinished / "shard-000001.tar").read_bytes()
    runs = json.loads((unfinished / ".gvit" / "run.json").read_text())["runs"]
    assert runs[-1]["images"] == len(dataset) + 1 - 5 - 5  # of 13 inputs, neither the done nor the journaled


def test_an_unfinished_dataset_of_0_1_counts_as_stopped(unfinished, monkeypatch, capfd):
    assert gvit(monkeypatch, "status", unfinished) == 1
    assert "stopped" in capfd.readouterr().out


@pytest.mark.usefixtures("one_thread")
def test_an_unfinished_run_of_0_1_goes_on_nearly_to_the_end_that_it_would_have_had(tmp_path):
    shutil.copytree(DATA / "run-0.1", tmp_path / "run")
    base = config_of(DATA / "v1", tmp_path / "run")
    config = replace(base, batch_size=6, model=replace(base.model, depth=1, width=16))
    assert read_checkpoint(tmp_path / "run").step == 5
    summary = train(config, console=SILENT)
    assert (summary.epochs, summary.steps) == (3, 9)
    steps = [point["step"] for point in read_metrics(tmp_path / "run") if point["kind"] == "train"]
    assert steps == list(range(1, 10))
    whole = train(replace(config, run=replace(config.run, out=tmp_path / "whole")), console=SILENT)
    # nearly: dropout left out each Gaussian by chance in 0.1, and leaves out as many of each set since
    assert whole.loss == pytest.approx(summary.loss, rel=1e-2)
    one, other = (read_checkpoint(tmp_path / name).model for name in ("run", "whole"))
    assert one.keys() == other.keys()
    weights = [torch.cat([model[name].float().flatten() for name in one]) for model in (one, other)]
    assert (weights[0] - weights[1]).norm() < 0.05 * weights[1].norm()
