"""`DST/.gvit/run.json`: what the dataset there is made of, and when which run worked on it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...schemas.checksums import PRIVATE, SUMS_NAME, ZARR_NAME, is_dataset_file
from ...schemas.documents import Integer, from_json, to_json
from ...schemas.errors import DatasetError, GvitError
from ...schemas.manifest import MANIFEST_NAME
from .place import SEEN

if TYPE_CHECKING:
    from .place import Place

__all__ = [
    "Fingerprint",
    "RunRecord",
    "RunState",
    "check_same",
    "clear_dataset",
    "files_to_clear",
    "holds_work",
    "inspect_place",
    "new_state",
    "read_state",
    "recorded_source",
    "save_state",
]

Fingerprint = dict[str, str | int | float | bool | None]
"""All that the bytes of a dataset depend on, by name."""

RUN_JSON, RUN_COPY = f"{PRIVATE}/run.json", f"{PRIVATE}/run.copy.json"

_DIGEST_SHOWN = 12
_MISSING = "absent"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run: when it started (UTC, ISO 8601), where and how, and what it got done in how many seconds.

    `source` is the absolute path of the folder of images, empty in records from before it was noted.
    """

    started: str
    host: str
    pid: Integer
    engine: str
    device: str
    workers: Integer
    seconds: float
    images: Integer
    outcome: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """The fingerprint of a dataset, whether --overwrite began it, and the runs so far.

    The versions are those of the fingerprint, for whoever reads the file.
    """

    schema_version: Integer
    fit_version: Integer
    fingerprint: Fingerprint
    replaced: bool = False
    runs: tuple[RunRecord, ...] = ()


def new_state(fingerprint: Fingerprint, *, replaced: bool) -> RunState:
    """Return the state of a dataset that no run has worked on yet."""
    schema, fit = (int(fingerprint[name] or 0) for name in ("schema_version", "fit_version"))
    return RunState(schema_version=schema, fit_version=fit, fingerprint=fingerprint, replaced=bool(replaced))


def save_state(place: Place, state: RunState) -> None:
    """Write a state; twice behind a URL, where writes need not be all or nothing: one of the two is whole."""
    for name in (RUN_JSON,) if place.folder is not None else (RUN_COPY, RUN_JSON):
        place.write(name, to_json(state))


def read_state(place: Place) -> RunState | None:
    """Return the state that `save_state` wrote, None where there is none.

    Raises:
        DatasetError: Both copies are damaged.
    """
    data, copy = (place.read(name, certain=True) for name in (RUN_JSON, RUN_COPY))
    if data is None:  # then a copy is of the very first write, and no work was done yet
        return None
    try:
        return _parse(data, f"{place.name}/{RUN_JSON}")
    except DatasetError:
        if copy is None:
            raise
        return _parse(copy, f"{place.name}/{RUN_COPY}")


def _parse(data: bytes, name: str) -> RunState:
    try:
        return from_json(RunState, data, closed=True)
    except DatasetError as error:
        raise DatasetError(
            f"{name} is damaged ({error}), so the dataset cannot be continued; "
            "choose another folder or use --overwrite"
        ) from error


def recorded_source(place: Place) -> Path | None:
    """Return the folder of images that the last run here read, None where there is no record."""
    try:
        state = read_state(place)
    except DatasetError:  # damaged: no reason not to look at the dataset
        return None
    sources = [run.source for run in state.runs if run.source] if state else []
    return Path(sources[-1]) if sources else None


_HONOURS_PROFILES = 2  # the fit version since which colour profiles are honoured


def check_same(destination: str, there: Mapping[str, object], here: Mapping[str, object]) -> None:
    """Compare the fingerprint of a dataset with that of the run which is to continue it.

    Raises:
        GvitError: They differ; it names each differing field with both values.
    """
    names = [name for name in {**there, **here} if there.get(name, _MISSING) != here.get(name, _MISSING)]
    if names:
        differences = ", ".join(
            f"{name} is {_shown(there.get(name, _MISSING))} there and {_shown(here.get(name, _MISSING))} here"
            for name in names
        )
        raw = there.get("fit_version") == 1 and here.get("fit_version") == _HONOURS_PROFILES
        way = "; what was begun with gvit 0.1 goes on with --color raw" if raw else ""
        raise GvitError(
            f"{destination} holds another dataset ({differences}); "
            f"choose another folder, or use the same settings and images, or replace it with --overwrite{way}"
        )


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 2 * _DIGEST_SHOWN else text[:_DIGEST_SHOWN]


_ON_ITS_WAY = re.compile(r"\.(.+)\.[^.]+\.tmp")
_OF_A_RUN = ("progress.json", "events.jsonl")
_FOLDERS_OF_A_RUN = ("journal", SEEN, "workers", "logs", "pull", f"{ZARR_NAME}.tmp")


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
    for name in sorted(files_to_clear(place), key=lambda name: (name == MANIFEST_NAME, name != SUMS_NAME)):
        place.remove(name)
    place.remove_folder(ZARR_NAME)
    for folder in _FOLDERS_OF_A_RUN:
        place.remove_folder(f"{PRIVATE}/{folder}")
    for name in _OF_A_RUN:
        place.remove(f"{PRIVATE}/{name}")


def files_to_clear(place: Place) -> dict[str, int]:
    """Return the files directly in a place that `clear_dataset` deletes, and their bytes."""
    return {name: length for name, length in place.lengths().items() if _is_of_a_dataset(name)}


def _is_of_a_dataset(name: str) -> bool:
    """Tell whether a file has a name that gvit gives, finished or on its way."""
    on_its_way = _ON_ITS_WAY.fullmatch(name)
    final = name if on_its_way is None else on_its_way[1]
    return final == SUMS_NAME or is_dataset_file(final)
