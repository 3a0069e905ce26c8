"""Checkpoints: whole folders, written aside and renamed into place, so that none is ever half there.

RUN/checkpoints/step-00001234/
    model.safetensors     weights as trained
    ema.safetensors       averaged weights, where the run keeps them
    state.pt              plain dicts and tensors: optimiser, place in the data, running sums
    about.json            what the model is, what it was trained on, how well it does; SHA-256 of the others
RUN/checkpoints.json      which of them are the last and the best; replaced in one piece

A model that was made to be shared (`model_card`) has config.json in place of about.json.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from msgspec import Meta
from safetensors.torch import load, save

from ...dataset.commit import atomic_write, flush_file, flush_folder
from ...schemas.checksums import hash_file
from ...schemas.documents import Integer, from_json, to_json
from ...schemas.errors import DatasetError, GvitError
from ...schemas.files import read_file
from .about import FORMAT, About, SharedAbout, with_sums

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CONFIG_NAME",
    "WEIGHTS_NAME",
    "Checkpoint",
    "CheckpointFolder",
    "dump_weights",
    "newest_sound",
    "read_about",
    "read_checkpoint",
]

CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"
"""The files of a model that was made to be shared."""

_INDEX = "checkpoints.json"
_FOLDER = "checkpoints"
_PREFIX = "step-"
StepName = Annotated[str, Meta(pattern=r"\Astep-[0-9]{8,}\Z")]
_ABOUT, _MODEL, _EMA, _STATE = "about.json", WEIGHTS_NAME, "ema.safetensors", "state.pt"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that a run needs to go on, and others need to use its model.

    Attributes:
        about: What the model is; of a model that was made to be shared, with the names of its labels.
        model: Weights and buffers by name.
        ema: Their average, or None.
        state: Nested dicts, lists, numbers, strings and tensors.
        checked: Whether it was read from files whose checksums are known and right.
    """

    about: About
    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None
    state: dict[str, Any]
    checked: bool = False

    @property
    def step(self) -> int:
        """Updates made."""
        return self.about.step

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The weights to evaluate: the average where there is one."""
        return self.model if self.ema is None else self.ema


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    """`checkpoints.json`: names of folders."""

    last: StepName | None = None
    best: StepName | None = None


@dataclass(frozen=True, slots=True)
class _Format:
    """All that is asked of a file that may be of another version."""

    format: Integer | None = None


class CheckpointFolder:
    """The checkpoints of a run.

    Args:
        run: Folder of the run.
        keep: Checkpoints that are kept beside the best.
    """

    def __init__(self, run: Path, keep: int = 1) -> None:
        self._run = run
        self._folder = run / _FOLDER
        self._keep = keep

    @property
    def last(self) -> Path | None:
        """The newest checkpoint."""
        return self._named(self._index().last)

    @property
    def best(self) -> Path | None:
        """The checkpoint with the highest top-1."""
        return self._named(self._index().best)

    def newest_first(self) -> list[Path]:
        """Return all checkpoints, the last one first; where its record is damaged, by their numbers."""
        try:
            last = self.last
        except GvitError:
            last = None
        others = sorted(self._folder.glob(f"{_PREFIX}*"), reverse=True)
        older = [path for path in others if last is None or path.name < last.name.removeprefix(".")]
        return older if last is None else [last, *older]

    def save(self, checkpoint: Checkpoint, *, best: bool) -> Path:
        """Write a checkpoint, make it the last, and the best if it is; then let old ones go.

        Raises:
            OSError: It cannot be written; the checkpoints that were there still are.
        """
        name = f"{_PREFIX}{checkpoint.step:08d}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        temporary = self._folder / f".{name}.{os.getpid()}.tmp"
        try:
            _write(temporary, checkpoint)
            path = self._put(temporary, self._folder / name)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        index = _Index(last=name, best=name if best else self._index().best)
        atomic_write(self._run / _INDEX, to_json(index))
        self._retire(index)
        return path

    def _put(self, temporary: Path, path: Path) -> Path:
        """Rename a finished folder into place; the same step saved again replaces the older one."""
        if path.exists():
            aside = self._folder / f".{path.name}.old.tmp"
            path.rename(aside)
            temporary.rename(path)
            shutil.rmtree(aside)
        else:
            temporary.rename(path)
        flush_folder(self._folder)
        return path

    def _index(self) -> _Index:
        path = self._run / _INDEX
        if not path.exists():
            return _Index()
        try:
            return from_json(_Index, read_file(path), closed=True)
        except DatasetError as error:
            raise GvitError(
                f"{path} is damaged ({error}): name a folder below {self._folder} instead"
            ) from error

    def _named(self, name: str | None) -> Path | None:
        if name is None:
            return None
        path, aside = self._folder / name, self._folder / f".{name}.old.tmp"
        return aside if aside.exists() and not path.exists() else path

    def _sweep(self) -> None:
        for aside in self._folder.glob(".*.old.tmp"):
            path = self._folder / aside.name[1:].removesuffix(".old.tmp")
            if not path.exists():  # a crash came between the two renames
                aside.rename(path)
        for left in self._folder.glob(".*.tmp"):
            shutil.rmtree(left, ignore_errors=True)

    def _retire(self, index: _Index) -> None:
        names = sorted(path.name for path in self._folder.glob(f"{_PREFIX}*"))
        spared = {*names[-self._keep :], index.last, index.best}
        for name in names:
            if name not in spared:
                shutil.rmtree(self._folder / name)


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    folder.mkdir()
    (folder / _MODEL).write_bytes(save(_portable(checkpoint.model)))
    if checkpoint.ema is not None:
        (folder / _EMA).write_bytes(save(_portable(checkpoint.ema)))
    _write_state(folder / _STATE, checkpoint.state)
    sums = {path.name: hash_file(path) for path in sorted(folder.iterdir())}
    (folder / _ABOUT).write_bytes(to_json(with_sums(checkpoint.about, sums)))
    for path in folder.iterdir():
        flush_file(path)
    flush_folder(folder)


def _write_state(path: Path, state: dict[str, Any]) -> None:
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's, about positions in the file; what the disk said is behind it
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def dump_weights(weights: Mapping[str, Tensor]) -> bytes:
    """Return weights as the content of a `model.safetensors`."""
    return save(_portable(weights), {"format": "pt"})


def _portable(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in weights.items()}


def read_checkpoint(path: Path, *, with_state: bool = False) -> Checkpoint:
    """Read a checkpoint from its folder, or the last of a run from the run's.

    It is not the best: a model that was chosen on the validation set looks better there than it is.

    Args:
        path: Folder of a checkpoint, of a run, or of a model that was made to be shared.
        with_state: Also read what only a run that goes on needs.

    Raises:
        GvitError: There is none, or it is damaged or of another version.
    """
    folder = _find(path)
    about = _read_about(folder)
    sums = about.files
    averaged = (folder / _EMA).exists() if sums is None else _EMA in sums
    try:
        return Checkpoint(
            about=replace(about, files=None),
            model=load(_read(folder, _MODEL, sums)),
            ema=load(_read(folder, _EMA, sums)) if averaged else None,
            state=_load_state(_read(folder, _STATE, sums)) if with_state else {},
            checked=sums is not None,
        )
    except DatasetError as error:
        raise _damaged(folder, str(error)) from error
    except Exception as error:  # on damaged bytes these two raise nearly anything
        raise _damaged(folder, f"{type(error).__name__}") from error


def _read(folder: Path, name: str, sums: Mapping[str, str] | None) -> bytes:
    """Return the content of a file of a checkpoint, checked where its checksum is known."""
    data = read_file(folder / name)
    if sums is not None and hashlib.sha256(data).hexdigest() != sums.get(name):
        raise DatasetError(f"the SHA-256 of {name} is not the recorded one")
    return data


def _load_state(data: bytes) -> dict[str, Any]:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def read_about(path: Path) -> About:
    """Read what a checkpoint says of itself; arguments and errors as of `read_checkpoint`."""
    return _read_about(_find(path))


def newest_sound(run: Path) -> tuple[Checkpoint, tuple[Path, ...]] | None:
    """Return the newest checkpoint of a run that is whole, with its state, and those after it that are not.

    None where there is none at all.

    Raises:
        GvitError: None of those that there are is whole.
    """
    folder = CheckpointFolder(run)
    first: GvitError | None = None
    passed: list[Path] = []
    for path in folder.newest_first():
        try:
            return read_checkpoint(path, with_state=True), tuple(passed)
        except GvitError as error:
            first = first or error
            passed.append(path)
    if first is not None:
        raise first
    return None


def _read_about(folder: Path) -> About:
    path = _about_of(folder)
    kind = SharedAbout if path.name == CONFIG_NAME else About
    try:
        data = read_file(path)
        if from_json(_Format, data, nan=True).format == FORMAT:
            about = from_json(kind, data, closed=True, nan=True)
            if about.files is not None and with_sums(about, about.files).files != about.files:
                raise DatasetError("the SHA-256 of what it says is not the recorded one")
            lost = about.evaluation is not None and not math.isfinite(about.evaluation.loss)
            return replace(about, evaluation=None) if lost else about
    except GvitError as error:
        raise _damaged(folder, f"{path.name}: {error}") from error
    raise GvitError(f"{folder} is of another version: read it with the gvit that wrote it")


def _damaged(folder: Path, why: str) -> GvitError:
    return GvitError(f"the checkpoint {folder} is damaged ({why}): use another one, or train again")


def _about_of(folder: Path) -> Path:
    shared = folder / CONFIG_NAME
    return shared if shared.exists() else folder / _ABOUT


def _find(path: Path) -> Path:
    if _about_of(path).exists():
        return path
    folder = CheckpointFolder(path)
    found = folder.last
    if found is None:
        raise GvitError(f"{path} holds no checkpoint: give the folder of a run that gvit train wrote")
    return found
