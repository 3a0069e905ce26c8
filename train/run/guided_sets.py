"""What guidance leaves of sets: one of them to be looked at, or all that it moved as a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...dataset.commit import atomic_write, write_manifest
from ...dataset.export import appearing, write_shards
from ...rendering.arrays import psnr
from ...rendering.cpu import render_batch
from ...schemas.checksums import CARD_NAME, hash_file
from ...schemas.documents import build
from ...schemas.encoding import decode, encode
from ...schemas.errors import GvitError
from ...schemas.gaussians import GuidedSet, canonicalize, min_scale
from ...schemas.manifest import MANIFEST_NAME, Manifest, Tuning
from ..config import TrainConfig
from ..data.overlap import digests_of, overlap_of
from ..data.split import open_training_data
from ..model.motion import move
from ..model.refiner import Refiner, RefinerConfig
from ..model.tokens import FIELD_FEATURES
from ..settings import read_yaml
from .checkpoint import Checkpoint, read_checkpoint
from .resume import CONFIG_NAME, digest_of

if TYPE_CHECKING:
    from ...dataset.reader import Dataset
    from ...schemas.rows import Row
    from ..data.split import TrainingData
    from ..guidance.source_images import FindPixels
    from ..model.classifier import SetClassifier

__all__ = [
    "TunedSets",
    "find_guided_set",
    "has_written",
    "refined_by",
    "remember_written",
    "tuning_of",
    "write_tuned",
]

_PREFIX = "refiner."
"""Of the names of a refiner's weights among a classifier's."""


def find_guided_set(path: Path, dataset: Dataset, key: str) -> GuidedSet:
    """Return a set of a dataset as the run's guidance moves it.

    A refiner moves any set, as at evaluation. What "direct" moved are the training sets alone.

    Args:
        path: Folder of a run or of a checkpoint.
        dataset: Of the same kind as the one that was trained on; for "direct" the very same.
        key: Of a set in it.

    Raises:
        GvitError: The run was not guided, or its guidance does not go with this set.
    """
    checkpoint = read_checkpoint(path)
    stored = torch.from_numpy(dataset.by_key(key).gaussians)
    try:
        refiner = checkpoint.about.refiner
        if refiner is not None:
            mode, moved = "refine", _refined(checkpoint, refiner, stored, dataset, path)
        else:
            mode, moved = "direct", _directed(path, stored, dataset, key)
        return GuidedSet(moved.numpy(), mode, checkpoint.about.epoch)
    except (KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise GvitError(f"the checkpoint in {path} is of another version of gvit") from error


def _refined(
    checkpoint: Checkpoint, config: RefinerConfig, stored: Tensor, dataset: Dataset, path: Path
) -> Tensor:
    """A set ``[N, 9]`` as the refiner of a checkpoint moves it."""
    about, found = checkpoint.about.data, dataset.manifest
    if (found.gaussians, found.size) != (about.gaussians, about.size):
        raise GvitError(
            f"{dataset.path} has sets of {found.gaussians} Gaussians fitted at size {found.size}, and {path} "
            f"was trained on {about.gaussians} at size {about.size}: give a dataset of that kind"
        )
    nothing = torch.zeros(FIELD_FEATURES)  # the statistics come with the weights
    refiner = Refiner(config, (nothing, nothing), min_scale(found.size)).eval()
    refiner.load_state_dict(
        {name[len(_PREFIX) :]: w for name, w in checkpoint.weights.items() if name.startswith(_PREFIX)}
    )
    with torch.no_grad():
        return refiner.moved(stored[None], refiner(stored[None]))[0]


def _directed(path: Path, stored: Tensor, dataset: Dataset, key: str) -> Tensor:
    """A training set ``[N, 9]`` with the moves that a checkpoint has for it."""
    config = _config_beside(path)
    if config.guidance.mode != "direct":
        raise GvitError(
            f"{path} was trained without guidance and moves no Gaussians: give a run of "
            "gvit train --guidance refine or direct"
        )
    checkpoint = read_checkpoint(path, with_state=True)
    moves: Tensor = checkpoint.state["trainer"]["guide"]["moves"]
    trained = _training_part(config, dataset)
    if trained is None or digest_of(trained) != checkpoint.about.data.train:
        raise GvitError(
            f"{dataset.path} is not the dataset that {path} was trained on, whose sets alone direct guidance "
            f"moves: give {config.data.shards}"
        )
    if key not in trained.keys:
        raise GvitError(
            f"{key} was not trained on, and direct guidance moves training sets only: give the key of one"
        )
    place = trained.keys.index(key)
    least = min_scale(dataset.manifest.size)
    return move(stored, moves[place].float(), reach=config.guidance.reach, min_scale=least)


def _config_beside(path: Path) -> TrainConfig:
    """The config of the run that a folder, or the checkpoint in it, belongs to."""
    places = [path / CONFIG_NAME, path.resolve().parent.parent / CONFIG_NAME]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise GvitError(
            f"{path} has no refiner, and lies apart from the run whose {CONFIG_NAME} says what else was "
            "guided: give the folder of the run"
        )
    return build(TrainConfig, read_yaml(found))


def _training_part(config: TrainConfig, dataset: Dataset) -> Dataset | None:
    """What a run would train on, given a dataset; None where it would not take it."""
    if config.data.val_shards is not None:  # they have no part in it, and may be gone
        return dataset.split("train") if "train" in dataset.manifest.splits else dataset
    try:
        return open_training_data(replace(config.data, shards=dataset.path), config.seed).train
    except GvitError:
        return None


_CARD = """# Tuned Gaussians

Sets that the gradient of a classifier moved, with the help of labels: to train on, and to evaluate on no
split but those that `unseen_splits` in dataset.json names.
`gvit card` writes a full card in place of this one.
"""

_RECORD = "tuned.sha256"
"""In the folder of a run that wrote its sets: of the manifest of what it wrote."""

Floats = npt.NDArray[np.float32]
Move = Callable[[Tensor, npt.NDArray[np.int64]], Tensor]
"""From sets float32 ``[b, N, 9]`` on the host and their numbers in their dataset to moved ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedSets:
    """What is written.

    Attributes:
        dataset: The sets that are written.
        moved: Moves them.
        find: Gives the image of a row.
        tuning: How they came about, for the manifest.
        threads: Images rendered at a time.
    """

    dataset: Dataset
    moved: Move
    find: FindPixels
    tuning: Tuning
    threads: int


def has_written(run: Path, out: Path) -> bool:
    """Tell whether a dataset is the one that a run wrote its sets to, as ``remember_written`` noted."""
    record, manifest = run / _RECORD, out / MANIFEST_NAME
    there = record.exists() and manifest.exists()
    return there and record.read_bytes().strip() == hash_file(manifest).encode()


def remember_written(run: Path, out: Path) -> None:
    """Note in the folder of a run what dataset it wrote."""
    atomic_write(run / _RECORD, f"{hash_file(out / MANIFEST_NAME)}\n".encode())


def refined_by(model: SetClassifier, device: torch.device) -> Move:
    """Return what the refiner of a model, which is put into evaluation mode, makes of sets."""
    model.eval()

    @torch.no_grad()
    def moved(stored: Tensor, _numbers: npt.NDArray[np.int64]) -> Tensor:
        return model.refined(stored.to(device)).cpu()

    return moved


def tuning_of(config: TrainConfig, data: TrainingData, written: Dataset) -> Tuning:
    """Return how the sets of a run that are written came about.

    Of a split, the labels are unseen where no image of it was trained on.
    """
    trained_on = digests_of(data.train)
    others = [name for name in written.manifest.splits if name != "train"] if written.is_whole else []
    unseen = [name for name in others if not overlap_of(written.split(name), trained_on).sources]
    return Tuning(
        mode=config.guidance.mode,
        gamma=config.guidance.gamma,
        epochs=config.epochs,
        seed=config.seed,
        source=hash_file(data.train.path / MANIFEST_NAME),
        unseen_splits=unseen or None,
    )


def write_tuned(sets: TunedSets, out: Path) -> Manifest:
    """Write the moved sets as a dataset whose manifest says that labels had a part in it.

    Shards, keys and labels stay; the PSNR of each set is measured anew against its image.

    Raises:
        GvitError: An image is missing or another one, or `out` is not new or empty, or cannot be written.
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
    moved = sets.moved(gaussians, numbers).numpy()
    moved[..., 0:2] = moved[..., 0:2].clip(-1.0, 1.0)
    return encode(canonicalize(moved), manifest.encoding, manifest.size)


def _qualities(sets: TunedSets, stored: npt.NDArray[np.generic], rows: Sequence[Row]) -> list[float]:
    """PSNR of each stored set against its image, dB."""
    manifest = sets.dataset.manifest
    gaussians: Floats = decode(stored, manifest.encoding)
    renderings = render_batch(gaussians, manifest.size, manifest.size, sets.threads)
    return [psnr(rendering, sets.find(row)) for rendering, row in zip(renderings, rows, strict=True)]
