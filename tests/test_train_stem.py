"""The splat stem: what it draws, where it reads, and that it changes nothing that must not change."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fake_sets import write_dataset
from gvit.rendering.operator import render
from gvit.schemas import GvitError
from gvit.train.data.mix import LabelledSets, MixConfig, mix
from gvit.train.model.classifier import ModelConfig, build_model, forward_flops
from gvit.train.model.stem import STEM_FEATURES, SplatStem, stem_flops
from gvit.train.model.tokens import depth_rank
from gvit.train.run.run import train
from small_runs import config_of

SIDE = 16


def sets(count=3, gaussians=12, seed=0):
    rng = np.random.default_rng(seed)
    made = rng.uniform(0.1, 0.9, (count, gaussians, 9)).astype(np.float32)
    made[..., :2] = made[..., :2] * 2 - 1
    made[..., 2:4] *= 0.5
    return torch.from_numpy(made)


def stem(seed=0):
    torch.manual_seed(seed)
    return SplatStem(SIDE)


def model(**changes):
    config = ModelConfig(
        name="vit_tiny_patch16_224", depth=2, width=64, heads=2, stem="splat", stem_side=SIDE, **changes
    )
    return build_model(config, 5, (torch.zeros(10), torch.ones(10))).eval()


def test_it_adds_features_that_depend_on_the_neighbours():
    one, other = sets(1), sets(1)
    other[:, 1:, 5:8] = 1.0 - other[:, 1:, 5:8]  # all but the first
    module = stem()
    features = module(one)
    assert features.shape == (1, 12, STEM_FEATURES)
    assert not torch.allclose(features[:, 0], module(other)[:, 0], atol=1e-3)


def test_order_does_not_matter_where_the_rank_is_given():
    gaussians, module = sets(), model()
    rank = depth_rank(gaussians)
    turned = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    same = module(gaussians[:, turned], None, rank[:, turned])
    assert torch.allclose(module(gaussians), same, atol=1e-5)
    assert not torch.allclose(module(gaussians), module(gaussians.flip(1), None, rank), atol=1e-5)


def test_what_is_not_there_is_not_drawn():
    gaussians, module = sets(), model()
    wall = torch.tensor([0.0, 0, 9, 9, 0, 1, 0, 1, 1]).expand(3, 4, 9)
    rank = depth_rank(gaussians)
    behind = torch.cat([torch.full((3, 4), -1.0), rank], dim=1)  # the wall would be in front of all
    valid = torch.tensor([False] * 4 + [True] * 12).expand(3, 16)
    padded = module(torch.cat([wall, gaussians], dim=1), valid, behind)
    assert torch.allclose(module(gaussians, None, rank), padded, atol=1e-5)


def test_the_picture_that_it_reads_is_the_rendering_and_lies_where_it_was_drawn():
    """A single sharp Gaussian: its own colour at its own centre, by a map read at canvas coordinates."""
    gaussians = torch.tensor([[[0.5, -0.5, 0.4, 0.4, 0, 0.9, 0.1, 0.3, 1.0], [0, 0, 9, 9, 0, 0, 0, 0, 1]]])
    module = stem()
    seen, plain = [], module.maps
    module.maps = lambda picture: seen.append(plain(picture)) or seen[-1]
    module(gaussians)
    picture = seen[0][0]
    expected = (render(gaussians, SIDE, SIDE).clamp(0, 1) - 0.45) * 4
    assert torch.equal(picture, expected)
    read = torch.nn.functional.grid_sample(picture, gaussians[:, :, None, :2], align_corners=False)
    assert torch.allclose(read[0, :, 0, 0] / 4 + 0.45, torch.tensor([0.9, 0.1, 0.3]), atol=0.08)


def test_gradients_reach_the_gaussians_by_rendering_and_by_places():
    gaussians = sets(1).requires_grad_()
    (slope,) = torch.autograd.grad(stem()(gaussians)[:, 0].square().sum(), gaussians)
    assert (slope[0, 1:, 5:8].abs().sum(1) > 0).any()  # colours of others: only by rendering
    frozen = stem()
    plain = frozen.maps
    frozen.maps = lambda picture: plain(picture.detach())
    (by_place,) = torch.autograd.grad(frozen(gaussians)[:, 0].square().sum(), gaussians)
    assert (by_place[0, 0, :2] != 0).all()
    assert not by_place[0, 1:].any()


def test_the_gradient_is_that_of_finite_differences():
    gaussians, module = sets(1), stem()
    leaf = gaussians.clone().requires_grad_()
    (slope,) = torch.autograd.grad(module(leaf).square().mean(), leaf)
    direction = slope / slope.norm()
    step = 1e-3
    with torch.no_grad():
        up, down = (module(gaussians + s * step * direction).double().square().mean() for s in (1, -1))
    assert float((up - down) / (2 * step)) == pytest.approx(float(slope.norm()), rel=0.05)


def test_it_is_float32_under_autocast():
    gaussians, module = sets(), stem()
    with torch.autocast("cpu", torch.bfloat16):
        found = module(gaussians)
    assert found.dtype is torch.float32
    assert torch.equal(found, module(gaussians))


def test_it_stays_in_one_compiled_graph():
    gaussians, module = sets(), model()
    valid = torch.ones(3, 12, dtype=torch.bool)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(gaussians, valid), module(gaussians, valid), atol=1e-5)


def test_an_opaque_set_does_not_hide_the_one_that_it_is_mixed_with():
    """Ranks of the two alternate: half of the picture's front is the partner's."""
    own, partner = sets(1, 64), sets(1, 64, seed=1)
    own[..., 5:8], partner[..., 5:8] = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])
    own[..., 8] = partner[..., 8] = 1.0
    labels = torch.zeros(1, dtype=torch.int64)
    mixed = mix(
        LabelledSets(own, None, labels),
        LabelledSets(partner, None, labels + 1),
        torch.zeros(1, dtype=torch.int64),
        seed=3,
        epoch=0,
        config=MixConfig(mixup=1.0),
        num_classes=2,
    )
    seen = render(mixed.gaussians, SIDE, SIDE).mean(dim=(0, 2, 3))
    share = float(mixed.targets[0, 0])
    assert 0.1 < share < 0.9
    assert float(seen[0] / (seen[0] + seen[2])) == pytest.approx(share, abs=0.2)


def test_its_operations_are_counted():
    config = ModelConfig(name="vit_small_patch16_224")
    with_stem = ModelConfig(name="vit_small_patch16_224", stem="splat", stem_side=56)
    more = forward_flops(with_stem, 256) - forward_flops(config, 256)
    assert more == pytest.approx(stem_flops(56, 256))
    counted = FlopCounterMode(display=False)
    with counted, torch.no_grad():
        SplatStem(56)(sets(1, 256))
    assert stem_flops(56, 256) == pytest.approx(counted.get_total_flops())


def test_a_run_from_before_the_stem_goes_on_without_one(tmp_path):
    config = config_of(write_dataset(tmp_path / "shards", {"train": 70, "val": 20}), tmp_path / "run")
    first = replace(config, epochs=1)
    train(first)
    recorded = tmp_path / "run" / "config.yaml"
    lines = recorded.read_text().splitlines(keepends=True)
    older = [line for line in lines if "stem" not in line]
    assert len(older) == len(lines) - 2
    recorded.write_text("".join(older))
    recipe = replace(first, model=replace(first.model, stem="splat", stem_side=56))
    with pytest.raises(GvitError, match=r"model\.stem"):
        train(recipe)
    train(replace(recipe, model=replace(recipe.model, stem="none")))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_reads_what_a_cpu_reads_and_passes_the_same_gradients():
    gaussians, module = sets(4), stem()
    found = []
    for device in ("cpu", "cuda"):
        leaf = gaussians.to(device).requires_grad_()
        there = torch.ones(leaf.shape[:2], dtype=torch.bool, device=device)
        there[:, ::3] = False
        with torch.backends.cudnn.flags(allow_tf32=False):
            features = module.to(device)(leaf, there)
            (slope,) = torch.autograd.grad(features.square().mean(), leaf)
        found.append((features.detach().cpu(), slope.cpu()))
    (features, slope), (other, other_slope) = found
    assert torch.allclose(features, other, atol=1e-4)
    assert torch.allclose(slope, other_slope, atol=1e-3 * float(slope.abs().max()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_stem_is_in_the_compiled_graph():
    gaussians, module = sets(4).cuda(), stem().cuda()
    compiled = torch.compile(module, fullgraph=True)
    with torch.backends.cudnn.flags(allow_tf32=False):  # convolutions else differ by a thousandth
        assert torch.allclose(compiled(gaussians), module(gaussians), atol=1e-3)
