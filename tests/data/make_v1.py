"""Made tests/data/v1 once, with the first release of schema version 1; kept to say how, not to be run again.

    python tests/data/make_v1.py tests/data/v1

Digits of scikit-learn (BSD) as the classes "eight" and "one" and crops of scikit-image's photographs in the
public domain (astronaut, coffee) as the class "photo", 32 x 32 pixels, 24 Gaussians each, in the splits train
and val; one file is no image, so that the dataset has a failed row.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_digits

from gvit.fitting.config import FitConfig
from gvit.pipeline.config import EncodeConfig
from gvit.pipeline.encode import encode


def make_images(root: Path) -> None:
    digits = load_digits()
    for name, digit in (("eight", 8), ("one", 1)):
        for i, image in enumerate(digits.images[digits.target == digit][:8]):
            save(np.repeat(np.kron(image, np.ones((4, 4)))[..., None] * 16, 3, 2).clip(0, 255), root, name, i)
    for i in range(8):
        photo = (data.astronaut(), data.coffee())[i % 2]
        save(photo[40 * i :, 40 * i :][:96, : 96 + 8 * i], root, "photo", i)
    (root / "train" / "one" / "broken.png").write_bytes(b"no image")


def save(pixels: np.ndarray, root: Path, name: str, i: int) -> None:
    path = root / ("val" if i >= 6 else "train") / name / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


if __name__ == "__main__":
    destination = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder))
        fit = FitConfig(num_gaussians=24, size=32)
        encode(EncodeConfig(source=Path(folder), destination=destination, fit=fit, shard_size=12))
    shutil.rmtree(destination / ".gvit")
