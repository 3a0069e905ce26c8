"""Images as small sets of 2D Gaussians: encode a dataset once, train Vision Transformers on the sets."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dataset.reader import Dataset as Dataset
    from .dataset.reader import open_dataset as open_dataset
    from .fitting.config import FitConfig as FitConfig
    from .fitting.fitter import Fitter as Fitter
    from .front.dataset import draw as draw
    from .front.dataset import encode as encode
    from .front.fit import Fit as Fit
    from .front.fit import fit as fit
    from .front.fit import render as render
    from .front.models import Model as Model
    from .front.models import load_model as load_model
    from .front.models import predict as predict
    from .front.models import train_model as train_model
    from .pipeline.config import EncodeConfig as EncodeConfig
    from .rendering.arrays import render_numpy as render_numpy
    from .schemas.errors import DatasetError as DatasetError
    from .schemas.errors import GvitError as GvitError
    from .schemas.gaussians import FIELDS as FIELDS
    from .schemas.version import __version__ as __version__
    from .train.data.loader import SetLoader as SetLoader

# Public name -> the module that holds it; imported on first use, so that `import gvit` stays instant.
_HOMES: dict[str, str] = {
    "Dataset": "dataset.reader",
    "DatasetError": "schemas.errors",
    "EncodeConfig": "pipeline.config",
    "FIELDS": "schemas.gaussians",
    "FitConfig": "fitting.config",
    "Fitter": "fitting.fitter",
    "GvitError": "schemas.errors",
    "SetLoader": "train.data.loader",
    "__version__": "schemas.version",
    "Fit": "front.fit",
    "Model": "front.models",
    "draw": "front.dataset",
    "encode": "front.dataset",
    "fit": "front.fit",
    "load_model": "front.models",
    "open_dataset": "dataset.reader",
    "predict": "front.models",
    "render": "front.fit",
    "render_numpy": "rendering.arrays",
    "train_model": "front.models",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = importlib.import_module(f".{_HOMES[name]}", __name__)
    except ModuleNotFoundError as error:
        from .schemas.extras import advice_for

        advice = advice_for(error.name or "")
        if advice is None:
            raise
        raise ImportError(advice, name=error.name) from error
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
