"""A trained model, from its checkpoint to class probabilities."""
# pyright: reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy.typing as npt
import pyarrow as pa
import torch

from ...dataset.reader import open_dataset
from ...schemas.errors import GvitError
from ...schemas.gaussians import min_scale
from ..data.batches import evaluation_view
from ..data.check import check_sets
from ..data.loader import SetLoader
from ..data.overlap import Overlap, overlap_of, read_trained_on
from ..data.split import check_kind, scored_split
from ..model.classifier import SetClassifier, build_model
from ..model.evaluate import Classify, Evaluation, classifier_of, evaluate
from ..model.tokens import FIELD_FEATURES
from ..ranks import joined_ranks
from .about import About, SharedAbout
from .checkpoint import read_checkpoint

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ...dataset.reader import Dataset
    from ..ranks import Ranks

__all__ = ["Scored", "TrainedModel", "evaluate_checkpoint", "load_trained"]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model to be used.

    Attributes:
        classify: From sets as they are stored, and their true width / height, to logits.
        network: The same without the frame in which sets are seen.
        about: What it is, and the sets that it takes.
        device: Where it is.
        kept: Those of its classes that it chooses among, in the order of the logits; without any, all.
    """

    classify: Classify
    network: SetClassifier
    about: About
    device: torch.device
    kept: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that it chooses among."""
        return self.kept or self.about.data.classes

    @property
    def names(self) -> list[str]:
        """What people call the classes; their own names where that is not known."""
        known = self.about.class_names if isinstance(self.about, SharedAbout) else {}
        return [known.get(name, name) for name in self.classes]

    def among(self, classes: Sequence[str]) -> TrainedModel:
        """Return the model as one that knows these of its classes alone, in this order."""
        if tuple(classes) == self.classes:
            return self
        numbers = {name: number for number, name in enumerate(self.classes)}
        columns = torch.tensor([numbers[name] for name in classes], device=self.device)

        def classify(sets: Tensor, aspect: Tensor) -> Tensor:
            return self.classify(sets, aspect)[:, columns]

        return replace(self, classify=classify, kept=tuple(classes))

    def evidence(
        self, gaussians: npt.NDArray[np.float32], aspect: float, number: int
    ) -> npt.NDArray[np.float32]:
        """Return how much each Gaussian of a set ``[N, 9]`` speaks for a class: gradient x input, ``[N]``."""
        sets = torch.from_numpy(gaussians[None]).to(self.device).requires_grad_()
        shape = torch.tensor([aspect], dtype=torch.float32, device=self.device)
        logit = self.classify(sets, shape)[0, number]
        (gradient,) = torch.autograd.grad(logit, sets)
        return (gradient * sets.detach()).sum(dim=-1)[0].cpu().numpy()

    def probabilities(
        self, gaussians: npt.NDArray[np.float32], aspect: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Return class probabilities ``[B, K]`` of sets ``[B, N, 9]`` with true width / height ``[B]``."""
        with torch.no_grad():
            sets, shape = (torch.from_numpy(array).to(self.device) for array in (gaussians, aspect))
            return self.classify(sets, shape).softmax(dim=1).cpu().numpy()


def load_trained(path: Path, device: torch.device) -> TrainedModel:
    """Load the model of a checkpoint, of the last of a run, or one that was made to be shared, onto a device.

    Raises:
        GvitError: There is none, or it is damaged.
    """
    checkpoint = read_checkpoint(path)
    about = checkpoint.about
    data, smallest = about.data, min_scale(about.data.size)
    nothing = torch.zeros(FIELD_FEATURES)  # the statistics come with the weights

    def build() -> SetClassifier:
        statistics = (nothing, nothing)
        return build_model(
            about.model, len(data.classes), statistics, refiner=about.refiner, min_scale=smallest
        )

    with torch.device("meta"):  # a shape, and no memory: what a config claims may be of any size
        claimed = _shapes(build().state_dict())
    if claimed != _shapes(checkpoint.weights):
        raise GvitError(f"the checkpoint in {path} is of another model or version of gvit")
    model = build()
    model.load_state_dict(dict[str, "Tensor"](checkpoint.weights))
    view = evaluation_view(about.augment, smallest)
    classify = classifier_of(model.to(device), torch.float32, view)
    return TrainedModel(classify=classify, network=model, about=about, device=device)


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items()}


@dataclass(frozen=True, slots=True)
class Scored:
    """A model, and what came of scoring it.

    Attributes:
        model: The model; it chooses among the classes of the dataset alone.
        found: The scores.
        overlap: The images among these that it was trained on.
        split: What was scored.
    """

    model: TrainedModel
    found: Evaluation
    overlap: Overlap
    split: Dataset

    @property
    def split_name(self) -> str:
        """What the split is called."""
        return self.split.set_rows["split"][0].as_py()

    @property
    def class_accuracy(self) -> dict[str, float | None]:
        """Share of the samples of each class that were right; None of a class without samples."""
        totals, right = self.found.confusion.sum(dim=1).tolist(), self.found.confusion.diagonal().tolist()
        pairs = zip(self.model.classes, right, totals, strict=True)
        return {name: hits / total if total else None for name, hits, total in pairs}

    def predictions(self) -> pa.Table:
        """Return key, source, class and predicted class of each sample, in order of the dataset.

        Raises:
            GvitError: Other processes scored a part of them.
        """
        if len(self.found.predicted) != len(self.split):
            raise GvitError(
                "each process has predictions of its own part: write them in a run of one process"
            )
        classes = self.model.classes
        predicted = [classes[number] for number in self.found.predicted.tolist()]
        rows = self.split.set_rows.select(["key", "source", "class"])
        return rows.append_column("predicted", pa.array(predicted, pa.string()))


def evaluate_checkpoint(
    path: Path,
    shards: Path,
    *,
    split: str | None = None,
    device: str = "auto",
    batch_size: int = 256,
    allow_overlap: bool = False,
) -> Scored:
    """Score a checkpoint, or the last of a run, on a split of a dataset: "val", or else "test".

    A dataset may have some of the model's classes, as ImageNet-A and -R do: the model then chooses among
    these alone.

    Raises:
        GvitError: Checkpoint or dataset cannot be used, or do not go together, there is no such split, or
            more than 5 % of the images were trained on.
    """
    with joined_ranks(device) as ranks:
        model = load_trained(path, ranks.device)
        dataset = scored_split(open_dataset(shards), split)
        data = model.about.data
        check_kind(dataset, data.classes, data.gaussians, data.size, str(path), some=True)
        overlap = _overlap(path, dataset)
        overlap.check(
            allowed=allow_overlap, way_out="evaluate on other images, or accept it with --allow-overlap"
        )
        check_sets(dataset, rank=ranks.rank, world_size=ranks.world)
        loader = _loader(dataset, ranks, batch_size)
        model = model.among(dataset.manifest.classes)
        found = evaluate(model.classify, loader, len(model.classes), ranks)
        return Scored(model, found, overlap, dataset)


def _overlap(path: Path, dataset: Dataset) -> Overlap:
    """Return what a model was trained on of a dataset, as far as its run has noted it."""
    trained_on = read_trained_on(path)
    return Overlap((), len(dataset)) if trained_on is None else overlap_of(dataset, trained_on)


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
