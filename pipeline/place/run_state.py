"""`DST/.gvit/run.json`: what the dataset there is made of, and when which run worked on it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...schemas.errors import DatasetError, GvitError
from .private_files import PRIVATE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config import Fingerprint
    from .private_files import PrivateFiles

__all__ = [
    "RunRecord",
    "RunState",
    "check_same",
    "dump_run_state",
    "load_run_state",
    "parse_run_state",
    "read_run_state",
    "recorded_source",
    "save_run_state",
]

RUN_JSON, RUN_COPY = "run.json", "run.copy.json"

_DIGEST_SHOWN = 12
_MISSING = "absent"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run: when it started (UTC, ISO 8601), where and how, and what it got done in how many seconds.

    `source` is the absolute path of the folder of images, empty in records from before it was noted.
    """

    started: str
    host: str
    pid: int
    engine: str
    device: str
    workers: int
    seconds: float
    images: int
    outcome: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class RunState:
    """The fingerprint of a dataset, whether --overwrite began it, and the runs so far."""

    fingerprint: Fingerprint
    replaced: bool = False
    runs: tuple[RunRecord, ...] = ()


def dump_run_state(state: RunState) -> bytes:
    """Write a state as JSON."""
    content = {
        "schema_version": state.fingerprint["schema_version"],
        "fit_version": state.fingerprint["fit_version"],
        **asdict(state),
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def load_run_state(path: Path) -> RunState | None:
    """Read a state, None where there is no such file.

    Raises:
        DatasetError: It is damaged.
    """
    try:
        return parse_run_state(path.read_bytes(), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse_run_state(data: bytes, place: str) -> RunState:
    """Read a state from the content of its file.

    Raises:
        DatasetError: naming `place`: it is damaged.
    """
    try:
        content = cast("dict[str, Any]", json.loads(data))
        runs = tuple(RunRecord(**record) for record in content["runs"])
        return RunState(dict(content["fingerprint"]), bool(content["replaced"]), runs)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{place} is damaged, so the dataset cannot be continued; "
            "choose another folder or use --overwrite"
        ) from error


def save_run_state(files: PrivateFiles, state: RunState) -> None:
    """Write a state twice, since not every place writes files all or nothing: one of the two is whole."""
    for name in (RUN_COPY, RUN_JSON):
        files.write(name, dump_run_state(state))


def read_run_state(files: PrivateFiles, place: str) -> RunState | None:
    """Return the state that `save_run_state` wrote among the private files of a place, None without any.

    Raises:
        DatasetError: Both copies are damaged.
    """
    data, copy = files.read(RUN_JSON), files.read(RUN_COPY)
    if data is None:  # then a copy is of the very first write, and no work was done yet
        return None
    try:
        return parse_run_state(data, f"{place}/{RUN_JSON}")
    except DatasetError:
        if copy is None:
            raise
        return parse_run_state(copy, f"{place}/{RUN_COPY}")


def recorded_source(dataset: Path) -> Path | None:
    """Return the folder of images that the last run on this dataset read, None where there is no record."""
    try:
        state = load_run_state(dataset / PRIVATE / RUN_JSON)
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
