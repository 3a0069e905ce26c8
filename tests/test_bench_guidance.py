import json
import sys
from dataclasses import fields

import pytest
import torch

from fake_sets import write_dataset
from gvit.schemas import GvitError
from gvit.studies import guidance
from gvit.studies.jitter import JitterGuide
from gvit.studies.outcomes import Outcome, compare, noted
from gvit.train.config import RunConfig, TrainConfig
from gvit.train.data.split import DataConfig, open_training_data
from gvit.train.guidance.config import GuidanceConfig
from gvit.train.model.classifier import ModelConfig
from gvit.train.model.motion import MAX_SHIFT
from gvit.train.ranks import Ranks
from gvit.train.run.run import build_trainer
from small_dataset import save_images

RUNS = ("none", "direct gamma=-0.5", "jitter gamma=0.1", "patches")


def outcome(name, seed, right):
    top1 = sum(right) / len(right)
    return Outcome(
        name=name,
        seed=seed,
        top1=top1,
        right=right,
        psnr_loss=None,
        seconds=2.0,
        weights=10,
        epochs=3,
        setting="",
    )


def test_differences_are_paired_by_seed_and_image():
    base = [outcome("none", seed, [1, 0, 0, 1]) for seed in (0, 1)]
    better = [outcome("refine", 1, [1, 1, 0, 1]), outcome("refine", 0, [1, 1, 1, 1])]
    _, found = compare([*base, *better], "none")
    assert found["difference"] == pytest.approx((0.25 + 0.5) / 2)
    low, high = found["interval"]
    assert low < found["difference"] < high
    same = compare([*base, *(outcome("again", seed, [1, 0, 0, 1]) for seed in (0, 1))], "none")[1]
    assert same["interval"] == (0.0, 0.0)


def test_a_log_of_another_version_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "log").write_text('{"name": "none", "seed": 0}\n')
    with pytest.raises(GvitError, match="no log of this version"):
        noted(tmp_path / "log", "")


def test_a_finished_run_is_in_the_log_and_not_run_again(tmp_path, monkeypatch, capsys):
    save_images(tmp_path / "images", per_class=24)
    (tmp_path / "images" / "train" / "red" / "broken.png").unlink()
    log = tmp_path / "runs.jsonl"
    runs = [word for name in RUNS for word in ("--run", name)]
    words = f"{tmp_path / 'images'} --num-gaussians 16 --size 32 --preset fast --epochs 1 --seeds 1 --json"
    places = ["--shards", str(tmp_path / "shards"), "--log", str(log), "--set", "model.depth=1"]
    monkeypatch.setattr(sys, "argv", ["guidance", *words.split(), *places, *runs])
    jittered, plain = [], JitterGuide.guide
    monkeypatch.setattr(
        JitterGuide, "guide", lambda self, *a, **k: jittered.append(self.config.gamma) or plain(self, *a, **k)
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        guidance.main()
        first = json.loads(capsys.readouterr().out.splitlines()[-1])
        written = log.read_text()
        guidance.main()
    finally:
        torch.set_num_threads(before)
    assert [found["name"] for found in first] == list(RUNS)
    assert all(len(found["top1"]) == 1 for found in first)
    assert set(jittered) == {0.1}
    assert len(written.splitlines()) == len(RUNS)
    assert log.read_text() == written
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first


def test_jitter_moves_some_of_the_sets_within_the_bounds_of_direct_and_counts_what_it_costs(tmp_path):
    write_dataset(tmp_path / "shards", {"train": 64, "val": 8})
    config = TrainConfig(
        batch_size=64,
        data=DataConfig(shards=tmp_path / "shards"),
        run=RunConfig(out=tmp_path / "run", tensorboard=False),
        model=ModelConfig(name="vit_tiny_patch16_224", depth=1, width=32, heads=2),
        guidance=GuidanceConfig(mode="direct", reach=2.0),
    )
    data, alone = open_training_data(config.data, 0), Ranks(0, 1, torch.device("cpu"))
    trainer = build_trainer(config, data, alone)
    guide = JitterGuide(**{part.name: getattr(trainer.guide, part.name) for part in fields(trainer.guide)})
    batch = next(iter(trainer._loader.epoch(0)))
    moved = guide.guide(batch, epoch=0, gamma=1.0).batch.gaussians
    assert 20 < int((moved != batch.gaussians).flatten(1).any(dim=1).sum()) < 44
    shift = (moved - batch.gaussians)[..., 0:2].norm(dim=-1)
    assert (shift <= 2 * MAX_SHIFT * batch.gaussians[..., 2:4].norm(dim=-1) + 1e-6).all()
    assert guide.report(alone).psnr_loss > 0
    assert not guide.store.all.any()
