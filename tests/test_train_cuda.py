"""A step of training on a GPU, seen without one: on fake tensors, compiled, and compiled under two ranks."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import small_runs
from fake_sets import write_dataset
from gvit.train.config import OptimConfig
from gvit.train.data.augment import AugmentConfig
from gvit.train.data.batches import BatchPlan
from gvit.train.data.loader import Batch
from gvit.train.data.mix import MixConfig
from gvit.train.guidance.config import GuidanceConfig
from gvit.train.guidance.guides import DirectGuide, Guide, RefineGuide
from gvit.train.guidance.movement import Movement
from gvit.train.guidance.reconstruction import Reconstruction
from gvit.train.model.classifier import ModelConfig, build_model
from gvit.train.model.refiner import RefinerConfig
from gvit.train.run import means
from gvit.train.run.checkpoint import read_checkpoint
from gvit.train.run.means import made_here, resolve_compile
from gvit.train.run.metrics import read_metrics
from gvit.train.run.run import train

pytestmark = pytest.mark.usefixtures("one_thread")

SETS, COUNT, CLASSES = 8, 32, 10
FLIP = AugmentConfig(flip=0.5)
EVERYTHING = AugmentConfig(
    crop_scale=(0.3, 1.0), flip=0.5, brightness=0.4, hue=0.1, grayscale=0.1, dropout=0.1
)
MIXED = MixConfig(cutmix=1.0, mixup=0.8)
COPIES = ("_to_copy", "copy_")
NO_LAUNCH = {
    *(
        "view",
        "_unsafe_view",
        "expand",
        "permute",
        "transpose",
        "t",
        "unsqueeze",
        "squeeze",
        "select",
        "slice",
    ),
    *("unbind", "split", "split_with_sizes", "detach", "alias", "as_strided", "reshape", "_reshape_alias"),
    *("empty", "empty_like", "new_empty", "empty_strided", "lift_fresh", "is_same_size", "device"),
}


class Watch(TorchDispatchMode):
    """Counts what is launched, and notes copies between devices."""

    def __init__(self):
        super().__init__()
        self.launched, self.products, self.copies = Counter(), Counter(), []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.split("::")[1]
        found = function(*args, **(kwargs or {}))
        tensors = [each for each in args if isinstance(each, torch.Tensor)]
        if name in COPIES and any(each.device != found.device and each.ndim for each in tensors):
            self.copies.append((name, [tuple(each.shape) for each in tensors]))
        if name in ("mm", "addmm"):
            self.products[tensors[-1].dtype] += 1
        if name not in NO_LAUNCH:
            self.launched[name] += 1
        return found


class FakeMoves:
    """The moves of "direct", on the GPU."""

    def read(self, samples, device):
        return torch.zeros(len(samples), COUNT, 9, device=device)

    def write(self, samples, moves):
        assert moves.is_cuda


def to_gpu(module):
    """Give a module fake parameters on a GPU."""
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, value in held.items():
                if value is not None:
                    there = torch.empty(value.shape, dtype=value.dtype, device="cuda")
                    held[name] = torch.nn.Parameter(there) if held is part._parameters else there


def fake_batch(partner):
    gaussians = torch.empty(SETS, COUNT, 9, device="cuda")
    whole = torch.empty(SETS, dtype=torch.int64, device="cuda")
    batch = Batch(gaussians, whole, whole, torch.empty(SETS, device="cuda"), torch.arange(SETS))
    return replace(batch, partner=replace(batch)) if partner else batch


def guide_of(mode, model, monkeypatch):
    if mode == "none":
        return Guide()
    parts = {
        "config": GuidanceConfig(mode=mode),
        "reconstruction": Reconstruction(side=32, blurs=False, unit=0.01, perceptual=0.1),
        "movement": Movement(32, torch.device("cuda")),
        "seed": 0,
    }
    chosen = torch.arange(4), torch.empty(4, dtype=torch.int64, device="cuda")
    monkeypatch.setattr("gvit.train.guidance.guides._choose", lambda *_: chosen)  # made on the host
    if mode == "direct":
        return DirectGuide(**parts, store=FakeMoves(), min_scale=0.01)
    return RefineGuide(**parts, refiner=model.refiner)


@pytest.mark.parametrize("mode", ["none", "refine", "direct"])
@pytest.mark.parametrize(
    ("augment", "mixing"), [(FLIP, MixConfig()), (EVERYTHING, MIXED)], ids=["flip", "everything"]
)
def test_a_step_stays_on_the_gpu(monkeypatch, mode, augment, mixing):
    """Mixed devices raise on fake tensors, and so does all that waits to learn a value.

    Torch has no way back on fake tensors of a GPU that is not there; gradients are made up.
    """
    monkeypatch.setattr(torch.amp.autocast_mode.torch.cuda.amp, "common", FakeCommon, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.autograd, "grad", lambda _loss, leaf: (torch.zeros_like(leaf),))
    attend, masks = torch.nn.functional.scaled_dot_product_attention, []

    def attention(*args, attn_mask=None, **options):
        masks.append(None if attn_mask is None else tuple(attn_mask.shape))
        return attend(*args, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    plan = BatchPlan(0, CLASSES, 0.1, augment, mixing)
    config = ModelConfig(name="vit_tiny_patch16_224", depth=2, width=48, heads=3, drop_path=0.1)
    refiner = RefinerConfig() if mode == "refine" else None
    model = build_model(config, CLASSES, (torch.zeros(10), torch.ones(10)), refiner=refiner).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_gpu(model)
        guide = guide_of(mode, model, monkeypatch)
        batch = fake_batch(mixing.mixes)
        epoch = plan.keys(0, torch.device("cuda"))
        with Watch() as watch:
            guided = guide.guide(batch, epoch=0, gamma=0.1)
            made = plan.prepare(guided.batch, epoch)
            with torch.autocast("cuda", torch.bfloat16):
                logits = model(made.gaussians, made.there)
            losses = -(made.targets * logits.float().log_softmax(1)).sum(1)
            loss = losses.mean() if guided.loss is None else losses.mean() + guided.loss
            guided.after_backward()
    assert loss.is_cuda
    assert watch.copies == []
    assert logits.dtype == torch.bfloat16
    assert made.gaussians.dtype == torch.float32
    assert sum(watch.launched.values()) < (600 if augment is FLIP else 1600)
    kept = round(COUNT * (1 - augment.dropout))  # the others have left the sets
    assert masks[-2:] == 2 * [None if augment is FLIP else (SETS, 1, 1, kept)]
    assert watch.products[torch.bfloat16] >= 8
    assert mode == "refine" or not watch.products[torch.float32]


class FakeCommon:
    @staticmethod
    def amp_definitely_not_available():
        return False


@pytest.mark.parametrize(
    ("augment", "mixing"), [(FLIP, MixConfig()), (EVERYTHING, MIXED)], ids=["flip", "everything"]
)
def test_augmentation_is_one_graph_that_serves_all_epochs(augment, mixing):
    from fake_sets import make_sets

    sets = torch.from_numpy(make_sets(SETS, 0, COUNT)[0])
    numbers = torch.arange(SETS)
    batch = Batch(sets, numbers % CLASSES, numbers, torch.ones(SETS), numbers)
    batch = replace(batch, partner=replace(batch, gaussians=sets.flip(0))) if mixing.mixes else batch
    plan = BatchPlan(3, CLASSES, 0.1, augment, mixing)
    seen = []

    def backend(graph, _inputs):
        seen.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(plan.prepare, fullgraph=True, backend=backend)
    for epoch in (0, 1, 7):
        ours = compiled(batch, plan.keys(epoch, torch.device("cpu")))
        eager = plan.prepare(batch, epoch)
        torch.testing.assert_close(ours.gaussians, eager.gaussians)
        torch.testing.assert_close(ours.targets, eager.targets)
        assert (ours.there is None) == (eager.there is None) == (augment is FLIP)
    assert len(seen) == 1


def test_the_classifier_is_one_graph():
    config = ModelConfig(name="vit_tiny_patch16_224", depth=2, width=48, heads=3)
    model = build_model(config, CLASSES, (torch.zeros(10), torch.ones(10)))
    torch._dynamo.reset()
    found = torch._dynamo.explain(model)(torch.rand(2, COUNT, 9), torch.ones(2, COUNT, dtype=torch.bool))
    assert (found.graph_count, found.graph_break_count) == (1, 0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "shards", {"train": 70, "val": 23})


def compiled_config(shards, out, *, compiled):
    config = small_runs.config_of(
        shards, out, epochs=2, mix=MixConfig(cutmix=0.5), optim=OptimConfig(ema=None)
    )
    steady = replace(config.model, drop_path=0.0)  # paths are dropped by the random numbers of each rank
    return replace(config, run=replace(config.run, compile=compiled), model=steady)


def losses_of(out):
    return [point["loss"] for point in read_metrics(out) if "loss" in point]


def test_a_compiled_run_learns_what_an_eager_one_does(shards, tmp_path, monkeypatch):
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda what: compile_(what, backend="aot_eager"))
    for compiled in (False, True):
        train(compiled_config(shards, tmp_path / str(compiled), compiled=compiled), console=small_runs.SILENT)
    eager, ours = (losses_of(tmp_path / str(compiled)) for compiled in (False, True))
    assert len(eager) >= 8
    assert ours == pytest.approx(eager, rel=1e-4)


@pytest.mark.slow
def test_two_ranks_that_compile_learn_what_one_does_eagerly(shards, tmp_path):
    train(compiled_config(shards, tmp_path / "one", compiled=False), console=small_runs.SILENT)
    program = Path(__file__).with_name("compiled_ranks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*command, str(program), str(shards), str(tmp_path / "two")], check=True, timeout=500)
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-3)


@pytest.mark.parametrize(("fused", "other"), [(None, True), (True, None)])
def test_an_optimiser_goes_on_with_the_kernels_of_its_own_device(fused, other):
    weight = torch.nn.Parameter(torch.ones(3))
    theirs, ours = (torch.optim.AdamW([weight], fused=kind) for kind in (fused, other))
    weight.grad = torch.ones(3)
    theirs.step()
    state = theirs.state_dict()
    ours.load_state_dict(made_here(state, ours))
    assert ours.param_groups[0]["fused"] is other
    assert state["param_groups"][0]["fused"] is fused
    ours.step()


def test_long_runs_on_gpus_with_a_compiler_are_compiled_unless_it_is_said_otherwise(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(means.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert [resolve_compile(asked, cpu, 10**6) for asked in (None, True, False)] == [False, True, False]
    assert [resolve_compile(asked, gpu, 10**6) for asked in (None, True, False)] == [True, True, False]
    assert [resolve_compile(asked, gpu, 100) for asked in (None, True, False)] == [False, True, False]
    monkeypatch.setattr(means.shutil, "which", lambda _name: None)
    assert resolve_compile(None, gpu, 10**6) is False


def test_a_checkpoint_of_a_compiled_run_is_that_of_any(shards, tmp_path, monkeypatch):
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda what: compile_(what, backend="eager"))
    train(compiled_config(shards, tmp_path / "run", compiled=True), console=small_runs.SILENT)
    names = read_checkpoint(tmp_path / "run").weights
    assert not any("_orig_mod" in name for name in names)
