"""Images as small sets of 2D Gaussians: encode a dataset once, train Vision Transformers on the sets."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .schemas import GvitError as GvitError
    from .schemas import open_dataset as open_dataset

__version__ = "0.1.0"

# Public name -> the module that holds it; imported on first use, so that `import gvit` stays instant.
_HOMES: dict[str, str] = {
    "GvitError": "schemas",
    "open_dataset": "schemas",
}

__all__ = ["GvitError", "__version__", "open_dataset"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
