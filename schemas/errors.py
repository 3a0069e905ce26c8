"""Errors that a person can act on."""

from __future__ import annotations

__all__ = ["DatasetError", "GvitError"]


class GvitError(Exception):
    """Something a person can act on: ``str(error)`` is one clear sentence that says what to do."""


class DatasetError(GvitError):
    """A dataset on disk is missing, incomplete, damaged or of another version."""
