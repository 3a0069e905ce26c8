"""From plain images to class probabilities: the one place where both stages meet.

What the command needs is imported in its body, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from .train.predict import TrainedModel

__all__ = ["Prediction", "predict", "predict_command"]

Images = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")]
Run = Annotated[Path, typer.Option("--checkpoint", help="Folder of a run, a checkpoint or a shared model.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Top = Annotated[int, typer.Option(help="Classes to name per image.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Make the last line of stdout one JSON object.")]


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
    import numpy as np

    from .train.predict import load_model
    from .train.ranks import pick_device

    model = load_model(run, pick_device(device))
    sets, aspects, psnr = _fit(model, images)
    chances = model.probabilities(sets, aspects)
    order = np.argsort(-chances, axis=1, kind="stable")[:, :top]
    named = [model.class_names.get(name, name) for name in model.classes]
    return [
        Prediction(
            image=image,
            classes=tuple(model.classes[k] for k in order[row]),
            probabilities=tuple(float(chances[row, k]) for k in order[row]),
            names=tuple(named[k] for k in order[row]),
            psnr=float(psnr[row]),
        )
        for row, image in enumerate(images)
    ]


def _fit(
    model: TrainedModel, images: Sequence[Path]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Sets, true width / height, and PSNR in dB of each image."""
    import numpy as np

    from .pipeline.config import usable_cores
    from .pipeline.decode import DecodeError, decode_image, read_image
    from .pipeline.fit import Fitter
    from .pipeline.fit_config import FIT_VERSION, FitConfig
    from .schemas.encoding import decode
    from .schemas.errors import GvitError

    made = model.fit
    if made["fit_version"] != FIT_VERSION:
        raise GvitError(
            f"the model was trained on sets of fit version {made['fit_version']} and this gvit fits version "
            f"{FIT_VERSION}: predict with the gvit that encoded them"
        )
    decoded = []
    for image in images:
        try:
            decoded.append(decode_image(read_image(image), model.size, made["crop"]))
        except DecodeError as error:
            raise GvitError(f"{image} cannot be read: {error}") from error
    config = FitConfig(
        num_gaussians=model.gaussians,
        size=model.size,
        preset=made["preset"],
        steps=made["steps"],
        seed=made["seed"],
    )
    fitter = Fitter(config, model.encoding, usable_cores(), "cpu")
    result = fitter.fit(np.stack([item.pixels for item in decoded]), [image.stem for image in images])
    for image, reason in zip(images, result.errors, strict=True):
        if reason is not None:
            raise GvitError(f"{image} cannot be fitted: {reason}")
    whole = made["crop"] == "none"
    aspects = [item.width / item.height if whole else 1.0 for item in decoded]
    return decode(result.stored, model.encoding), np.array(aspects, np.float32), result.psnr


def predict_command(
    images: Images, checkpoint: Run, device: Device = "auto", top: Top = 5, as_json: Json = False
) -> None:
    """Say what is in images, by a model that was trained on Gaussians."""
    from rich.console import Console

    from .schemas.errors import GvitError

    missing = [image for image in images if not image.is_file()]
    if missing:
        raise GvitError(f"there is no image {missing[0]}: give image files")
    predictions = predict(checkpoint, images, device=device, top=top)
    console = Console(stderr=as_json)
    for found in predictions:
        guesses = zip(found.names, found.probabilities, strict=True)
        words = ", ".join(f"{name} {chance:.1%}" for name, chance in guesses)
        console.print(f"{found.image}: {words}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        facts = [
            {
                "image": str(found.image),
                "classes": dict(zip(found.classes, found.probabilities, strict=True)),
                "psnr": found.psnr,
            }
            for found in predictions
        ]
        typer.echo(json.dumps({"predictions": facts}))
