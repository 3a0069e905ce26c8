"""A tensor in a file that all ranks of one machine map: room for what is too large to hold once per rank."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..schemas.errors import GvitError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .ranks import Ranks

__all__ = ["shared_tensor"]


def shared_tensor(
    path: Path,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    ranks: Ranks,
    fill: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Return a tensor of zeros that is the same memory on every rank.

    The file loses its name as soon as all ranks have mapped it, so nothing of it outlives them. Pages that
    nobody wrote take no room.

    Args:
        path: Of the file, on a local disk with room for the tensor.
        shape: Of the tensor, at least one element.
        dtype: Of the tensor.
        ranks: Who shares it.
        fill: Called on the leading rank with the tensor, before any other rank sees it.

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
                file.truncate(count * dtype.itemsize)
        ranks.wait()
        whole = torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(shape)
        ranks.wait()
    except OSError as error:
        raise GvitError(f"{path} cannot be made ({error.strerror}): free some space") from error
    finally:
        if ranks.leads:
            path.unlink(missing_ok=True)
    if ranks.leads and fill is not None:
        fill(whole)
    ranks.wait()
    return whole
