"""What a trained model says about images: fitted as its training set was, then classified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from ...fitting.config import FIT_VERSION, FitConfig
from ...images.decode import Decoded
from ...images.decode_pool import DecodePool
from ...schemas.cores import usable_cores
from ...schemas.encoding import decode
from ...schemas.errors import GvitError

if TYPE_CHECKING:
    from ...images.color import Color
    from ...images.decode import Crop
    from .about import DataAbout
    from .trained import TrainedModel

__all__ = ["Failure", "FittedImage", "Prediction", "decode_files", "fit_as_trained", "predict_sets"]

_MAX_DECODERS = 16
_SAME_FITS = (1, FIT_VERSION)  # version 2 differs by colour profiles alone, and that is said in `color`


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says about an image.

    Attributes:
        image: The file, or what the image is called.
        classes: Names, the likeliest first.
        probabilities: Of each, 0..1.
        names: What people call them; the classes where that is not known.
        psnr: How well the Gaussians show the image, in dB.
    """

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    names: tuple[str, ...]
    psnr: float


@dataclass(frozen=True, slots=True)
class Failure:
    """An image about which nothing can be said, and why."""

    image: str
    reason: str


@dataclass(frozen=True, slots=True)
class FittedImage:
    """An image as a model takes it.

    Attributes:
        name: The file, or what the image is called.
        pixels: uint8 ``[S, S, 3]``, what was fitted.
        aspect: True width / height of what the canvas shows.
        gaussians: float32 ``[N, 9]``.
        psnr: In dB.
    """

    name: str
    pixels: npt.NDArray[np.uint8]
    aspect: float
    gaussians: npt.NDArray[np.float32]
    psnr: float


def decode_files(images: Sequence[Path], data: DataAbout) -> list[tuple[Path, Decoded] | Failure]:
    """Decode images as an encode does: in processes that an image can break, and with its limits."""
    crop, color = cast("Crop", data.fit.crop), cast("Color", data.fit.colors)
    with DecodePool(min(usable_cores(), len(images), _MAX_DECODERS), data.size, crop, color) as pool:
        outcomes = pool.prefetch(images).result()
    return [
        (image, outcome) if isinstance(outcome, Decoded) else Failure(str(image), outcome.reason)
        for image, outcome in zip(images, outcomes, strict=True)
    ]


def fit_as_trained(
    data: DataAbout, pixels: npt.NDArray[np.uint8], aspects: Sequence[float], names: Sequence[str]
) -> list[FittedImage | Failure]:
    """Fit canvases uint8 ``[B, S, S, 3]`` as the sets of a model were fitted.

    Args:
        data: What the model takes.
        pixels: The canvases.
        aspects: Width / height of each image before it became one.
        names: What each image is called; the fit's random choices hang on its stem.

    Raises:
        GvitError: This gvit fits otherwise.
    """
    made = data.fit
    if made.fit_version not in _SAME_FITS:
        raise GvitError(
            f"the model was trained on sets of fit version {made.fit_version} and this gvit fits version "
            f"{FIT_VERSION}: predict with the gvit that encoded them"
        )
    from ...fitting.fitter import Fitter  # compiles; not before the model is known to be good

    config = FitConfig(
        num_gaussians=data.gaussians,
        size=data.size,
        preset=made.preset,
        steps=made.steps,
        seed=made.seed,
        target_psnr=made.target_psnr,
    )
    result = Fitter(config, data.encoding, usable_cores(), "cpu").fit(pixels, [Path(n).stem for n in names])
    sets = decode(result.stored, data.encoding)
    return [
        FittedImage(
            name,
            pixels[i],
            float(aspects[i]) if made.crop == "none" else 1.0,
            sets[i],
            float(result.psnr[i]),
        )
        if (reason := result.errors[i]) is None
        else Failure(name, f"it cannot be fitted: {reason}")
        for i, name in enumerate(names)
    ]


def predict_sets(model: TrainedModel, fitted: Sequence[FittedImage], top: int) -> list[Prediction]:
    """Say of each image which classes it may be of, the likeliest first."""
    if not fitted:
        return []
    aspects = np.array([image.aspect for image in fitted], np.float32)
    chances = model.probabilities(np.stack([image.gaussians for image in fitted]), aspects)
    order = np.argsort(-chances, axis=1, kind="stable")[:, :top]
    return [
        Prediction(
            image=image.name,
            classes=tuple(model.classes[k] for k in order[row]),
            probabilities=tuple(float(chances[row, k]) for k in order[row]),
            names=tuple(model.names[k] for k in order[row]),
            psnr=image.psnr,
        )
        for row, image in enumerate(fitted)
    ]
