"""What guidance is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from ...schemas.errors import GvitError
from ...schemas.limits import Choice, Range, Share, check_limits
from ..model.refiner import RefinerConfig

__all__ = ["MODES", "GuidanceConfig", "gamma_at"]

MODES = ("none", "refine", "direct")
_LARGEST_WITHOUT_SHRINKING = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidanceConfig:
    """How the classifier steers the Gaussians.

    Attributes:
        mode: "none"; "refine", a network that moves them, in training and evaluation alike; "direct", the
            stored sets of training samples themselves move.
        gamma: Weight of the classifier's gradient on the Gaussians, -100 to 100. Above 0 they move so that
            the class is easier to see, below 0 so that it is harder. In "refine" reconstruction has weight 1
            where its error is that of the fit; in "direct" it is the size of the step in units of ``step``.
        gamma_warmup: Epochs over which gamma rises from 0, 0 or more.
        gamma_final: Share of gamma that is left at the end, 0 to 1; it falls linearly after the warm-up.
        perceptual: Weight of 1 - MS-SSIM beside the squared error, 0 or more.
        reconstruct: Share of the samples of a batch that are rendered in "refine", 0 to 1; at 0 nothing
            holds the sets to their images, and nothing is reported or stopped.
        fraction: Share of the samples of a batch that are seen moved, and move on, in "direct", 0 to 1.
        step: Root mean square of a step at gamma 1 in "direct", in parts of the bounds, above 0 to 1.
        reach: Factor of the largest moves in "direct", above 0 to 4.
        resolution: Side of the renderings in pixels, from 8 to the size of the fit; None takes the fit's up
            to 64 pixels and half of it above.
        psnr_budget: What guidance may cost the sets, dB, above 0: after each epoch gamma is made larger or
            smaller until it costs that much. None leaves gamma as it is.
        max_psnr_loss: Stop where the guided sets lose more than this against the stored ones, dB, above 0.
        images: Folder that was encoded, to reconstruct the images themselves; None reconstructs the
            renderings of the stored sets.
        masks: Folder with a PNG at the path of each image that has one, white where the object is, black
            elsewhere: to report what part of the coverage lies on it. Nothing is trained on them.
        write_tuned: Where the moved sets are written as a dataset at the end: the training sets in "direct",
            all sets in "refine"; needs images.
        refiner: The network of "refine".

    Raises:
        GvitError: A value is out of range, or the settings contradict each other.
    """

    mode: Annotated[str, Choice(MODES)] = "none"
    gamma: Annotated[float, Range(-100.0, 100.0)] = 0.1
    gamma_warmup: Annotated[float, Range(0.0, 1e6)] = 2.0
    gamma_final: Share = 1.0
    perceptual: Annotated[float, Range(0.0, 1e6)] = 0.1
    reconstruct: Share = 0.25
    fraction: Share = 0.5
    step: Annotated[float, Range(0.0, 1.0, above=True)] = 0.25
    reach: Annotated[float, Range(0.0, 4.0, above=True)] = 1.0
    resolution: Annotated[int | None, Range(8)] = None
    psnr_budget: Annotated[float | None, Range(0.0, 100.0, above=True)] = None
    max_psnr_loss: Annotated[float, Range(0.0, 100.0, above=True)] = 3.0
    images: Path | None = None
    masks: Path | None = None
    write_tuned: Path | None = None
    refiner: RefinerConfig = field(default_factory=RefinerConfig)

    def __post_init__(self) -> None:
        check_limits(self, "guidance.")
        if self.write_tuned is not None and self.mode == "none":
            raise GvitError("without --guidance refine or direct no set is moved for --write-tuned to write")
        if self.write_tuned is not None and self.images is None:
            raise GvitError("--write-tuned needs --images: a dataset states its PSNR against the images")
        if self.mode == "none" and self.images is not None:
            raise GvitError("--images are for guidance: give --guidance refine or direct, or leave them out")
        if self.mode == "none" and self.masks is not None:
            raise GvitError("guidance.masks say what guidance moved: give --guidance refine or direct")
        if self.psnr_budget is not None and self.psnr_budget >= self.max_psnr_loss:
            raise GvitError(
                "guidance.psnr_budget must be less than guidance.max_psnr_loss, which stops the run"
            )

    def side(self, size: int) -> int:
        """Return the side of the renderings for sets fitted at a size, in pixels.

        Raises:
            GvitError: The one that is asked for is larger than the fit.
        """
        if self.resolution is None:
            return size if size <= _LARGEST_WITHOUT_SHRINKING else size // 2
        if self.resolution > size:
            raise GvitError(
                f"guidance.resolution must be at most the {size} pixels of the fit, not {self.resolution}"
            )
        return self.resolution


def gamma_at(config: GuidanceConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return gamma at a step, counted from 0: a pure function, as the learning rate is."""
    warmup = config.gamma_warmup * steps_per_epoch
    if step < warmup:
        return config.gamma * step / warmup
    progress = (step - warmup) / max(steps_per_epoch * epochs - warmup, 1.0)
    return config.gamma * (1.0 - (1.0 - config.gamma_final) * min(progress, 1.0))
