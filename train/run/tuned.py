"""The sets that direct guidance moved, written as a dataset again: to train on, never to evaluate on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from ...dataset.commit import atomic_write, write_manifest
from ...dataset.export import appearing
from ...dataset.rewrite import write_shards
from ...rendering.cpu import render_batch
from ...rendering.fidelity import psnr
from ...schemas.checksums import CARD_NAME
from ...schemas.encoding import decode, encode
from ...schemas.gaussians import canonicalize, min_scale
from ...schemas.manifest import MANIFEST_NAME, Manifest, Tuning
from ..model.motion import move

if TYPE_CHECKING:
    from ...dataset.reader import Dataset
    from ...schemas.rows import Row
    from ..config import TrainConfig
    from ..data.split import TrainingData
    from ..guidance.source_images import FindPixels

__all__ = ["TunedSets", "has_written", "remember_written", "tuning_of", "write_tuned"]

_CARD = """# Tuned Gaussians

Sets that the gradient of a classifier moved, with the help of their labels: to train on, not to evaluate on.
`gvit card` writes a full card in place of this one.
"""

_RECORD = "tuned.sha256"
"""In the folder of a run that wrote its sets: of the manifest of what it wrote."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedSets:
    """What is written.

    Attributes:
        dataset: The sets that were trained on; no others are written.
        moves: Of each of them, float ``[n, N, 9]`` in -1..1, see ``gvit.train.model.motion.move``.
        reach: Factor of the largest moves.
        find: Gives the image of a row.
        tuning: How they came about, for the manifest.
        threads: Images rendered at a time.
    """

    dataset: Dataset
    moves: torch.Tensor
    reach: float
    find: FindPixels
    tuning: Tuning
    threads: int


def has_written(run: Path, out: Path) -> bool:
    """Tell whether a dataset is the one that a run wrote its sets to, as ``remember_written`` noted."""
    record, manifest = run / _RECORD, out / MANIFEST_NAME
    return record.exists() and manifest.exists() and record.read_text().strip() == _digest(manifest)


def remember_written(run: Path, out: Path) -> None:
    """Note in the folder of a run what dataset it wrote."""
    atomic_write(run / _RECORD, f"{_digest(out / MANIFEST_NAME)}\n".encode())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tuning_of(config: TrainConfig, data: TrainingData) -> Tuning:
    """Return how the sets of a run came about."""
    return Tuning(
        mode="direct",
        gamma=config.guidance.gamma,
        epochs=config.epochs,
        seed=config.seed,
        source=_digest(data.train.path / MANIFEST_NAME),
    )


def write_tuned(sets: TunedSets, out: Path) -> Manifest:
    """Write the moved sets as a dataset whose manifest says that labels had a part in it.

    Shards, keys and labels stay; the PSNR of each set is measured anew against its image.

    Args:
        sets: What to write.
        out: A folder that does not exist yet, or is empty.

    Raises:
        GvitError: An image is missing or another one, or `out` cannot be written.
    """

    def change(
        stored: npt.NDArray[np.generic], numbers: npt.NDArray[np.int64], rows: Sequence[Row]
    ) -> tuple[npt.NDArray[np.generic], list[Row]]:
        moved = _moved(sets, stored, numbers)
        quality = _qualities(sets, moved, rows)
        return moved, [replace(row, psnr=value) for row, value in zip(rows, quality, strict=True)]

    with appearing(out) as folder:
        manifest = write_shards(sets.dataset, folder, change=change)
        manifest = replace(manifest, label_informed=True, tuning=sets.tuning)
        (folder / CARD_NAME).write_text(_CARD)
        write_manifest(folder, manifest)
    return manifest


def _moved(
    sets: TunedSets, stored: npt.NDArray[np.generic], numbers: npt.NDArray[np.int64]
) -> npt.NDArray[np.generic]:
    """Stored sets, moved and rounded as they are stored."""
    manifest = sets.dataset.manifest
    gaussians = torch.from_numpy(decode(stored, manifest.encoding))
    least = min_scale(manifest.size)
    moved = move(
        gaussians, sets.moves[torch.from_numpy(numbers)].float(), reach=sets.reach, min_scale=least
    ).numpy()
    moved[..., 0:2] = moved[..., 0:2].clip(-1.0, 1.0)
    return encode(canonicalize(moved), manifest.encoding, manifest.size)


def _qualities(sets: TunedSets, stored: npt.NDArray[np.generic], rows: Sequence[Row]) -> list[float]:
    """PSNR of each stored set against its image, dB."""
    manifest = sets.dataset.manifest
    gaussians: Floats = decode(stored, manifest.encoding)
    renderings = render_batch(gaussians, manifest.size, manifest.size, sets.threads)
    return [psnr(rendering, sets.find(row)) for rendering, row in zip(renderings, rows, strict=True)]
