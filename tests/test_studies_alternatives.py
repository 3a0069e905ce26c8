"""The arms of the study of alternatives are what they say."""

from dataclasses import replace

import pytest
import torch

from fake_sets import write_dataset
from gvit.studies.alternatives import AdversarialTrainer, CrossStem, LocalStem, build
from gvit.train.data.split import open_training_data
from gvit.train.model.classifier import ModelConfig
from gvit.train.model.motion import move
from small_runs import config_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def built(tmp_path):
    shards = write_dataset(tmp_path / "shards", {"train": 70, "val": 23})
    model = ModelConfig(name="vit_tiny_patch16_224", depth=2, width=32, heads=2, drop_path=0.4, stem="splat")
    config = replace(config_of(shards, tmp_path / "out", model=model), epochs=1)
    data = open_training_data(config.data, 0)
    return lambda arm: build(arm, config, data)


@pytest.mark.parametrize(("arm", "kind"), [("cross", CrossStem), ("local", LocalStem)])
def test_another_reader_stands_in_the_stems_place_and_learns(built, arm, kind):
    trainer = built(arm)
    assert type(trainer.model.stem) is kind
    before = {name: value.clone() for name, value in trainer.model.stem.named_parameters()}
    trainer.train_epoch(lambda: None)
    used = [
        name for name, value in trainer.model.stem.named_parameters() if not torch.equal(value, before[name])
    ]
    own = set(dict(kind(8).named_parameters())) - set(dict(kind.__mro__[1](8).named_parameters()))
    assert own <= set(used)


def passes_of(trainer):
    """Logits of the clean and of the moved pass of one batch, and its soft targets."""
    torch.manual_seed(0)
    trainer._network.train()
    logits, targets = trainer.learn(next(iter(trainer._loader.epoch(0, 0))))
    half = len(logits) // 2
    return logits[:half], logits[half:], targets[:half]


def loss(logits, targets):
    return -(targets * logits.detach().log_softmax(dim=1)).sum(dim=1).mean().item()


def test_an_adversarial_pass_goes_against_the_class_with_the_same_paths_dropped(built):
    clean, moved, targets = passes_of(built("adversarial=0.5"))
    assert loss(moved, targets) > loss(clean, targets)
    still, same, _ = passes_of(built("adversarial=0.0"))
    assert torch.equal(still, same)
    still, other, _ = passes_of(built("unmatched=0.0"))
    assert not torch.equal(still, other)
    assert isinstance(built("random=0.5"), AdversarialTrainer)


def test_a_move_of_no_reach_leaves_sets_as_they_are(built):
    trainer = built("gaussians")
    sets = next(iter(trainer._loader.epoch(0, 0))).gaussians
    moved = move(sets, torch.ones_like(sets), reach=0.0, min_scale=0.0)
    torch.testing.assert_close(moved, sets)
