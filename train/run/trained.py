"""A trained model, from its checkpoint to class probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...dataset.reader import open_dataset
from ...schemas.errors import GvitError
from ...schemas.gaussians import min_scale
from ..data.batches import evaluation_view
from ..data.loader import SetLoader
from ..data.split import check_kind, evaluation_split
from ..model.classifier import build_model
from ..model.evaluate import Classify, Evaluation, classifier_of, evaluate
from ..model.tokens import FIELD_FEATURES
from ..ranks import joined_ranks
from .about import About, SharedAbout
from .checkpoint import read_checkpoint

if TYPE_CHECKING:
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
        about: What it is, and the sets that it takes.
        device: Where it is.
    """

    classify: Classify
    about: About
    device: torch.device

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.about.data.classes

    @property
    def step(self) -> int:
        """Updates that it had."""
        return self.about.step

    @property
    def names(self) -> list[str]:
        """What people call the classes; their own names where that is not known."""
        known = self.about.class_names if isinstance(self.about, SharedAbout) else {}
        return [known.get(name, name) for name in self.classes]

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
    data, smallest = about.data, min_scale(about.data.size)
    nothing = torch.zeros(FIELD_FEATURES)  # the statistics come with the weights
    model = build_model(
        about.model, len(data.classes), (nothing, nothing), refiner=about.refiner, min_scale=smallest
    )
    try:
        model.load_state_dict(dict[str, "Tensor"](checkpoint.weights))
    except RuntimeError as error:
        raise GvitError(f"the checkpoint in {path} is of another model or version of gvit") from error
    view = evaluation_view(about.augment, smallest)
    return TrainedModel(
        classify=classifier_of(model.to(device), torch.float32, view), about=about, device=device
    )


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
        data = model.about.data
        check_kind(dataset, data.classes, data.gaussians, data.size, str(path))
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
