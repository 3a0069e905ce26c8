"""What a run trains by: precision, compiler, optimiser, its rank's share of a batch."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, cast

import torch
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ...schemas.errors import GvitError

if TYPE_CHECKING:
    from ..config import TrainConfig
    from ..ranks import Ranks

__all__ = ["made_here", "make_optimiser", "resolve_compile", "resolve_precision", "share_of", "wrap"]

_STEPS_TO_COMPILE_FOR = 2000
_FINE_TUNING_DECAY = 0.75


def resolve_precision(name: str, device: torch.device) -> str:
    """Return the precision that "auto" stands for on a device: bfloat16 where a GPU has it."""
    if name != "auto":
        return name
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def resolve_compile(asked: bool | None, device: torch.device, steps: int) -> bool:
    """Return whether to compile: as asked, else where it pays.

    That is on a GPU, in a run of so many steps that the minute it takes is won back, and where there is the C
    compiler that it needs.
    """
    if asked is not None:
        return asked
    pays = device.type == "cuda" and steps >= _STEPS_TO_COMPILE_FOR
    return pays and any(map(shutil.which, ("cc", "gcc", "clang")))


def wrap(model: nn.Module, ranks: Ranks, *, compiled: bool) -> nn.Module:
    """Return a model compiled, if so, and synchronised where there are several ranks."""
    network = cast("nn.Module", torch.compile(model)) if compiled else model
    if ranks.world == 1:
        return network
    return DistributedDataParallel(network, device_ids=None if ranks.device.type == "cpu" else [ranks.device])


def make_optimiser(config: TrainConfig, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """Build the optimiser of a run.

    Raises:
        GvitError: timm has none of that name, or not with these settings.
    """
    optim = config.optim
    fused: dict[str, Any] = {"fused": True} if optim.name == "adamw" and device.type == "cuda" else {}
    try:
        return create_optimizer_v2(
            model,
            opt=optim.name,
            lr=config.schedule.lr,
            weight_decay=optim.weight_decay,
            betas=optim.betas,
            layer_decay=_layer_decay(config),
            **fused,
        )
    except (ValueError, AssertionError, TypeError) as error:
        raise GvitError(f"optim.name {optim.name!r} is no optimiser of timm that fits: {error}") from error


def _layer_decay(config: TrainConfig) -> float | None:
    """Return the factor from layer to layer that timm is to be told, None for none."""
    asked = config.optim.layer_decay
    found = asked if asked is not None else _FINE_TUNING_DECAY if config.init is not None else 1.0
    return None if found == 1.0 else found


def share_of(config: TrainConfig, ranks: Ranks) -> int:
    """Return how many samples of a batch are this rank's.

    Raises:
        GvitError: They are not equally many for all.
    """
    share, rest = divmod(config.batch_size, ranks.world)
    if rest:
        raise GvitError(
            f"a batch of {config.batch_size} cannot be shared equally by {ranks.world} ranks: "
            "choose a multiple with --batch-size"
        )
    return share


def made_here(state: dict[str, Any], own: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimiser's state with the kernels of this device in place of those that wrote it."""
    groups = [
        {**group, "fused": ours["fused"]} if "fused" in group and "fused" in ours else group
        for group, ours in zip(state["param_groups"], own.param_groups, strict=False)
    ]
    return {**state, "param_groups": groups} if len(groups) == len(state["param_groups"]) else state
