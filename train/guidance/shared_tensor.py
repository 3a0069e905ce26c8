"""A tensor in a file that all ranks of one machine map: room for what is too large to hold once per rank."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...schemas.errors import GvitError

if TYPE_CHECKING:
    from torch import Tensor

    from ..ranks import Ranks

__all__ = ["MoveStore", "shared_tensor"]


def shared_tensor(
    path: Path,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    ranks: Ranks,
    fill: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Return a tensor of zeros that is the same memory on every rank.

    The file loses its name as soon as all ranks have mapped it, so nothing of it outlives them. Its room, on
    a local disk, is taken at once: a disk that is full only when a page is written ends the process without a
    word. ``fill`` is called on every rank with the tensor, each to fill its part; all wait for all.

    Raises:
        GvitError: The file cannot be made, or ranks run on several machines.
    """
    if not ranks.on_one_machine:
        raise GvitError("this way of guidance shares memory between ranks: start them all on one machine")
    count = math.prod(shape)
    try:
        if ranks.leads:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                _take_room(file.fileno(), count * dtype.itemsize)
        ranks.wait()
        whole = torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(shape)
        ranks.wait()
    except OSError as error:
        raise GvitError(
            f"{path} cannot be made ({error.strerror}): free some space, or choose another --out"
        ) from error
    finally:
        if ranks.leads:
            path.unlink(missing_ok=True)
    if fill is not None:
        fill(whole)
    ranks.wait()
    return whole


def _take_room(file: int, size: int) -> None:
    os.truncate(file, size)
    if hasattr(os, "posix_fallocate"):  # not everywhere
        os.posix_fallocate(file, 0, size)


_STEPS_ON_THEIR_WAY = 2  # of a GPU that lags behind the host by so much


class MoveStore:
    """Moves float16 ``[n, N, 9]`` in -1..1, all 0 at first, of n sets of N Gaussians, shared by the ranks.

    A sample belongs to one rank in a step, so nobody writes where others do. What is to last is in the
    checkpoints.

    Raises:
        GvitError: There is no room, or the ranks run on several machines.
    """

    def __init__(self, run: Path, samples: int, gaussians: int, ranks: Ranks) -> None:
        self._all = shared_tensor(run / ".moves", (samples, gaussians, 9), torch.float16, ranks)
        self._on_their_way: deque[tuple[Tensor, Tensor, torch.cuda.Event]] = deque()

    @property
    def all(self) -> Tensor:
        """The moves of all samples, those written last too."""
        self.settle()
        return self._all

    def read(self, samples: Tensor, device: torch.device) -> Tensor:
        """Return the moves float32 ``[b, N, 9]`` of samples int64 ``[b]`` (on the host) on a device."""
        if any(torch.isin(samples, written).any() for written, _, _ in self._on_their_way):
            self.settle()
        moves = self._all[samples]
        if device.type == "cuda":  # from pageable memory the copy would wait
            return moves.pin_memory().to(device, non_blocking=True).float()
        return moves.float()

    def write(self, samples: Tensor, moves: Tensor) -> None:
        """Replace the moves of samples (on the host), without waiting for a GPU to have them."""
        if not moves.is_cuda:
            self._all[samples] = moves.half()
            return
        there = torch.empty(moves.shape, dtype=torch.float16, pin_memory=True)
        there.copy_(moves, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        self._on_their_way.append((samples, there, copied))
        self._arrive(_STEPS_ON_THEIR_WAY)

    def settle(self) -> None:
        """Wait until all that was written is in its place."""
        self._arrive(0)

    def _arrive(self, left: int) -> None:
        """Put moves in their places, the first first, until those of so many steps are on their way."""
        while len(self._on_their_way) > left:
            samples, there, copied = self._on_their_way.popleft()
            copied.synchronize()
            self._all[samples] = there

    def restore(self, moves: Tensor) -> None:
        """Go back to saved moves of all samples."""
        self.all.copy_(moves)
