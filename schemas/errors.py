"""The errors that gvit raises for a person to act on."""

from __future__ import annotations

__all__ = ["DatasetError", "GvitError"]


class GvitError(Exception):
    """Something that a person can act on; its text is one clear sentence that says what to do."""


class DatasetError(GvitError):
    """A dataset on disk is missing, incomplete, damaged or of another version."""
