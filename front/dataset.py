"""`gvit.encode` with strings and defaults, and `gvit.draw`."""

from __future__ import annotations

import difflib
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..dataset.reader import Sample
from ..fitting.config import FitConfig
from ..pictures.ellipses import draw_ellipses
from ..pictures.view import enlarge, to_pixels
from ..pipeline.config import EncodeConfig, RunConfig
from ..pipeline.encode import encode as encode_config
from ..rendering.arrays import render_numpy
from ..schemas.errors import GvitError
from ..schemas.gaussians import NUM_FIELDS
from .fit import Fit

if TYPE_CHECKING:
    import numpy.typing as npt
    from rich.console import Console

    from ..pipeline.run import EncodeSummary

__all__ = ["draw", "encode"]

_PANEL = 336  # pixels
_GAP = 8


def encode(
    source: str | Path | EncodeConfig,
    destination: str | Path | None = None,
    *,
    console: Console | None = None,
    **settings: Any,  # noqa: ANN401
) -> EncodeSummary:
    """Encode images into a dataset, or go on with one that was interrupted, as `gvit encode` does.

    Args:
        source: The images, see docs/sources.md; or an `EncodeConfig`, and nothing else.
        destination: Folder or URL of the dataset.
        console: Where progress goes; None for standard error.
        settings: Fields of `FitConfig`, `EncodeConfig` and `RunConfig` by name, as `num_gaussians=64,
            size=32, preset="fast", labels="labels.csv", workers=4`.

    Returns:
        What came of it.

    Raises:
        GvitError: The source, the destination or a setting do not allow it.
    """
    if isinstance(source, EncodeConfig):
        if destination is not None or settings:
            raise GvitError("encode takes an EncodeConfig alone, or a source, a destination and settings")
        return encode_config(source, console=console)
    if destination is None:
        raise GvitError("encode needs a destination: gvit.encode(source, destination)")
    parts: list[dict[str, Any]] = [{}, {}, {}]
    kinds = (FitConfig, RunConfig, EncodeConfig)
    known = [{field.name for field in fields(kind)} for kind in kinds]
    known[2] -= {"source", "destination", "fit", "run"}
    for name, value in settings.items():
        part = next((part for part, names in zip(parts, known, strict=True) if name in names), None)
        if part is None:
            near = difflib.get_close_matches(name, sorted(set().union(*known)), 1)
            raise GvitError(f"encode has no setting {name!r}{f', but {near[0]!r}' if near else ''}")
        part[name] = Path(value) if name in ("labels", "class_names") and value is not None else value
    fit, run, rest = parts
    config = EncodeConfig(
        source=source, destination=destination, fit=FitConfig(**fit), run=RunConfig(**run), **rest
    )
    return encode_config(config, console=console)


def draw(sample: Sample | Fit | npt.NDArray[np.float32], size: int = 224) -> Image.Image:
    """Draw a set: its rendering, and its Gaussians as ellipses; notebooks show the picture that is returned.

    Args:
        sample: Of a dataset; or what `gvit.fit` returns of one image; or an array `[N, 9]`.
        size: Side of the rendering in pixels; what `gvit.fit` returned knows its own.

    Raises:
        GvitError: It is no single set.
    """
    if isinstance(sample, Fit):
        size = sample.size
    gaussians = sample.gaussians if isinstance(sample, Sample | Fit) else np.asarray(sample)
    if gaussians.ndim != 2 or gaussians.shape[-1] != NUM_FIELDS:
        raise GvitError(
            f"a set to draw is [N, {NUM_FIELDS}], not {list(gaussians.shape)}; draw one of several"
        )
    sets = np.ascontiguousarray(gaussians, np.float32)
    (rendering,) = render_numpy(sets[None], size, size)
    page = Image.new("RGB", (2 * _PANEL + _GAP, _PANEL), "white")
    page.paste(enlarge(to_pixels(rendering), _PANEL), (0, 0))
    page.paste(draw_ellipses(sets, _PANEL), (_PANEL + _GAP, 0))
    return page
