"""The version of this package: one dataset is made by one version, wherever its workers run."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.2.0"
