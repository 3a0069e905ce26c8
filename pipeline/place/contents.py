"""What a place holds already: may it be used, and how to empty it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ...schemas.checksums import SUMS_NAME, ZARR_NAME, is_dataset_file
from ...schemas.documents import from_json
from ...schemas.errors import DatasetError, GvitError
from ...schemas.manifest import MANIFEST_NAME
from .place import PRIVATE, Place
from .run_state import RunState, read_state

__all__ = ["clear_dataset", "holds_work", "inspect_place"]

_ON_ITS_WAY = re.compile(r"\.(.+)\.[^.]+\.tmp")
_OF_A_RUN = ("progress.json", "events.jsonl")
_FOLDERS_OF_A_RUN = ("journal", "workers", "logs")


@dataclass(frozen=True, slots=True)
class _Manifest:
    """What tells a manifest, of whatever version, from other JSON."""

    schema_version: Any
    fields: Any
    shards: Any


def inspect_place(place: Place, *, overwrite: bool) -> RunState | None:
    """Look what a place holds, and change nothing: the state of a dataset, or None where it is free.

    With `overwrite` a dataset whose state is lost or damaged counts as free too.

    Raises:
        GvitError: It holds something else, or a dataset that cannot be continued, or cannot be read.
    """
    names = place.names()
    try:
        state = read_state(place)
    except DatasetError:
        if overwrite:
            return None
        raise
    if state is not None or not names:
        return state
    if not _is_manifest(place.read(MANIFEST_NAME)):
        raise GvitError(
            f"{place.name} is not empty and holds no gvit dataset (there is {', '.join(names[:3])}); "
            "choose an empty or a new folder"
        )
    if not overwrite:
        raise GvitError(
            f"{place.name} holds a dataset without its {PRIVATE} folder, so it cannot be continued; "
            "choose another folder, or replace it with --overwrite"
        )
    return None


def _is_manifest(data: bytes | None) -> bool:
    try:
        from_json(_Manifest, data or b"")
    except DatasetError:
        return False
    return True


def holds_work(place: Place) -> bool:
    """Tell whether any finished block or shard would be lost with the dataset."""
    return any(name.startswith("shard-") for name in place.lengths()) or place.holds(f"{PRIVATE}/journal")


def clear_dataset(place: Place) -> None:
    """Delete the files of a dataset and nothing else; its state stays: a kill leaves a known place.

    The checksums go first, and the manifest last: it tells a half deleted dataset from somebody's tar files.
    """
    mine = [name for name in place.lengths() if _is_of_a_dataset(name)]
    for name in sorted(mine, key=lambda name: (name == MANIFEST_NAME, name != SUMS_NAME)):
        place.remove(name)
    place.remove_folder(ZARR_NAME)
    for folder in _FOLDERS_OF_A_RUN:
        place.remove_folder(f"{PRIVATE}/{folder}")
    for name in _OF_A_RUN:
        place.remove(f"{PRIVATE}/{name}")


def _is_of_a_dataset(name: str) -> bool:
    """Tell whether a file has a name that gvit gives, finished or on its way."""
    on_its_way = _ON_ITS_WAY.fullmatch(name)
    final = name if on_its_way is None else on_its_way[1]
    return final == SUMS_NAME or is_dataset_file(final)
