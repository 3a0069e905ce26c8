"""A set as the guidance of a finished run leaves it, to be looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...schemas.documents import build
from ...schemas.errors import GvitError
from ...schemas.gaussians import GuidedSet, min_scale
from ..config import TrainConfig
from ..data.split import TrainingData, open_training_data
from ..model.motion import move
from ..model.refiner import Refiner, RefinerConfig
from ..model.tokens import FIELD_FEATURES
from ..settings import read_yaml
from .checkpoint import Checkpoint, read_checkpoint
from .resume import CONFIG_NAME, describe_data

if TYPE_CHECKING:
    from torch import Tensor

    from ...dataset.reader import Dataset

__all__ = ["find_guided_set"]

_PREFIX = "refiner."
"""Of the names of a refiner's weights among a classifier's."""


def find_guided_set(path: Path, dataset: Dataset, key: str) -> GuidedSet:
    """Return a set of a dataset as the run's guidance moves it.

    A refiner moves any set, as at evaluation. What "direct" moved are the training sets alone.

    Args:
        path: Folder of a run or of a checkpoint.
        dataset: Of the same kind as the one that was trained on; for "direct" the very same.
        key: Of a set in it.

    Raises:
        GvitError: The run was not guided, or its guidance does not go with this set.
    """
    checkpoint = read_checkpoint(path)
    stored = torch.from_numpy(dataset.by_key(key).gaussians)
    try:
        refiner = checkpoint.about.refiner
        if refiner is not None:
            mode, moved = "refine", _refined(checkpoint, refiner, stored, dataset, path)
        else:
            mode, moved = "direct", _directed(path, stored, dataset, key)
        return GuidedSet(moved.numpy(), mode, checkpoint.about.epoch)
    except (KeyError, TypeError, IndexError, RuntimeError) as error:
        raise GvitError(f"the checkpoint in {path} is of another version of gvit") from error


def _refined(
    checkpoint: Checkpoint, config: RefinerConfig, stored: Tensor, dataset: Dataset, path: Path
) -> Tensor:
    """A set ``[N, 9]`` as the refiner of a checkpoint moves it."""
    about, found = checkpoint.about.data, dataset.manifest
    if (found.gaussians, found.size) != (about.gaussians, about.size):
        raise GvitError(
            f"{dataset.path} has sets of {found.gaussians} Gaussians fitted at size {found.size}, and {path} "
            f"was trained on {about.gaussians} at size {about.size}: give a dataset of that kind"
        )
    nothing = torch.zeros(FIELD_FEATURES)  # the statistics come with the weights
    refiner = Refiner(config, (nothing, nothing), min_scale(found.size)).eval()
    refiner.load_state_dict(
        {name[len(_PREFIX) :]: w for name, w in checkpoint.weights.items() if name.startswith(_PREFIX)}
    )
    with torch.no_grad():
        return refiner.moved(stored[None], refiner(stored[None]))[0]


def _directed(path: Path, stored: Tensor, dataset: Dataset, key: str) -> Tensor:
    """A training set ``[N, 9]`` with the moves that a checkpoint has for it."""
    config = _config_beside(path)
    if config.guidance.mode != "direct":
        raise GvitError(
            f"{path} was trained without guidance and moves no Gaussians: give a run of "
            "gvit train --guidance refine or direct"
        )
    checkpoint = read_checkpoint(path, with_state=True)
    moves: Tensor = checkpoint.state["trainer"]["guide"]["moves"]
    trained = _training_part(config, dataset)
    if trained is None or _digest(trained) != checkpoint.about.data.train:
        raise GvitError(
            f"{dataset.path} is not the dataset that {path} was trained on, whose sets alone direct guidance "
            f"moves: give {config.data.shards}"
        )
    if key not in trained.keys:
        raise GvitError(
            f"{key} was not trained on, and direct guidance moves training sets only: give the key of one"
        )
    place = trained.keys.index(key)
    least = min_scale(dataset.manifest.size)
    return move(stored, moves[place].float(), reach=config.guidance.reach, min_scale=least)


def _config_beside(path: Path) -> TrainConfig:
    """The config of the run that a folder, or the checkpoint in it, belongs to."""
    places = [path / CONFIG_NAME, path.resolve().parent.parent / CONFIG_NAME]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise GvitError(
            f"{path} has no refiner, and lies apart from the run whose {CONFIG_NAME} says what else was "
            "guided: give the folder of the run"
        )
    return build(TrainConfig, read_yaml(found))


def _training_part(config: TrainConfig, dataset: Dataset) -> Dataset | None:
    """What a run would train on, given a dataset; None where it would not take it."""
    if config.data.val_shards is not None:  # they have no part in it, and may be gone
        return dataset.split("train") if "train" in dataset.manifest.splits else dataset
    try:
        return open_training_data(replace(config.data, shards=dataset.path), config.seed).train
    except GvitError:
        return None


def _digest(part: Dataset) -> str:
    return describe_data(TrainingData(part, part)).train
