"""The refiner: a small network that moves the stored Gaussians before the classifier sees them.

It learns from reconstruction and, through gamma, from the classifier; at evaluation it runs as in training
and knows nothing but the set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ...schemas.errors import GvitError
from ...schemas.limits import Range, check_limits
from .motion import move
from .tokens import SetTokens, TokenConfig

__all__ = ["Refiner", "RefinerConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinerConfig:
    """The network of the mode "refine".

    Attributes:
        width: Channels, a multiple of the heads.
        heads: Attention heads, at least 1.
        depth: Blocks, at least 1.
        reach: Factor of the largest moves (``gvit.train.model.motion``), above 0 to 4.
        tokens: The features of a Gaussian.

    Raises:
        GvitError: A value is out of range.
    """

    width: Annotated[int, Range(1, 65536)] = 64
    heads: Annotated[int, Range(1, 1024)] = 4
    depth: Annotated[int, Range(1, 1024)] = 1
    reach: Annotated[float, Range(0.0, 4.0, above=True)] = 1.0
    tokens: TokenConfig = field(default_factory=lambda: TokenConfig(octaves=4, depth_rank=False))

    def __post_init__(self) -> None:
        check_limits(self, "refiner.")
        if self.width % self.heads:
            raise GvitError(f"refiner.width must be a multiple of the {self.heads} heads, not {self.width}")


class Refiner(nn.Module):
    """Attention over a set, and one bounded move for each Gaussian; a fresh one moves nothing.

    Args:
        config: The network.
        statistics: Mean and deviation of the field features, see ``measure_statistics``.
        min_scale: Least standard deviation, canvas units.
    """

    def __init__(self, config: RefinerConfig, statistics: tuple[Tensor, Tensor], min_scale: float) -> None:
        super().__init__()
        self.config = config
        self.min_scale = min_scale
        self.tokens = SetTokens(config.tokens, *statistics)
        self.embed = nn.Linear(config.tokens.channels, config.width)
        self.blocks = nn.Sequential(
            *(Block(config.width, config.heads, mlp_ratio=2.0, qkv_bias=True) for _ in range(config.depth))
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 9)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, gaussians: Tensor) -> Tensor:
        """Return the moves ``[B, N, 9]``, -1..1, of sets ``[B, N, 9]``; see ``motion.move``."""
        features = self.blocks(self.embed(self.tokens(gaussians)))
        return self.head(self.norm(features)).float().tanh()

    def moved(self, gaussians: Tensor, moves: Tensor) -> Tensor:
        """Return sets ``[B, N, 9]`` with each Gaussian moved, float32."""
        return move(gaussians, moves, reach=self.config.reach, min_scale=self.min_scale)
