"""`gvit.load_model` and `gvit.predict`: a trained model as a module of torch, from images to classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..schemas.errors import GvitError
from ..schemas.gaussians import NUM_FIELDS, min_scale
from ..train.asked import read_config
from ..train.data.augment import augment
from ..train.data.batches import evaluation_view
from ..train.ranks import pick_device
from ..train.run.initial import fetched_model
from ..train.run.predicted import Failure, FittedImage, Prediction, fit_as_trained, predict_sets
from ..train.run.trained import TrainedModel, load_trained
from ..train.settings import merge, nested
from .images import canvases

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..images.color import Color
    from ..images.decode import Crop
    from .images import ImageLike

__all__ = ["Model", "load_model", "predict", "train_model"]


class Model(nn.Module):
    """A trained model, from sets of Gaussians to logits, in evaluation mode.

    Attributes:
        classes: Names of the classes, in the order of the logits.
        names: What people call them; their own names where that is not known.
        num_gaussians: N, of the sets that it was trained on.
        size: Side of their canvas in pixels.
    """

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        data = trained.about.data
        self.network = trained.network
        self.classes = trained.classes
        self.names = tuple(trained.names)
        self.num_gaussians = data.gaussians
        self.size = data.size
        self._trained = trained
        self._view = evaluation_view(trained.about.augment, min_scale(data.size))
        self.eval()

    def __repr__(self) -> str:
        weights = sum(value.numel() for value in self.parameters())
        return (
            f"<Model: {len(self.classes)} classes from {self.num_gaussians} Gaussians at "
            f"{self.size} x {self.size}, {weights / 1e6:.1f} M weights>"
        )

    def forward(self, gaussians: Tensor, aspect: Tensor | None = None) -> Tensor:
        """Return logits float32 ``[B, K]`` of sets.

        Args:
            gaussians: float32 ``[B, N, 9]``, in the fields and units of `gvit.FIELDS`, as a dataset has them.
            aspect: True width / height of each image ``[B]``; None takes them for square.

        Raises:
            GvitError: The sets have another shape or type.
        """
        return self.network(*self._seen(gaussians, aspect))

    def features(self, gaussians: Tensor, aspect: Tensor | None = None) -> Tensor:
        """Return what the last layer sees of sets, float32 ``[B, D]``; arguments as of `forward`."""
        return self.network.features(*self._seen(gaussians, aspect))

    def predict(self, images: ImageLike, top: int = 5) -> Prediction | list[Prediction]:
        """Fit Gaussians to images as the training set was fitted, and classify them.

        Args:
            images: One image or several, as `gvit.fit` takes them.
            top: Classes to name per image.

        Returns:
            A prediction of one image, or a list of a batch or list.

        Raises:
            GvitError: An image cannot be read or fitted.
        """
        data = self._trained.about.data
        crop, color = cast("Crop", data.fit.crop), cast("Color", data.fit.colors)
        given = canvases(images, self.size, crop, color)
        fitted = fit_as_trained(data, given.pixels, given.aspects.tolist(), given.names)
        failed = next((image for image in fitted if isinstance(image, Failure)), None)
        if failed is not None:
            raise GvitError(f"{failed.image}: {failed.reason}")
        found = predict_sets(self._trained, cast("list[FittedImage]", fitted), top)
        return found[0] if given.single else found

    def _seen(self, gaussians: Tensor, aspect: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if gaussians.ndim != 3 or gaussians.shape[-1] != NUM_FIELDS:
            raise GvitError(f"sets to classify are [B, N, {NUM_FIELDS}], not {list(gaussians.shape)}")
        if not gaussians.is_floating_point():
            raise GvitError(f"sets to classify are of floats, not of {gaussians.dtype}")
        sets = gaussians.float()
        shape = torch.ones(len(sets), device=sets.device) if aspect is None else aspect.to(sets)
        nobody = torch.zeros(len(sets), dtype=torch.int64, device=sets.device)
        return augment(self.network.refined(sets), shape, nobody, seed=0, epoch=0, config=self._view)


def load_model(path: str | Path, device: str = "cpu") -> Model:
    """Load a trained model.

    Args:
        path: Folder of a run, of a checkpoint, or of a model that was made to be shared; or `hf://USER/NAME`.
        device: "cpu", "cuda" or "auto".

    Returns:
        A module with `forward`, `features` and `predict`.

    Raises:
        GvitError: There is no model, or it is damaged.
    """
    return Model(load_trained(fetched_model(path), pick_device(device)))


def train_model(
    shards: str | Path,
    out: str | Path,
    *,
    recipe: str = "tiny",
    init: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> Model:
    """Train a model on a dataset, as `gvit train` does, or go on with the run in `out`.

    Args:
        shards: Folder of the dataset.
        out: Folder of the run.
        recipe: Where its settings start from.
        init: Run, checkpoint or shared model whose weights it begins from.
        settings: What differs, by the names of `--set`: `{"epochs": 3, "schedule.lr": 1e-3}`.
        device: "cpu", "cuda" or "auto".

    Returns:
        The model, averaged weights where there are such, on the CPU.

    Raises:
        GvitError: A setting is unknown or out of range, or the data do not allow it.
    """
    from ..train.run.run import train

    flags: dict[str, Any] = {"data": {"shards": str(shards)}, "run": {"out": str(out), "device": device}}
    if init is not None:
        flags["init"] = str(init)
    layers = [nested(name, value) for name, value in (settings or {}).items()]
    train(read_config(recipe, None, merge(*layers, flags), []))
    return load_model(out)


def predict(
    model: Model | str | Path, images: ImageLike, *, device: str = "auto", top: int = 5
) -> Prediction | list[Prediction]:
    """Fit Gaussians to images and classify them; `model` is what `load_model` returns, or takes.

    Raises:
        GvitError: The model or an image cannot be used.
    """
    loaded = model if isinstance(model, Model) else load_model(model, device)
    return loaded.predict(images, top)
