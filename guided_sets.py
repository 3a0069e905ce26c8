"""What stage 2 knows about sets after guidance, handed to stage 1, which must not ask it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .render.guided_view import GuidedSet
    from .schemas.dataset import Dataset

__all__ = ["find_guided_set"]


def find_guided_set(run: Path, dataset: Dataset, key: str) -> GuidedSet:
    """Return a set as the guidance of a run moves it.

    Args:
        run: Folder of a run or of a checkpoint.
        dataset: The sets.
        key: Of one of them.

    Raises:
        GvitError: The run was not guided, or its guidance does not go with this set.
    """
    from .train.guided_sets import find_guided_set as find  # torch, which a look at stored sets need not load

    return find(run, dataset, key)
