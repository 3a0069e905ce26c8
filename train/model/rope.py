"""Rotary attention at continuous positions: queries and keys turn by where their Gaussians are.

The frequencies are those of timm's mixed rope (learned, per block and head); stock timm would round positions
to a grid of pixels, and turns by four copies of each number where one complex product does.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from timm.layers.attention import AttentionRope
    from timm.models.naflexvit import NaFlexVit

__all__ = ["use_continuous_rope"]

_GRID = 8.0
"""Coordinates run over twice this: the 14 to 16 patches per side that the frequencies are made for."""


def use_continuous_rope(vit: NaFlexVit) -> None:
    """Let a Vision Transformer of timm with ``rope_type="mixed"`` take continuous positions."""
    vit._generate_rope_naflex = MethodType(_angles, vit)  # pyright: ignore[reportPrivateUsage]
    for block in vit.blocks:
        block.attn.forward = MethodType(_attend, block.attn)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]


def _angles(vit: NaFlexVit, _: Tensor, xy: Tensor) -> list[Tensor]:
    """By how much the channel pairs of each block turn.

    Args:
        vit: Has learned frequencies ``[2, depth, heads, head_dim / 2]``.
        _: Tokens.
        xy: Centres in canvas coordinates ``[B, N, 2]``.

    Returns:
        float32 ``[B, N, heads, head_dim / 2]`` per block.
    """
    frequencies: Tensor = vit.rope.freqs  # pyright: ignore[reportOptionalMemberAccess, reportAssignmentType]
    along_x, along_y = frequencies.float()
    place = ((xy.float() + 1.0) * _GRID)[:, :, None, None, :]
    return [place[..., 0] * fx + place[..., 1] * fy for fx, fy in zip(along_x, along_y, strict=True)]


def _attend(
    attention: AttentionRope,
    x: Tensor,
    rope: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Attend among tokens ``[B, N, C]``, queries and keys turned by ``rope`` (``_angles``)."""
    batch, count, _ = x.shape
    qkv: Any = attention.qkv
    parts: Tensor = qkv(x).view(batch, count, 3, attention.num_heads, attention.head_dim)
    turned = _turned(parts[:, :, :2], rope.unsqueeze(2)).type_as(parts)
    query, key = turned.transpose(1, 3).unbind(2)
    value = parts[:, :, 2].transpose(1, 2)
    mixed = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attn_mask, is_causal=is_causal
    )
    return attention.proj(mixed.transpose(1, 2).flatten(2))


def _turned(values: Tensor, angle: Tensor) -> Tensor:
    """Turn each pair of channels, float32: one complex product, or what a compiler can fuse."""
    pairs = values.float().unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling():
        turn = torch.polar(torch.ones_like(angle), angle)
        return torch.view_as_real(torch.view_as_complex(pairs) * turn).flatten(-2)
    (re, im), cos, sin = pairs.unbind(-1), angle.cos(), angle.sin()
    return torch.stack([re * cos - im * sin, re * sin + im * cos], dim=-1).flatten(-2)
