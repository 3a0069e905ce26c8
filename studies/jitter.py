"""The control of an experiment on guidance: moves of the same kind that no gradient has a part in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from gvit.train.guidance.guides import DirectGuide, Guided

if TYPE_CHECKING:
    from gvit.train.data.loader import Batch

__all__ = ["JitterGuide"]


@dataclass(frozen=True, kw_only=True)
class JitterGuide(DirectGuide):
    """Moves the sets that "direct" would move, within the same bounds, but at random and anew each time.

    ``gamma`` is the standard deviation of a move in parts of its bounds.
    """

    def guide(self, batch: Batch, *, epoch: int, gamma: float) -> Guided:
        """Move some of the sets; torch is seeded by the step."""
        samples, rows = self.choose(batch, epoch)
        stored = batch.gaussians[rows]
        moved = self.moved(stored, (torch.randn_like(stored) * gamma * self.strength.factor).clamp(-1.0, 1.0))
        self.measure(samples, stored, moved, self.reconstruction.goal(stored, samples))
        return Guided(replace(batch, gaussians=batch.gaussians.index_put((rows,), moved)))
