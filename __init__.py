"""Images as small sets of 2D Gaussians: encode a dataset once, train Vision Transformers on the sets."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline.config import EncodeConfig as EncodeConfig
    from .pipeline.encode import encode as encode
    from .pipeline.fit import Fitter as Fitter
    from .pipeline.fit_config import FitConfig as FitConfig
    from .render.cpu import render_numpy as render_numpy
    from .schemas import FIELDS as FIELDS
    from .schemas import Dataset as Dataset
    from .schemas import DatasetError as DatasetError
    from .schemas import GvitError as GvitError
    from .schemas import open_dataset as open_dataset
    from .train.loader import SetLoader as SetLoader

__version__ = "0.1.0"

# Public name -> the module that holds it; imported on first use, so that `import gvit` stays instant.
_HOMES: dict[str, str] = {
    "Dataset": "schemas",
    "DatasetError": "schemas",
    "EncodeConfig": "pipeline.config",
    "FIELDS": "schemas",
    "FitConfig": "pipeline.fit_config",
    "Fitter": "pipeline.fit",
    "GvitError": "schemas",
    "SetLoader": "train.loader",
    "encode": "pipeline.encode",
    "open_dataset": "schemas",
    "render_numpy": "render.cpu",
}

__all__ = [
    "FIELDS",
    "Dataset",
    "DatasetError",
    "EncodeConfig",
    "FitConfig",
    "Fitter",
    "GvitError",
    "SetLoader",
    "__version__",
    "encode",
    "open_dataset",
    "render_numpy",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
