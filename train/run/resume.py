"""Where a run goes on, and that runs do not get mixed up."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ...schemas.documents import build
from ...schemas.errors import GvitError
from ..config import TrainConfig
from ..settings import Settings, differences, plain, read_yaml
from .about import DataAbout
from .checkpoint import Checkpoint, CheckpointFolder, newest_sound
from .initial import CONFIG_NAME, before_the_last_restart

if TYPE_CHECKING:
    from pathlib import Path

    from ...dataset.reader import Dataset
    from ..data.split import TrainingData

__all__ = ["CONFIG_NAME", "checkpoint_to_resume", "describe_data", "digest_of"]

_FREE_TO_CHANGE = {
    "run": (
        "out",
        "device",
        "compile",
        "log_every",
        "evaluate_every",
        "checkpoint_minutes",
        "keep",
        "resume",
    ),
    "data": ("cache", "check", "shards", "val_shards"),
    "guidance": ("max_psnr_loss", "write_tuned", "masks"),
}
"""What may change from one part of a run to the next; datasets and images are compared by content."""


def checkpoint_to_resume(
    config: TrainConfig, data: TrainingData
) -> tuple[Checkpoint, tuple[Path, ...]] | None:
    """Find where to go on, and refuse to mix runs.

    Returns:
        The newest checkpoint that is whole, and those after it that are not; None where a run begins.

    Raises:
        GvitError: The folder holds something else, or a run with other settings or data.
    """
    out = config.run.out
    if out.exists() and not out.is_dir():
        raise GvitError(f"{out} is a file: choose a folder with --out")
    recorded = out / CONFIG_NAME
    if out.exists() and any(out.iterdir()) and not recorded.exists():
        raise GvitError(f"{out} holds something that is no run of gvit: choose another folder with --out")
    if not CheckpointFolder(out).newest_first():
        return None
    if config.run.resume == "never":
        raise GvitError(f"{out} already holds a run: choose another --out, or go on with --resume auto")
    run = build(TrainConfig, read_yaml(recorded))
    differing = differences(_binding(plain(before_the_last_restart(config, run))), _binding(plain(run)))
    if differing:
        raise GvitError(
            f"{out} holds a run with other settings, {', '.join(differing)}: "
            "use the same settings to go on with it, or choose another --out"
        )
    found = newest_sound(out)
    if found is None:
        return None
    checkpoint, _ = found
    if checkpoint.about.data != describe_data(data):
        raise GvitError(f"{out} was trained on other data than {config.data.shards}: choose another --out")
    return found


def _binding(settings: Settings) -> Settings:
    """The settings that must stay the same throughout a run."""
    kept = {name: value for name, value in settings.items() if name != "recipe"}
    for section, free in _FREE_TO_CHANGE.items():
        kept[section] = {name: value for name, value in kept.get(section, {}).items() if name not in free}
    kept["run"].pop("tensorboard", None)
    if kept["model"].get("stem") == "none":  # then it draws nothing, at whatever side
        kept["model"] = {name: value for name, value in kept["model"].items() if name != "stem_side"}
    kept["guidance"]["images"] = kept["guidance"].get("images") is not None
    return kept


def describe_data(data: TrainingData) -> DataAbout:
    """Return what a model needs to be given the same kind of sets, and digests of those that it was given."""
    manifest = data.train.manifest
    return DataAbout(
        classes=data.classes,
        gaussians=manifest.gaussians,
        size=manifest.size,
        encoding=manifest.encoding,
        fit=manifest.fit,
        train=digest_of(data.train),
        val=digest_of(data.val),
    )


def digest_of(part: Dataset) -> str:
    """Return the SHA-256 over shards and keys of the sets of a dataset or a part of it."""
    sums = ",".join(shard.sha256 for shard in part.manifest.shards)
    keys = "\n".join(part.keys)
    return hashlib.sha256(f"{sums}\n{keys}".encode()).hexdigest()
