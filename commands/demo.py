"""`gvit demo`: real images to try gvit on, out of two libraries that bring some along.

What a command needs is imported in its body, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import Json  # noqa: TC001 - typer reads the annotations

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["PHOTOS", "demo_command", "write_digits", "write_photos"]

PHOTOS = (
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png"),
    *("coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png"),
    *("motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "rocket.jpg"),
)
"""The photographs in the wheel of scikit-image; its other pictures are drawn, scanned or downloaded."""

DIGIT_SIZE = 32
_BRIGHTEST = 16  # scikit-learn's digits count ink from 0 to 16
_VAL_DIGITS = 360

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write digits/ and photos/ into.")]


def demo_command(folder: Folder, as_json: Json = False) -> None:
    """Write real images to try gvit on: 1797 digits in ten classes, and 16 photographs.

    Nothing is downloaded: they come with scikit-learn and scikit-image, which must be installed.

    Example: gvit demo out/demo
    """
    from ..schemas.errors import GvitError
    from ..schemas.extras import require

    require("demo", "skimage", "sklearn")
    try:
        splits = write_digits(folder / "digits")
        photos = write_photos(folder / "photos")
    except OSError as error:
        raise GvitError(
            f"{error.filename or folder} cannot be written ({error.strerror}); choose another folder"
        ) from error
    if as_json:
        typer.echo(json.dumps({"digits": splits, "photos": photos}))
    else:
        counts = ", ".join(f"{name} {count}" for name, count in splits.items())
        typer.echo(f"{folder / 'digits'}: {sum(splits.values())} images in 10 classes ({counts})")
        typer.echo(f"{folder / 'photos'}: {photos} images")


def write_digits(folder: Path) -> dict[str, int]:
    """Write scikit-learn's 8 x 8 digits, scaled to 32 x 32, as `{train,val}/<0-9>/<index>.png`.

    Returns:
        The number of images per split; always the same split of the same images.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    indices = range(len(labels))
    train, val = train_test_split(indices, test_size=_VAL_DIGITS, stratify=labels, random_state=0)
    splits = {"train": sorted(train), "val": sorted(val)}
    for split, members in splits.items():
        for label in range(10):
            (folder / split / str(label)).mkdir(parents=True, exist_ok=True)
        for index in members:
            _write_digit(images[index], folder / split / str(labels[index]) / f"{index:04d}.png")
    return {split: len(members) for split, members in splits.items()}


def _write_digit(ink: npt.NDArray[np.float64], path: Path) -> None:
    """Write one digit, ink [64] from 0 to 16, light on dark."""
    from PIL import Image

    pixels = (ink.reshape(8, 8) * (255 / _BRIGHTEST)).round().astype("uint8")
    size = (DIGIT_SIZE, DIGIT_SIZE)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)


def write_photos(folder: Path) -> int:
    """Copy the photographs of scikit-image's wheel; return how many.

    Raises:
        GvitError: There are none.
    """
    from ..schemas.errors import GvitError

    shelf = resources.files("skimage") / "data"
    found = [name for name in PHOTOS if (shelf / name).is_file()]
    if not found:
        raise GvitError("this scikit-image brings no photographs: reinstall it with pip install scikit-image")
    folder.mkdir(parents=True, exist_ok=True)
    for name in found:
        (folder / name).write_bytes((shelf / name).read_bytes())
    return len(found)
