"""The sets that direct guidance moved, written as a dataset again: to train on, never to evaluate on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from ...dataset.commit import atomic_write, commit_shard, write_manifest
from ...dataset.export import appearing
from ...rendering.cpu import render_batch
from ...rendering.fidelity import psnr
from ...schemas.checksums import CARD_NAME
from ...schemas.encoding import decode, encode
from ...schemas.gaussians import canonicalize, min_scale
from ...schemas.manifest import MANIFEST_NAME, DoneMark, Manifest, Tuning, build_manifest
from ...schemas.rows import Row, rows_to_table, table_to_rows
from ...schemas.shards import BlockArrays
from ..model.motion import move

if TYPE_CHECKING:
    from pathlib import Path

    from ...dataset.open_shard import Shard
    from ...dataset.reader import Dataset
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
    numbers = {key: number for number, key in enumerate(sets.dataset.keys)}
    marks: list[DoneMark] = []
    rows: list[list[Row]] = []
    with appearing(out) as folder:
        for shard in sets.dataset.shards:
            kept, blocks = _tune_shard(sets, shard, numbers)
            if kept:
                marks.append(
                    commit_shard(
                        folder,
                        shard.mark.name,
                        blocks,
                        kept,
                        split=shard.mark.split,
                        attempt="tuned",
                        still_ours=lambda: True,
                    )
                )
                rows.append(kept)
        manifest = _manifest(sets, marks, rows)
        (folder / CARD_NAME).write_text(_CARD)
        write_manifest(folder, manifest)
    return manifest


def _manifest(sets: TunedSets, marks: list[DoneMark], rows: list[list[Row]]) -> Manifest:
    old = sets.dataset.manifest
    return build_manifest(
        gaussians=old.gaussians,
        size=old.size,
        encoding=old.encoding,
        fit=old.fit,
        classes=old.classes,
        marks=marks,
        tables=[rows_to_table(part) for part in rows],
        name=old.name,
        label_informed=True,
        tuning=sets.tuning,
    )


def _tune_shard(
    sets: TunedSets, shard: Shard, numbers: dict[str, int]
) -> tuple[list[Row], list[BlockArrays]]:
    """Rows and blocks of the sets of a shard that were trained on."""
    stored_rows = [row for row in table_to_rows(shard.table) if row.row is not None]
    kept: list[Row] = []
    blocks: list[BlockArrays] = []
    start = 0
    for number, block in enumerate(shard.mark.blocks):
        rows = stored_rows[start : start + block.rows]
        start += block.rows
        wanted = np.array([row.key in numbers for row in rows])
        if not wanted.any():
            continue
        stored, labels = shard.reader.read_block(number)
        chosen = [row for row in rows if row.key in numbers]
        moved = _moved(sets, stored[wanted], [numbers[row.key] for row in chosen])
        blocks.append(BlockArrays(block.first, moved, labels[wanted]))
        quality = _qualities(sets, moved, chosen)
        kept += [
            replace(row, row=len(kept) + place, psnr=value)
            for place, (row, value) in enumerate(zip(chosen, quality, strict=True))
        ]
    return kept, blocks


def _moved(sets: TunedSets, stored: npt.NDArray[np.generic], numbers: list[int]) -> npt.NDArray[np.generic]:
    """Stored sets, moved and rounded as they are stored."""
    manifest = sets.dataset.manifest
    gaussians = torch.from_numpy(decode(stored, manifest.encoding))
    least = min_scale(manifest.size)
    moved = move(gaussians, sets.moves[numbers].float(), reach=sets.reach, min_scale=least).numpy()
    moved[..., 0:2] = moved[..., 0:2].clip(-1.0, 1.0)
    return encode(canonicalize(moved), manifest.encoding, manifest.size)


def _qualities(sets: TunedSets, stored: npt.NDArray[np.generic], rows: list[Row]) -> list[float]:
    """PSNR of each stored set against its image, dB."""
    manifest = sets.dataset.manifest
    gaussians: Floats = decode(stored, manifest.encoding)
    renderings = render_batch(gaussians, manifest.size, manifest.size, sets.threads)
    return [psnr(rendering, sets.find(row)) for rendering, row in zip(renderings, rows, strict=True)]
