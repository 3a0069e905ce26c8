import copy

import pytest
import torch
from timm.layers.attention import AttentionRope
from timm.layers.pos_embed_sincos import get_mixed_freqs
from torch.nn import functional

from fake_sets import make_sets
from gvit.schemas import GvitError
from gvit.train.model.classifier import ModelConfig, build_model
from gvit.train.model.tokens import FIELD_FEATURES, TokenConfig, depth_rank

STATISTICS = (torch.zeros(FIELD_FEATURES), torch.ones(FIELD_FEATURES))
SMALL = {"name": "vit_tiny_patch16_224", "depth": 2, "width": 32, "heads": 2}
VARIANTS = [{}, {"rope": True}, {"tokens": TokenConfig(depth_rank=False)}]


def small(seed=0, **changes):
    return build_model(ModelConfig(**(SMALL | changes)), 3, STATISTICS, seed=seed).eval()


def sets(count=4):
    return torch.from_numpy(make_sets(count, 0)[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_do_not_depend_on_the_order_of_the_tokens(variant):
    model, gaussians = small(**variant), sets()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = model(gaussians[:, order], None, depth_rank(gaussians)[:, order])
    torch.testing.assert_close(shuffled, model(gaussians), atol=1e-5, rtol=1e-5)


def test_without_the_depth_rank_no_rank_is_needed_for_that():
    model, gaussians = small(tokens=TokenConfig(depth_rank=False)), sets()
    torch.testing.assert_close(model(gaussians.flip(1)), model(gaussians), atol=1e-5, rtol=1e-5)


def test_with_the_depth_rank_it_matters_who_is_in_front():
    model, gaussians = small(), sets()
    assert (model(gaussians.flip(1)) - model(gaussians)).abs().max() > 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_do_not_depend_on_padding(variant):
    model, gaussians = small(**variant), sets()
    rank = depth_rank(gaussians)
    padded = torch.cat([gaussians, torch.full((4, 5, 9), 0.7)], dim=1)
    valid = torch.arange(11).expand(4, 11) < 6
    there = model(padded, valid, torch.cat([rank, torch.full((4, 5), 0.3)], dim=1))
    torch.testing.assert_close(there, model(gaussians), atol=1e-5, rtol=1e-5)


def test_sets_of_different_lengths_share_a_batch():
    model, gaussians = small(tokens=TokenConfig(depth_rank=False)), sets(2)
    valid = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    both = model(gaussians, valid)
    torch.testing.assert_close(both[1:], model(gaussians[1:, :3]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[:1], model(gaussians[:1]), atol=1e-5, rtol=1e-5)


def test_attention_is_given_no_mask_where_all_tokens_are_there(monkeypatch):
    masks, stock = [], functional.scaled_dot_product_attention

    def spy(*args, attn_mask=None, **kwargs):
        masks.append(attn_mask)
        return stock(*args, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    model = small()
    model(sets())
    assert masks == [None, None]
    model(sets(), torch.ones(4, 6, dtype=torch.bool))
    assert masks[2].shape == (4, 1, 1, 6)  # of keys alone, not of pairs


def test_rope_turns_by_continuous_places_and_passes_gradients_to_them():
    model = small(rope=True, tokens=TokenConfig(octaves=0, depth_rank=False))
    gaussians = sets().requires_grad_()
    seen = []
    model.vit.blocks[0].attn.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["rope"]), with_kwargs=True
    )
    moved = gaussians.detach().clone()
    moved[..., 0] += 1e-3  # a grid of pixels would not notice
    model(gaussians).sum().backward()
    model(moved)
    assert 0 < (seen[0] - seen[1]).abs().max() < 0.1
    assert gaussians.grad[..., :2].abs().max() > 0


def test_turning_is_that_of_timm(monkeypatch):
    model = small(rope=True)
    attention = model.vit.blocks[0].attn
    tokens, places = torch.randn(2, 6, attention.proj.in_features), torch.rand(2, 6, 2) * 2 - 1
    frequencies = model.vit.rope.freqs[:, 0]
    x, y = ((places[..., axis].unsqueeze(1) + 1) * 8 for axis in (0, 1))
    stock = AttentionRope.forward(attention, tokens, get_mixed_freqs(frequencies, x, y, dtype=torch.float32))
    angles = model.vit._generate_rope_naflex(tokens, places)[0]
    torch.testing.assert_close(attention(tokens, angles), stock)
    eager = attention(tokens, angles)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(attention(tokens, angles), eager)


def test_a_copy_of_a_model_with_rope_uses_its_own_frequencies():
    model = small(rope=True)
    twin = copy.deepcopy(model)
    before = twin(sets())
    with torch.no_grad():
        model.vit.rope.freqs += 1.0
    assert torch.equal(twin(sets()), before)


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    one = small(seed=5)
    torch.manual_seed(2)
    two, other = small(seed=5), small(seed=6)
    gaussians = sets()
    assert torch.equal(one(gaussians), two(gaussians))
    assert not torch.equal(one(gaussians), other(gaussians))


NAMES = ["vit_tiny_patch16_224", "vit_small_patch32_224", "vit_pwee_patch16_reg1_gap_256"]


@pytest.mark.parametrize("name", NAMES)
def test_any_vision_transformer_of_timm_takes_sets(name):
    model = build_model(ModelConfig(name=name, depth=1), 5, STATISTICS)
    assert model(sets()).shape == (4, 5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "vit_smal_patch16_224"}, "did you mean vit_small_patch16_224"),
        ({"name": "resnet18"}, "cannot feed resnet18 with sets"),
        ({"width": 30, "heads": 4}, "cannot be built"),
    ],
)
def test_a_model_that_cannot_be_is_refused_in_one_sentence(changes, words):
    with pytest.raises(GvitError, match=words) as refused:
        small(**changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("changes", [{"depth": 0}, {"heads": -1}, {"drop_path": 1.0}])
def test_a_config_out_of_range_is_refused(changes):
    with pytest.raises(GvitError, match=next(iter(changes))):
        ModelConfig(**changes)


def test_positions_and_frequencies_are_spared_from_decay():
    assert small(rope=True).no_weight_decay() >= {"vit.rope.freqs"}
