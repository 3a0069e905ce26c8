"""From plain images to class probabilities: fitted as the training sets were, then classified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ...fitting.config import FIT_VERSION, FitConfig
from ...images.decode import DecodeError, decode_image, read_image
from ...rendering.cores import usable_cores
from ...schemas.encoding import decode
from ...schemas.errors import GvitError
from ..ranks import pick_device
from .trained import TrainedModel, load_model

if TYPE_CHECKING:
    import numpy.typing as npt

    from ...images.decode import Crop

__all__ = ["Prediction", "predict"]


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


def _fit(
    model: TrainedModel, images: Sequence[Path]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Sets, true width / height, and PSNR in dB of each image."""
    from ...fitting.fitter import Fitter  # compiles; not before the model is known to be good

    data = model.about.data
    made = data.fit
    if made.fit_version != FIT_VERSION:
        raise GvitError(
            f"the model was trained on sets of fit version {made.fit_version} and this gvit fits version "
            f"{FIT_VERSION}: predict with the gvit that encoded them"
        )
    decoded = []
    for image in images:
        try:
            decoded.append(decode_image(read_image(image), data.size, cast("Crop", made.crop)))
        except DecodeError as error:
            raise GvitError(f"{image} cannot be read: {error}") from error
    config = FitConfig(
        num_gaussians=data.gaussians, size=data.size, preset=made.preset, steps=made.steps, seed=made.seed
    )
    fitter = Fitter(config, data.encoding, usable_cores(), "cpu")
    result = fitter.fit(np.stack([item.pixels for item in decoded]), [image.stem for image in images])
    for image, reason in zip(images, result.errors, strict=True):
        if reason is not None:
            raise GvitError(f"{image} cannot be fitted: {reason}")
    whole = made.crop == "none"
    aspects = [item.width / item.height if whole else 1.0 for item in decoded]
    return decode(result.stored, data.encoding), np.array(aspects, np.float32), result.psnr
