"""From a config to the guide of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...schemas.gaussians import min_scale
from .guides import DirectGuide, Guide, NoGuide, RefineGuide
from .movement import Movement
from .moves import MoveStore
from .object_masks import ObjectMasks
from .reconstruction import Reconstruction
from .source_images import SourceImages

if TYPE_CHECKING:
    from pathlib import Path

    from ...dataset.reader import Dataset
    from ..model.classifier import SetClassifier
    from ..ranks import Ranks
    from .config import GuidanceConfig
    from .source_images import Sources

__all__ = ["build_guide"]


def build_guide(
    config: GuidanceConfig,
    dataset: Dataset,
    model: SetClassifier,
    sources: Sources,
    *,
    seed: int,
    run: Path,
    ranks: Ranks,
) -> Guide:
    """Return what guides the training on a dataset.

    Args:
        config: What to do.
        dataset: The sets that are trained on.
        model: With a refiner for "refine", without one for "direct"; on its device.
        sources: Images to reconstruct, the stored sets where there are none; masks to count with.
        seed: Of the run.
        run: Folder of the run, for what ranks share.
        ranks: Who trains together.

    Raises:
        GvitError: Config, images and dataset do not go together.
    """
    if config.mode == "none":
        return NoGuide()
    size = dataset.manifest.size
    side = config.side(size)
    reconstruction = Reconstruction(
        side=side,
        blurs=side < size,
        unit=_fit_error(dataset),
        perceptual=config.perceptual,
        images=None if sources.pixels is None else SourceImages(dataset, sources.pixels, side, run, ranks),
    )
    masks = None if sources.mask is None else ObjectMasks(dataset, sources.mask, side, run, ranks)
    movement = Movement(size, ranks.device, masks)
    if model.refiner is None:
        return DirectGuide(
            config=config,
            store=MoveStore(run, len(dataset), dataset.manifest.gaussians, ranks),
            reconstruction=reconstruction,
            movement=movement,
            seed=seed,
            min_scale=min_scale(size),
        )
    return RefineGuide(
        config=config, refiner=model.refiner, reconstruction=reconstruction, movement=movement, seed=seed
    )


def _fit_error(dataset: Dataset) -> float:
    """The mean squared error that the mean PSNR of a dataset stands for."""
    psnr = dataset.manifest.psnr
    return 10.0 ** (-(30.0 if psnr is None else psnr.mean) / 10.0)
