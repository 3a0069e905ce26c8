"""A trained model, from its checkpoint to class probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch

from ...dataset.reader import open_dataset
from ...fitting.config import FIT_VERSION, FitConfig
from ...images.decode import Decoded
from ...images.decode_pool import DecodePool
from ...schemas.cores import usable_cores
from ...schemas.encoding import decode
from ...schemas.errors import GvitError
from ...schemas.gaussians import min_scale
from ..data.batches import evaluation_view
from ..data.check import check_sets
from ..data.loader import SetLoader
from ..data.overlap import Overlap, overlap_of, read_trained_on
from ..data.split import check_kind, evaluation_split
from ..model.classifier import SetClassifier, build_model
from ..model.evaluate import Classify, Evaluation, classifier_of, evaluate
from ..model.tokens import FIELD_FEATURES
from ..ranks import joined_ranks, pick_device
from .about import About, SharedAbout
from .checkpoint import read_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from ...dataset.reader import Dataset
    from ...images.color import Color
    from ...images.decode import Crop
    from ..ranks import Ranks

__all__ = ["Prediction", "TrainedModel", "evaluate_checkpoint", "load_model", "predict"]

_MAX_DECODERS = 16
_SAME_FITS = (1, FIT_VERSION)  # version 2 differs by colour profiles alone, and that is said in `color`


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model to be used.

    Attributes:
        classify: From sets as they are stored, and their true width / height, to logits.
        about: What it is, and the sets that it takes.
        device: Where it is.
        kept: Those of its classes that it chooses among, in the order of the logits; without any, all.
    """

    classify: Classify
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

    def probabilities(
        self, gaussians: npt.NDArray[np.float32], aspect: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Return class probabilities ``[B, K]`` of sets ``[B, N, 9]`` with true width / height ``[B]``."""
        with torch.no_grad():
            sets, shape = (torch.from_numpy(array).to(self.device) for array in (gaussians, aspect))
            return self.classify(sets, shape).softmax(dim=1).cpu().numpy()


def load_model(path: Path, device: torch.device) -> TrainedModel:
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
    return TrainedModel(
        classify=classifier_of(model.to(device), torch.float32, view), about=about, device=device
    )


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items()}


def evaluate_checkpoint(
    path: Path, shards: Path, *, device: str = "auto", batch_size: int = 256, allow_overlap: bool = False
) -> tuple[TrainedModel, Evaluation, Overlap]:
    """Evaluate a checkpoint, or the last of a run, on a dataset: its split "val", or all where it has none.

    A dataset may have some of the model's classes, as ImageNet-A and -R do: the model that is returned then
    chooses among these alone.

    Raises:
        GvitError: Checkpoint or dataset cannot be used, or do not go together, or more than 5 % of the images
            were trained on.
    """
    with joined_ranks(device) as ranks:
        model = load_model(path, ranks.device)
        dataset = evaluation_split(open_dataset(shards))
        data = model.about.data
        check_kind(dataset, data.classes, data.gaussians, data.size, str(path), some=True)
        overlap = _overlap(path, dataset)
        overlap.check(
            allowed=allow_overlap, way_out="evaluate on other images, or accept it with --allow-overlap"
        )
        check_sets(dataset, rank=ranks.rank, world_size=ranks.world)
        loader = _loader(dataset, ranks, batch_size)
        model = model.among(dataset.manifest.classes)
        return model, evaluate(model.classify, loader, len(model.classes), ranks), overlap


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


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says about an image.

    Attributes:
        image: The file.
        classes: Names, the likeliest first.
        probabilities: Of each, 0..1.
        names: What people call them; the classes where that is not known.
        psnr: How well the Gaussians show the image, in dB.
    """

    image: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    names: tuple[str, ...]
    psnr: float


def predict(run: Path, images: Sequence[Path], *, device: str = "auto", top: int = 5) -> list[Prediction]:
    """Fit Gaussians to images as the training set was fitted, and classify them.

    Args:
        run: Folder of a run, of a checkpoint, or of a model that was made to be shared.
        images: Image files.
        device: Of the classifier: "auto", "cpu" or "cuda".
        top: Classes to name per image.

    Raises:
        GvitError: The checkpoint or an image cannot be used.
    """
    model = load_model(run, pick_device(device))
    sets, aspects, psnr = _fit(model, images)
    chances = model.probabilities(sets, aspects)
    order = np.argsort(-chances, axis=1, kind="stable")[:, :top]
    return [
        Prediction(
            image=image,
            classes=tuple(model.classes[k] for k in order[row]),
            probabilities=tuple(float(chances[row, k]) for k in order[row]),
            names=tuple(model.names[k] for k in order[row]),
            psnr=float(psnr[row]),
        )
        for row, image in enumerate(images)
    ]


def _decode(images: Sequence[Path], size: int, crop: Crop, color: Color) -> list[Decoded]:
    """Decode images as an encode does: in processes that an image can break, and with its limits."""
    decoded: list[Decoded] = []
    with DecodePool(min(usable_cores(), len(images), _MAX_DECODERS), size, crop, color) as pool:
        for image, outcome in zip(images, pool.prefetch(images), strict=True):
            if not isinstance(outcome, Decoded):
                raise GvitError(f"{image} cannot be read: {outcome.reason}")
            decoded.append(outcome)
    return decoded


def _fit(
    model: TrainedModel, images: Sequence[Path]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Sets, true width / height, and PSNR in dB of each image."""
    from ...fitting.fitter import Fitter  # compiles; not before the model is known to be good

    data = model.about.data
    made = data.fit
    if made.fit_version not in _SAME_FITS:
        raise GvitError(
            f"the model was trained on sets of fit version {made.fit_version} and this gvit fits version "
            f"{FIT_VERSION}: predict with the gvit that encoded them"
        )
    decoded = _decode(images, data.size, cast("Crop", made.crop), cast("Color", made.colors))
    config = FitConfig(
        num_gaussians=data.gaussians,
        size=data.size,
        preset=made.preset,
        steps=made.steps,
        seed=made.seed,
        target_psnr=made.target_psnr,
    )
    fitter = Fitter(config, data.encoding, usable_cores(), "cpu")
    result = fitter.fit(np.stack([item.pixels for item in decoded]), [image.stem for image in images])
    for image, reason in zip(images, result.errors, strict=True):
        if reason is not None:
            raise GvitError(f"{image} cannot be fitted: {reason}")
    whole = made.crop == "none"
    aspects = [item.width / item.height if whole else 1.0 for item in decoded]
    return decode(result.stored, data.encoding), np.array(aspects, np.float32), result.psnr
