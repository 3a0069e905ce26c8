"""The classifier: any Vision Transformer of timm, fed with Gaussians in place of patches."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import timm
import torch
from timm.models.naflexvit import NaFlexVit
from torch import Tensor, nn

from ...schemas.errors import GvitError
from ...schemas.limits import Choice, Range, check_limits
from .refiner import Refiner, RefinerConfig
from .rope import use_continuous_rope
from .stem import STEM_FEATURES, SplatStem, stem_flops
from .tokens import SetTokens, TokenConfig

__all__ = [
    "ModelConfig",
    "SetClassifier",
    "build_body",
    "build_model",
    "describe_model",
    "logits_of",
    "undecayed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which Vision Transformer.

    Attributes:
        name: A Vision Transformer of timm, such as vit_base_patch16_224 (of those, the names that begin with
            vit_ can take sets); its patch size plays no part.
        depth: Blocks, 1 to 1024; None takes the named model's.
        width: Channels, a multiple of four times the heads; None takes the named model's.
        heads: Attention heads, 1 to 1024; None takes the named model's.
        rope: Rotate queries and keys by the continuous position of their Gaussians.
        drop_path: Highest probability of skipping a block, 0 to below 1; grows linearly from 0 with depth.
        tokens: The features of a Gaussian.
        stem: "splat" joins to each token what is around it in the rendering of its set; "none" does not.
        stem_side: Side in pixels of that rendering, 8 to 1024.

    Raises:
        GvitError: A value is out of range.
    """

    name: str = "vit_small_patch16_224"
    depth: Annotated[int | None, Range(1, 1024)] = None
    width: Annotated[int | None, Range(1, 65536)] = None
    heads: Annotated[int | None, Range(1, 1024)] = None
    rope: bool = False
    drop_path: Annotated[float, Range(0.0, 1.0, below=True)] = 0.0
    tokens: TokenConfig = field(default_factory=TokenConfig)
    stem: Annotated[str, Choice(("none", "splat"))] = "none"
    stem_side: Annotated[int, Range(8, 1024)] = 32

    def __post_init__(self) -> None:
        check_limits(self, "model.")

    @property
    def channels(self) -> int:
        """Features per token, those of the stem among them."""
        return self.tokens.channels + (STEM_FEATURES if self.stem == "splat" else 0)


class SetClassifier(nn.Module):
    """A Vision Transformer on Gaussian sets.

    The logits do not depend on the order of the tokens, where the depth rank is given (without a stem: or no
    feature), nor on padding. It never sees a label.

    Args:
        tokens: From Gaussians to features.
        vit: From features to logits.
        refiner: Moves sets before they are augmented and classified; None leaves them as they are stored.
        stem: Reads around each Gaussian; None leaves tokens to themselves.
    """

    def __init__(
        self,
        tokens: SetTokens,
        vit: NaFlexVit,
        refiner: Refiner | None = None,
        stem: SplatStem | None = None,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.vit = vit
        self.refiner = refiner
        self.stem = stem

    def refined(self, gaussians: Tensor) -> Tensor:
        """Return stored sets ``[B, N, 9]`` as the refiner moves them; without one, as they are."""
        if self.refiner is None:
            return gaussians
        return self.refiner.moved(gaussians, self.refiner(gaussians))

    def forward(self, gaussians: Tensor, valid: Tensor | None = None, rank: Tensor | None = None) -> Tensor:
        """Return logits ``[B, K]`` of sets.

        Args:
            gaussians: float32 ``[B, N, 9]``; what stands in rows that are not valid does not matter, as long
                as it is finite.
            valid: bool ``[B, N]``; None where all are, which keeps attention free of masks.
            rank: float32 ``[B, N]``, see ``SetTokens.forward``.
        """
        return logits_of(self.vit, self._read(gaussians, valid, rank), gaussians[..., :2], valid)

    def features(self, gaussians: Tensor, valid: Tensor | None = None, rank: Tensor | None = None) -> Tensor:
        """Return what the last layer sees of sets, ``[B, D]``; arguments as of `forward`."""
        read = self._read(gaussians, valid, rank)
        return logits_of(self.vit, read, gaussians[..., :2], valid, pooled=True)

    def _read(self, gaussians: Tensor, valid: Tensor | None, rank: Tensor | None) -> Tensor:
        features = self.tokens(gaussians, rank)
        if self.stem is not None:
            features = torch.cat([features, self.stem(gaussians, valid, rank)], dim=-1)
        return features

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:  # noqa: ARG002
        """Return which parameters are which layer's; timm's optimisers ask where rates differ by layer.

        Below the head, and a refiner, come the last block and what all blocks share, and so on to the stem.
        """
        shared = r"^vit\.(?:norm|fc_norm|rope)"
        return {
            "stem": r"^(?:tokens|stem|vit\.embeds)",
            "blocks": [(r"^vit\.blocks\.(\d+)", None), (shared, (99999,))],
        }

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that are not to decay; timm's optimisers ask for them."""
        return undecayed(self.vit)


def build_model(
    config: ModelConfig,
    classes: int,
    statistics: tuple[Tensor, Tensor],
    *,
    seed: int = 0,
    refiner: RefinerConfig | None = None,
    min_scale: float = 0.0,
) -> SetClassifier:
    """Build a classifier of K classes with fresh weights that depend on the seed alone.

    Args:
        config: Which Vision Transformer.
        classes: K, at least 1.
        statistics: Mean and deviation from ``measure_statistics``.
        seed: Of the weights.
        refiner: Which network moves the sets first, without any change of the other weights; None for none.
        min_scale: Least standard deviation that it leaves, canvas units.

    Raises:
        GvitError: timm has no such model, or it cannot take sets; or width and heads do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit = build_body(config, classes, config.channels)
        mover = None if refiner is None else Refiner(refiner, statistics, min_scale)
        stem = SplatStem(config.stem_side) if config.stem == "splat" else None
    return SetClassifier(SetTokens(config.tokens, *statistics), vit, mover, stem)


def build_body(config: ModelConfig, classes: int, channels: int) -> NaFlexVit:
    """Build the Vision Transformer itself, fed with tokens of so many features at continuous positions.

    Raises:
        GvitError: timm has no such model, or it cannot take sets; or width and heads do not fit.
    """
    vit = _create_vit(config, classes, channels)
    if config.rope:
        use_continuous_rope(vit)
    return vit


def logits_of(
    vit: NaFlexVit, features: Tensor, places: Tensor, valid: Tensor | None, *, pooled: bool = False
) -> Tensor:
    """Return logits ``[B, K]`` of tokens ``[B, N, C]`` at places ``[B, N, 2]``, canvas units.

    With ``pooled``, what the last layer makes them of, ``[B, D]``.
    """
    # NaFlexVit.forward insists on a mask; its two halves do without, and attention stays fused
    encoded: dict[str, Any] = vit.forward_features(features, places, valid)  # pyright: ignore[reportAssignmentType]
    return vit.forward_head(**encoded, pre_logits=pooled)


def describe_model(config: ModelConfig) -> str:
    """Say what a Vision Transformer is: its own size, or the model of timm that has it."""
    if config.depth is None or config.width is None:
        return config.name
    return f"{config.depth} blocks of width {config.width}"


def undecayed(vit: NaFlexVit) -> set[str]:
    """Return the parameters that are not to decay, of a model that holds this one as ``vit``."""
    rope = set[str]() if vit.rope is None else {"vit.rope.freqs"}  # timm forgets where they are
    return {f"vit.{name}" for name in vit.no_weight_decay()} | rope


def _create_vit(config: ModelConfig, classes: int, channels: int) -> NaFlexVit:
    if not timm.is_model(config.name):
        raise GvitError(f"timm has no model {config.name!r}{_suggest(config.name, timm.list_models())}")
    sizes: dict[str, Any] = {"depth": config.depth, "embed_dim": config.width, "num_heads": config.heads}
    sizes = {name: value for name, value in sizes.items() if value is not None}
    if config.rope:
        sizes["rope_type"] = "mixed"
        sizes["rope_temperature"] = 10.0
    not_a_vit = f"timm cannot feed {config.name} with sets: give a name that begins with vit_"
    try:
        vit = timm.create_model(
            config.name,
            use_naflex=True,
            patch_size=1,
            img_size=16,
            in_chans=channels,
            embed_proj_type="linear",
            pos_embed="none",
            class_token=False,
            global_pool="avg",
            num_classes=classes,
            use_key_only_attn_mask=True,
            drop_path_rate=config.drop_path,
            **sizes,
        )
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        if "use_naflex" in str(error):
            raise GvitError(not_a_vit) from error
        raise GvitError(f"model {config.name} cannot be built on sets: {_first_line(error)}") from error
    if not isinstance(vit, NaFlexVit):
        raise GvitError(not_a_vit)
    return vit


def _suggest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def forward_flops(config: ModelConfig, tokens: int) -> float:
    """Return the floating-point operations of one forward pass of one set, multiply and add counted apart."""
    with torch.device("meta"):
        vit = _create_vit(config, 1000, config.channels)
    width, depth = vit.embed_dim, len(vit.blocks)
    weights = sum(p.numel() for p in vit.blocks.parameters() if p.ndim == 2)
    stem = stem_flops(config.stem_side, tokens) if config.stem == "splat" else 0.0
    return stem + float(2 * weights * tokens + 4 * depth * tokens**2 * width + 2 * math.prod((width, 1000)))
