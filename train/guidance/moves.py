"""The moves of every training set under direct guidance, shared by the processes of one machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .shared_tensor import shared_tensor

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ..ranks import Ranks

__all__ = ["MoveStore"]


class MoveStore:
    """Moves float16 ``[n, N, 9]`` in -1..1, all 0 at first.

    A sample belongs to one rank in a step, so nobody writes where others do. What is to last is in the
    checkpoints.

    Args:
        run: Folder of the run.
        samples: Number of sets, n.
        gaussians: Gaussians in a set, N.
        ranks: Who shares it; on one machine.

    Raises:
        GvitError: There is no room.
    """

    def __init__(self, run: Path, samples: int, gaussians: int, ranks: Ranks) -> None:
        self.all: Tensor = shared_tensor(run / ".moves", (samples, gaussians, 9), torch.float16, ranks)

    def read(self, samples: Tensor, device: torch.device) -> Tensor:
        """Return the moves float32 ``[b, N, 9]`` of samples int64 ``[b]`` (on the host) on a device."""
        return self.all[samples].to(device).float()

    def write(self, samples: Tensor, moves: Tensor) -> None:
        """Replace the moves of samples (on the host)."""
        self.all[samples] = moves.to("cpu", torch.float16)

    def restore(self, moves: Tensor) -> None:
        """Go back to saved moves of all samples."""
        self.all.copy_(moves)
