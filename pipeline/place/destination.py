"""The folder that a dataset goes to: what is there already, may it be used, and how to empty it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ...schemas.checksums import ZARR_NAME
from ...schemas.errors import DatasetError, GvitError
from .private_files import PRIVATE
from .run_state import RunState, load_run_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "DATASET_JSON",
    "PRIVATE",
    "README",
    "clear_dataset",
    "explain",
    "holds_work",
    "inspect_destination",
    "is_of_a_dataset",
    "judge",
    "make_private_folder",
]

DATASET_JSON = "dataset.json"
README = "README.md"

_OF_A_DATASET = re.compile(
    r"((dataset|class-names)\.json|README\.md|SHA256SUMS|contact-sheet\.png|shard-\d{6,}\.(tar|parquet|json))"
    # and what a killed run left of them
    r"|\.((dataset|class-names)\.json|README\.md|SHA256SUMS|shard-\d{6,}\.(tar|parquet|json))\..+\.tmp"
)
_KEPT_BY_CLEAR = frozenset({"lease", "lease.lock", "run.json"})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def inspect_destination(destination: Path, *, overwrite: bool) -> RunState | None:
    """Look what a folder holds, and change nothing: the state of a dataset, or None where it is free.

    With `overwrite` a dataset whose state is lost or damaged counts as free too.

    Raises:
        GvitError: It is a file, holds something else, or a dataset that cannot be continued.
    """
    try:
        names = sorted(path.name for path in destination.iterdir() if path.name != PRIVATE)
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise GvitError(f"{destination} is not a folder; give the folder that the dataset goes to") from error
    except OSError as error:
        raise GvitError(f"{destination} cannot be read ({error.strerror}); choose another folder") from error
    return judge(
        str(destination),
        names,
        lambda: load_run_state(destination / PRIVATE / "run.json"),
        lambda: _content(destination / DATASET_JSON),
        overwrite=overwrite,
    )


def judge(
    place: str,
    names: Sequence[str],
    read_state: Callable[[], RunState | None],
    read_manifest: Callable[[], bytes | None],
    *,
    overwrite: bool,
) -> RunState | None:
    """Decide what may be done at a place that holds files of these names; as `inspect_destination`.

    Raises:
        GvitError: It holds something else, or a dataset that cannot be continued.
    """
    try:
        state = read_state()
    except DatasetError:
        if overwrite:
            return None
        raise
    if state is not None or not names:
        return state
    if not _is_manifest(read_manifest()):
        raise GvitError(
            f"{place} is not empty and holds no gvit dataset (there is {', '.join(names[:3])}); "
            "choose an empty or a new folder"
        )
    if not overwrite:
        raise GvitError(
            f"{place} holds a dataset without its {PRIVATE} folder, so it cannot be continued; "
            "choose another folder, or replace it with --overwrite"
        )
    return None


def make_private_folder(destination: Path) -> Path:
    """Create the destination and the folder in it that is not part of the dataset; return the latter.

    Raises:
        GvitError: It cannot be created.
    """
    private = destination / PRIVATE
    try:
        private.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        explained = explain(error, destination)
        if explained is None:  # the trouble is above the destination
            sentence = f"{destination} cannot be created ({error.strerror}); choose another folder"
            explained = GvitError(sentence)
        raise explained from error
    return private


def holds_work(destination: Path) -> bool:
    """Tell whether any finished block or shard would be lost with the dataset."""
    journal = destination / PRIVATE / "journal"
    return any(destination.glob("shard-*")) or any(journal.glob("*/*"))


def clear_dataset(destination: Path) -> None:
    """Delete the files of a dataset and nothing else; `run.json` stays: a kill leaves a known folder."""
    files = sorted(path for path in destination.iterdir() if is_of_a_dataset(path.name))
    # dataset.json goes last: it is what tells a half deleted dataset from somebody's tar files.
    for path in sorted(files, key=lambda path: path.name == DATASET_JSON):
        if not path.is_dir():
            path.unlink()
    shutil.rmtree(destination / ZARR_NAME, ignore_errors=True)
    for path in (destination / PRIVATE).iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in _KEPT_BY_CLEAR:
            path.unlink()


def explain(error: OSError, destination: Path) -> GvitError | None:
    """Say in one sentence what a failed write to the destination means; None where it was no such write."""
    if error.errno in _FULL:
        return GvitError(
            f"no space is left for {destination}; what is finished is safe: "
            "free some space and run the same command again"
        )
    if error.filename is None:
        return None
    if not Path(os.fsdecode(error.filename)).absolute().is_relative_to(destination.absolute()):
        return None
    if error.errno in _READ_ONLY:
        return GvitError(f"{destination} cannot be written ({error.strerror}); choose another folder")
    return GvitError(f"{destination} cannot be used ({error.strerror}); choose another folder, or try again")


def is_of_a_dataset(name: str) -> bool:
    """Tell whether a file beside `.gvit/` has a name that gvit gives, finished or on its way."""
    return _OF_A_DATASET.fullmatch(name) is not None


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _is_manifest(data: bytes | None) -> bool:
    with contextlib.suppress(ValueError):
        manifest = json.loads(data or b"")
        return isinstance(manifest, dict) and {"schema_version", "fields", "shards"} <= manifest.keys()
    return False
