"""`DST/.gvit/run.json`: what the dataset there is made of, and when which run worked on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...schemas.documents import Integer, from_json, to_json
from ...schemas.errors import DatasetError, GvitError
from .place import PRIVATE, Place

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Fingerprint",
    "RunRecord",
    "RunState",
    "check_same",
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
    data, copy = place.read(RUN_JSON), place.read(RUN_COPY)
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
        raise GvitError(
            f"{destination} holds another dataset ({differences}); "
            "choose another folder, or use the same settings and images, or replace it with --overwrite"
        )


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 2 * _DIGEST_SHOWN else text[:_DIGEST_SHOWN]
