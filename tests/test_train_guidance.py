import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import small_runs
from fake_sets import make_sets, write_dataset
from gvit.rendering.operator import render
from gvit.schemas import GvitError
from gvit.schemas.gaussians import MIN_OPACITY
from gvit.train.config import OptimConfig
from gvit.train.data.augment import AugmentConfig
from gvit.train.data.mix import MixConfig
from gvit.train.data.split import open_training_data
from gvit.train.guidance.config import GuidanceConfig, gamma_at
from gvit.train.guidance.guides import DirectGuide, RefineGuide, Strength
from gvit.train.guidance.reconstruction import Reconstruction
from gvit.train.guidance.shared_tensor import MoveStore
from gvit.train.model.motion import MAX_SHIFT, move
from gvit.train.ranks import Ranks
from gvit.train.run.checkpoint import read_checkpoint
from gvit.train.run.interruption import Interrupted
from gvit.train.run.metrics import read_metrics
from gvit.train.run.run import build_trainer, train
from gvit.train.run.trainer import Trainer
from small_runs import ALONE, SILENT

MODES = ("refine", "direct")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "shards", {"train": 70, "val": 23})


def config_of(shards, out, mode="refine", **changes):
    guidance = GuidanceConfig(mode=mode, gamma=0.2, gamma_warmup=0.5, max_psnr_loss=50.0)
    return small_runs.config_of(shards, out, **{"guidance": guidance, **changes})


def trainer_of(config):
    return build_trainer(config, open_training_data(config.data, config.seed), ALONE)


def first_batch(trainer):
    return next(iter(trainer._loader.epoch(0)))


def sets(count=5, gaussians=6):
    return torch.from_numpy(make_sets(count, 0, gaussians)[0])


# ------------------------------------------------------------------- the moves


def test_a_move_of_nothing_leaves_a_set_as_it_is():
    stored = sets()
    torch.testing.assert_close(move(stored, torch.zeros_like(stored), reach=1.0, min_scale=0.01), stored)


def test_the_largest_moves_stay_within_their_bounds_and_the_ranges_of_the_fields():
    stored = sets()
    signs = torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], stored.shape)).float()
    moved = move(stored, signs, reach=2.0, min_scale=0.03)
    shift = (moved - stored)[..., 0:2]
    cos, sin = stored[..., 4].cos(), stored[..., 4].sin()
    along = cos * shift[..., 0] + sin * shift[..., 1]
    across = -sin * shift[..., 0] + cos * shift[..., 1]
    torch.testing.assert_close(along, 2 * MAX_SHIFT * stored[..., 2] * signs[..., 0])
    torch.testing.assert_close(across, 2 * MAX_SHIFT * stored[..., 3] * signs[..., 1])
    assert moved[..., 2:4].min() >= 0.03
    assert moved[..., 8].min() >= MIN_OPACITY
    assert moved[..., 8].max() <= 1.0


# --------------------------------------------------------------- one backward


def test_a_fresh_refiner_moves_nothing_and_changes_no_weight_of_the_model(shards, tmp_path):
    config = config_of(shards, tmp_path)
    plain = trainer_of(replace(config, guidance=GuidanceConfig()))
    refining = trainer_of(config)
    stored = first_batch(refining).gaussians
    torch.testing.assert_close(refining.model.refined(stored), stored)
    known = plain.model.state_dict()
    assert all(torch.equal(known[name], refining.model.state_dict()[name]) for name in known)


@pytest.mark.parametrize("gamma", [0.7, -0.7, 0.0])
def test_the_refiner_gets_gamma_times_the_gradient_of_the_class_and_the_classifier_all_of_it(
    shards, tmp_path, gamma
):
    """Against gradients of the two losses, taken one by one."""
    config = config_of(shards, tmp_path, guidance=GuidanceConfig(mode="refine", reconstruct=1.0))
    trainer = trainer_of(config)
    torch.nn.init.normal_(trainer.model.refiner.head.weight, std=0.05)
    batch = first_batch(trainer)

    def gradients(loss):
        trainer.model.zero_grad()
        loss.backward()
        return {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}

    def losses(gamma):
        torch.manual_seed(0)
        guided = trainer.guide.guide(batch, epoch=0, gamma=gamma)
        logits, targets = trainer.learn(guided.batch)
        return -(targets * logits.log_softmax(1)).sum(1).mean(), guided.loss

    together = gradients(sum(losses(gamma)))
    of_class = gradients(losses(1.0)[0])
    of_image = gradients(losses(1.0)[1])
    for name, found in together.items():
        if name.startswith("refiner"):
            torch.testing.assert_close(found, gamma * of_class[name] + of_image[name], rtol=1e-3, atol=1e-5)
        else:
            torch.testing.assert_close(found, of_class[name], rtol=1e-4, atol=1e-6)


def test_reconstruction_measures_in_units_of_the_error_of_the_fit():
    stored = sets()
    compare = Reconstruction(side=16, blurs=False, unit=0.01, perceptual=0.0)
    guided = stored.clone()
    guided[..., 5:8] += 0.1
    found = compare(guided, compare.goal(stored, torch.arange(5)))
    expected = (
        (render(guided, 16, 16).clamp(0, 1) - render(stored, 16, 16).clamp(0, 1)).square().mean((1, 2, 3))
    )
    torch.testing.assert_close(found.error, expected)
    torch.testing.assert_close(found.loss, expected / 0.01)
    assert compare.psnr_loss(0.01, 0.0) == pytest.approx(3.0103, abs=1e-4)


def test_a_direct_step_is_bounded_touches_only_the_chosen_and_goes_where_the_sign_of_gamma_says(
    shards, tmp_path
):
    found = {}
    for sign in (1.0, -1.0):
        config = config_of(shards, tmp_path, "direct", mix=MixConfig(), augment=AugmentConfig())
        trainer = trainer_of(config)
        batch = first_batch(trainer)
        guided = trainer.guide.guide(batch, epoch=0, gamma=sign)
        logits, targets = trainer.learn(guided.batch)
        loss = -(targets * logits.log_softmax(1)).sum(1)
        loss.mean().backward()
        guided.after_backward()
        moves = trainer.guide.store.read(batch.host_indices, ALONE.device)
        chosen = moves.abs().flatten(1).amax(1) > 0
        assert 0 < int(chosen.sum()) < len(batch)
        assert moves.abs().max() <= 1.0
        trainer.model.eval()
        after = trainer.guide.moved(batch.gaussians, moves * 0.05)
        right = torch.nn.functional.cross_entropy
        before_loss = right(trainer.model(batch.gaussians), batch.labels, reduction="none")
        after_loss = right(trainer.model(after), batch.labels, reduction="none")
        found[sign] = (after_loss - before_loss).detach()[chosen].mean().item()
        assert torch.equal(after_loss[~chosen], before_loss[~chosen])
    assert found[1.0] < 0.0 < found[-1.0]


def test_gamma_rises_from_nothing_and_falls_to_its_last_share():
    config = GuidanceConfig(mode="refine", gamma=-2.0, gamma_warmup=1.0, gamma_final=0.5)
    values = [gamma_at(config, step, 10, 5) for step in range(51)]
    assert values[0] == 0.0
    assert values[10] == -2.0
    assert values[50] == pytest.approx(-1.0)
    assert values[:11] == sorted(values[:11], reverse=True)


# ------------------------------------------------------------- whole trainings


def curve(out):
    return [{k: v for k, v in point.items() if k != "samples_per_second"} for point in read_metrics(out)]


def interrupt_at(monkeypatch, step):
    stock = Trainer.update

    def update(self, batch):
        stock(self, batch)
        if self.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "update", update)


@pytest.mark.parametrize(("mode", "budget"), [("refine", None), ("direct", None), ("direct", 0.3)])
def test_an_interrupted_guided_run_goes_on_bit_for_bit(shards, tmp_path, monkeypatch, mode, budget):
    guidance = GuidanceConfig(mode=mode, gamma=0.2, gamma_warmup=0.5, max_psnr_loss=50.0, psnr_budget=budget)
    whole = config_of(shards, tmp_path / "whole", guidance=guidance)
    train(whole, console=SILENT)
    parts = config_of(shards, tmp_path / "parts", guidance=guidance)
    with monkeypatch.context() as patched:
        interrupt_at(patched, 6)
        with pytest.raises(Interrupted):
            train(parts, console=SILENT)
    train(parts, console=SILENT)
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")
    one, other = (read_checkpoint(tmp_path / name, with_state=True) for name in ("whole", "parts"))
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    states = [part.state["trainer"]["guide"] for part in (one, other)]
    assert ("strength" in states[0]) == (budget is not None)
    assert states[0].get("strength") == states[1].get("strength") != 1.0
    if mode == "direct":
        moves = [part.state["trainer"]["guide"]["moves"] for part in (one, other)]
        assert torch.equal(*moves)
        assert moves[0].abs().max() > 0
    assert not list((tmp_path / "whole").glob(".moves"))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "changes",
    [
        {"run": {"precision": "bfloat16"}},
        {"optim": {"accumulate": 4}},
        {"run": {"compile": True}},
    ],
    ids=["bfloat16", "accumulation", "compiled"],
)
def test_guidance_works_with(shards, tmp_path, mode, changes, monkeypatch):
    compile_ = torch.compile  # into code is for the slow tests
    monkeypatch.setattr(torch, "compile", lambda what: compile_(what, backend="aot_eager"))
    config = config_of(shards, tmp_path, mode, epochs=2)
    for section, values in changes.items():
        config = replace(config, **{section: replace(getattr(config, section), **values)})
    train(config, console=SILENT)
    point = [point for point in read_metrics(tmp_path) if point["kind"] == "guidance"][-1]
    assert point["shift"] > 0.0
    assert sum(point["gradient"].values()) == pytest.approx(1.0)


@pytest.mark.parametrize("mode", MODES)
def test_accumulated_parts_lead_to_the_same_moves(shards, tmp_path, mode):
    """A refiner's loss is a mean over the whole batch, however it is cut."""
    found = []
    for parts in (1, 4):
        config = config_of(shards, tmp_path / str(parts), mode, epochs=2, mix=MixConfig())
        config = replace(
            config,
            optim=OptimConfig(accumulate=parts, ema=None),
            model=replace(config.model, drop_path=0.0),
        )
        train(config, console=SILENT)
        found.append([p["shift"] for p in read_metrics(config.run.out) if p["kind"] == "guidance"])
    assert found[0] == pytest.approx(found[1], rel=2e-2)
    assert found[0][-1] > 0.0


def test_gamma_is_adapted_until_guidance_costs_what_it_may():
    strength, steps = Strength(), []
    for _ in range(12):  # a world in which costs are the square of a step
        cost = 8.0 * strength.factor**2
        steps.append(strength.factor)
        strength.adapt(cost, 0.5)
    assert steps[1] == 0.5  # by no more than half at once
    assert strength.factor == pytest.approx(0.25)
    strength.adapt(-0.1, 0.5)  # sets that became better can be pushed harder
    assert strength.factor == pytest.approx(0.5)


@pytest.mark.parametrize(("gamma", "sign"), [(0.01, 1), (20.0, -1)])
def test_a_run_brings_gamma_nearer_to_its_budget(shards, tmp_path, gamma, sign):
    guidance = GuidanceConfig(mode="direct", gamma=gamma, gamma_warmup=0.0, fraction=1.0, psnr_budget=0.3)
    trainer = trainer_of(config_of(shards, tmp_path, guidance=replace(guidance, max_psnr_loss=50.0)))
    trainer.train_epoch(lambda: None)
    assert (trainer.guide.strength.factor - 1.0) * sign > 0


def test_guidance_that_leads_sets_too_far_is_stopped_and_named(shards, tmp_path):
    guidance = GuidanceConfig(mode="direct", gamma=-50.0, gamma_warmup=0.0, step=1.0, reach=4.0, fraction=1.0)
    config = config_of(shards, tmp_path, guidance=replace(guidance, max_psnr_loss=0.5))
    with pytest.raises(GvitError, match=r"guidance has cost the sets .* dB by step \d+.*smaller --gamma"):
        train(config, console=SILENT)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "steer"}, "guidance.mode must be one of none, refine, direct"),
        ({"mode": "direct", "fraction": 1.5}, "guidance.fraction must be from 0 to 1"),
        ({"mode": "none", "write_tuned": Path("x")}, "without --guidance"),
        ({"mode": "direct", "write_tuned": Path("x")}, "--write-tuned needs --images"),
        ({"images": Path("x")}, "--images are for guidance"),
        ({"mode": "direct", "psnr_budget": 3.0}, "psnr_budget must be less"),
    ],
)
def test_contradictions_are_refused(changes, words):
    with pytest.raises(GvitError, match=words):
        GuidanceConfig(**changes)


# ------------------------------------------------------------------- honesty


class Leak(torch.nn.Module):
    """Hands the answer over: what must never pass."""

    def __init__(self, labels):
        super().__init__()
        self.labels, self.place = labels, 0

    def __call__(self, gaussians, aspect):
        answers = self.labels[self.place : self.place + len(gaussians)]
        self.place += len(gaussians)
        return torch.nn.functional.one_hot(answers, 3).float()


def predictions(trainer, labels, classify_of):
    """What an evaluation predicts where the loader carries these labels."""
    from gvit.train.model.evaluate import evaluate

    trainer.val_loader._labels = labels.numpy()
    return evaluate(classify_of(labels), trainer.val_loader, 3, ALONE).predicted


def ignores_labels(trainer, classify_of):
    labels = torch.from_numpy(trainer.val_loader._labels.copy())
    permuted = labels[torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))]
    assert not torch.equal(labels, permuted)
    return torch.equal(predictions(trainer, labels, classify_of), predictions(trainer, permuted, classify_of))


@pytest.mark.parametrize("mode", ["none", *MODES])
def test_other_labels_at_evaluation_change_no_prediction(shards, tmp_path, mode):
    from gvit.train.model.evaluate import classifier_of

    trainer = trainer_of(config_of(shards, tmp_path, mode))
    if trainer.model.refiner is not None:
        torch.nn.init.normal_(trainer.model.refiner.head.weight, std=0.5)
    for batch in trainer._loader.epoch(0):
        trainer.update(batch)
    assert ignores_labels(trainer, lambda _: classifier_of(trainer.evaluated, torch.float32, trainer._view))


def test_a_planted_leak_is_caught(shards, tmp_path):
    trainer = trainer_of(config_of(shards, tmp_path))
    assert not ignores_labels(trainer, Leak)


def test_evaluation_never_sees_a_move_of_direct_guidance(shards, tmp_path):
    """Whatever is stored: the sets that are evaluated, even the training sets, are as they are on disk."""
    trainer = trainer_of(config_of(shards, tmp_path, "direct"))
    before = trainer.evaluate().predicted
    trainer.guide.store.all.fill_(1.0)
    assert torch.equal(trainer.evaluate().predicted, before)
    assert trainer.model.refiner is None
    assert isinstance(trainer.guide, DirectGuide)
    assert not isinstance(trainer.guide, RefineGuide)


@pytest.mark.parametrize("mode", MODES)
def test_two_ranks_move_the_same_sets_as_one(shards, tmp_path, mode):
    """The ranks share each step's samples; in "direct" also the store of moves."""
    script = Path(__file__).parent / "guided_ranks.py"
    found = []
    for ranks in (1, 2):
        out = tmp_path / str(ranks)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        done = subprocess.run(
            [*command, str(script), str(shards), str(out), mode],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(out)
    one, two = ([point for point in read_metrics(out) if point["kind"] == "guidance"][-1] for out in found)
    assert one["shift"] > 0.0
    assert two["shift"] == pytest.approx(one["shift"], rel=0.02)
    assert two["psnr_loss"] == pytest.approx(one["psnr_loss"], rel=0.05)
    if mode == "direct":
        states = [read_checkpoint(out, with_state=True).state["trainer"]["guide"] for out in found]
        moves = [state["moves"].float() for state in states]
        assert moves[0].abs().max() > 0
        torch.testing.assert_close(*moves, atol=0.02, rtol=0.0)


# ---------------------------------------------------------------------- on a GPU


def updated(shards, out, mode, ranks):
    """A trainer after two updates without chance from the device's own generator, and what moved."""
    config = config_of(shards, out, mode, augment=AugmentConfig())
    config = replace(
        config,
        model=replace(config.model, drop_path=0.0),
        run=replace(config.run, precision="float32"),
        guidance=replace(config.guidance, gamma_warmup=0.0, reconstruct=1.0),
    )
    trainer = build_trainer(config, open_training_data(config.data, config.seed), ranks)
    for batch, _ in zip(trainer._loader.epoch(0), range(2), strict=False):
        trainer.update(batch)
        trainer.step += 1
    return trainer, trainer.take_movement()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", MODES)
def test_a_gpu_guides_alike(shards, tmp_path, mode):
    here, moved_here = updated(shards, tmp_path / "cpu", mode, ALONE)
    there, moved_there = updated(shards, tmp_path / "gpu", mode, Ranks(0, 1, torch.device("cuda")))
    assert moved_there.shift == pytest.approx(moved_here.shift, rel=0.02)
    assert moved_there.psnr_loss == pytest.approx(moved_here.psnr_loss, abs=0.05)
    if mode == "direct":
        apart = (there.guide.store.all.float() - here.guide.store.all.float()).abs()
        assert apart.mean() < 0.01


def test_moves_that_a_gpu_still_writes_are_waited_for_where_they_are_read(tmp_path, monkeypatch):
    """As with a GPU: copies arrive two steps late, or when somebody asks for them."""
    waited = []

    class Event:
        def record(self):
            pass

        def synchronize(self):
            waited.append(self)

    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=False, **options: empty(*shape, **options))
    store = MoveStore(tmp_path, 8, 3, Ranks(0, 1, torch.device("cpu")))
    cpu = torch.device("cpu")
    with monkeypatch.context() as on_gpu:
        on_gpu.setattr(torch.Tensor, "is_cuda", True)
        for step in range(4):
            store.write(torch.tensor([step]), torch.full((1, 3, 9), 0.25 * (step + 1)))
    assert len(waited) == 2
    assert store.read(torch.tensor([7]), cpu).unique().tolist() == [0.0]
    assert len(waited) == 2
    assert store.read(torch.tensor([3, 0]), cpu)[:, 0, 0].tolist() == [1.0, 0.25]
    assert len(waited) == 4
    assert store.all[:4, 0, 0].tolist() == [0.25, 0.5, 0.75, 1.0]
