"""A trained model, from its checkpoint to class probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...dataset.reader import open_dataset
from ...schemas.errors import GvitError
from ...schemas.gaussians import min_scale
from ..data.augment import AugmentConfig
from ..data.batches import evaluation_view
from ..data.loader import SetLoader
from ..data.split import check_kind, evaluation_split
from ..model.classifier import ModelConfig, build_model
from ..model.evaluate import Classify, Evaluation, classifier_of, evaluate
from ..model.refiner import RefinerConfig
from ..model.tokens import FIELD_FEATURES
from ..ranks import joined_ranks
from ..settings import build
from .checkpoint import read_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from ...dataset.reader import Dataset
    from ..ranks import Ranks

__all__ = ["TrainedModel", "evaluate_checkpoint", "load_model"]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model to be used.

    Attributes:
        classify: From sets as they are stored, and their true width / height, to logits.
        classes: Names of the classes.
        class_names: What people call them, where it is known.
        gaussians: Gaussians per set that it was trained on.
        size: Side of the canvas that they were fitted on, in pixels.
        encoding: Storage encoding that rounded them.
        fit: How they were fitted, by name: preset, steps, seed, crop, fit_version.
        epoch: Epochs of training.
        step: Updates.
        device: Where it is.
    """

    classify: Classify
    classes: tuple[str, ...]
    class_names: dict[str, str]
    gaussians: int
    size: int
    encoding: str
    fit: dict[str, Any]
    epoch: int
    step: int
    device: torch.device

    def probabilities(
        self, gaussians: npt.NDArray[np.float32], aspect: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Return class probabilities ``[B, K]`` of sets ``[B, N, 9]`` with true width / height ``[B]``."""
        with torch.no_grad():
            sets, shape = (torch.from_numpy(array).to(self.device) for array in (gaussians, aspect))
            return self.classify(sets, shape).softmax(dim=1).cpu().numpy()


def load_model(path: Path, device: torch.device) -> TrainedModel:
    """Load the model of a checkpoint, or the last of a run.

    Args:
        path: Folder of a checkpoint, of a run, or of a model that was made to be shared.
        device: Where to.

    Raises:
        GvitError: There is none, or it is damaged.
    """
    checkpoint = read_checkpoint(path)
    about = checkpoint.about
    try:
        config: ModelConfig = build(ModelConfig, about["model"])
        view = evaluation_view(build(AugmentConfig, about["augment"]), min_scale(about["data"]["size"]))
        nothing = torch.zeros(FIELD_FEATURES)  # the statistics come with the weights
        refiner = about.get("refiner")
        model = build_model(
            config,
            len(about["data"]["classes"]),
            (nothing, nothing),
            refiner=None if refiner is None else build(RefinerConfig, refiner),
            min_scale=min_scale(about["data"]["size"]),
        )
        model.load_state_dict(dict[str, "Tensor"](checkpoint.weights))
        return TrainedModel(
            classify=classifier_of(model.to(device), torch.float32, view),
            classes=tuple(about["data"]["classes"]),
            class_names=about.get("class_names", {}),
            **{name: about["data"][name] for name in ("gaussians", "size", "encoding", "fit")},
            epoch=about["epoch"],
            step=checkpoint.step,
            device=device,
        )
    except (KeyError, TypeError, RuntimeError) as error:
        raise GvitError(f"the checkpoint in {path} is of another model or version of gvit") from error


def evaluate_checkpoint(
    path: Path, shards: Path, *, device: str = "auto", batch_size: int = 256
) -> tuple[TrainedModel, Evaluation]:
    """Evaluate a checkpoint, or the last of a run, on a dataset: its split "val", or all where it has none.

    Raises:
        GvitError: Checkpoint or dataset cannot be used, or do not go together.
    """
    with joined_ranks(device) as ranks:
        model = load_model(path, ranks.device)
        dataset = evaluation_split(open_dataset(shards))
        check_kind(dataset, model.classes, model.gaussians, model.size, str(path))
        loader = _loader(dataset, ranks, batch_size)
        return model, evaluate(model.classify, loader, len(model.classes), ranks)


def _loader(dataset: Dataset, ranks: Ranks, batch_size: int) -> SetLoader:
    return SetLoader(
        dataset,
        batch_size=batch_size,
        device=ranks.device,
        rank=ranks.rank,
        world_size=ranks.world,
        shuffle=False,
        cache="mmap",
    )
