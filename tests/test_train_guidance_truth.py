"""Guidance by images, and what keeps guided sets true to them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fake_sets import SIZE, write_dataset
from gvit.rendering.operator import render
from gvit.train.guidance.config import GuidanceConfig
from gvit.train.guidance.guides import RefineGuide
from gvit.train.guidance.reconstruction import Reconstruction
from gvit.train.model.evaluate import classifier_of
from gvit.train.run.trainer import DivergedError
from test_train_guidance import config_of, first_batch, sets, trainer_of


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "shards", {"train": 70, "val": 23})


def showing(images):
    return Reconstruction(side=SIZE, blurs=False, unit=1e3, perceptual=1.0, images=lambda _, __: images)


def test_the_loss_of_stored_sets_against_images_is_known_with_its_perceptual_part():
    stored, others = sets(), sets(10)[5:]
    compare = showing(render(others, SIZE, SIZE).clamp(0.0, 1.0))
    found = compare(stored, compare.goal(stored, torch.arange(5)))
    assert (found.stored_loss > found.stored_error).all()
    assert torch.equal(found.stored_loss, found.loss)
    assert torch.equal(found.stored_error, found.error)


def test_sets_that_show_their_images_better_than_the_stored_ones_are_not_led_back(shards, tmp_path):
    guide = trainer_of(config_of(shards, tmp_path, "direct")).guide
    stored = sets()
    moves = 0.5 * torch.randn(stored.shape, generator=torch.Generator().manual_seed(0)).clamp(-1.0, 1.0)
    images = render(guide.moved(stored, moves), SIZE, SIZE).clamp(0.0, 1.0)
    guide = replace(guide, reconstruction=showing(images))
    goal = guide.reconstruction.goal(stored, torch.arange(5))
    assert torch.equal(guide._way_back(0.9 * moves, stored, goal), torch.zeros_like(stored))
    assert guide._way_back(-moves, stored, goal).abs().amax((1, 2)).min() > 0.0


def test_a_reconstruction_that_is_no_number_stops_the_run(shards, tmp_path, monkeypatch):
    trainer = trainer_of(config_of(shards, tmp_path, guidance=GuidanceConfig(mode="refine")))
    monkeypatch.setattr(RefineGuide, "_loss", lambda _, __, moves, ___: moves.sum() * float("nan"))
    trainer.update(first_batch(trainer))
    with pytest.raises(DivergedError, match="the loss is no number any more at step 1"):
        trainer.check_health()


def test_evaluation_refines_as_training_does_whatever_the_precision_of_the_network(shards, tmp_path):
    trainer = trainer_of(config_of(shards, tmp_path))
    model, stored, seen = trainer.model, sets(), []
    torch.nn.init.normal_(model.refiner.head.weight, std=0.5)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        classifier_of(model, torch.bfloat16, trainer._view)(stored, torch.ones(5))
        assert torch.equal(seen[0], model.refined(stored))
