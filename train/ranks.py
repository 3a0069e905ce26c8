"""The processes that train together under torchrun, or the one that trains alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from ..schemas.errors import GvitError

__all__ = ["Ranks", "joined_ranks"]


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among all: ``rank`` of ``world``, on ``device``."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    @property
    def on_one_machine(self) -> bool:
        """Whether all processes share a machine, by what torchrun says."""
        return self.world == int(os.environ.get("LOCAL_WORLD_SIZE", self.world))

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, the same on each."""
        if self.world == 1:
            return values
        summed = values.to(self.device, copy=True)
        distributed.all_reduce(summed)
        return summed

    def any(self, happened: bool) -> bool:
        """Whether something happened on any rank; all ranks have to ask at the same time."""
        if self.world == 1:  # a process alone need not wait for its device
            return happened
        return bool(self.total(torch.tensor(int(happened), device=self.device)).item())

    def wait(self) -> None:
        """Wait until every rank has come this far."""
        if self.world > 1:
            distributed.barrier()


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device that "auto", "cpu" or "cuda" stands for here.

    Raises:
        GvitError: A GPU is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise GvitError("there is no CUDA device here: use --device cpu, or auto")
    if name == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


@contextlib.contextmanager
def joined_ranks(device: str) -> Generator[Ranks]:
    """Join the ranks that torchrun started; a process that it did not start is alone.

    Raises:
        GvitError: A GPU is asked for and there is none.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world == 1:
        yield Ranks(0, 1, chosen)
        return
    on_gpu = chosen.type == "cuda"
    distributed.init_process_group("nccl" if on_gpu else "gloo", device_id=chosen if on_gpu else None)
    try:
        yield Ranks(distributed.get_rank(), world, chosen)
    finally:
        distributed.destroy_process_group()
