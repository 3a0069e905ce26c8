"""What one tar file holds: images, where they are, and what its members say of their labels."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import TypeVar, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...schemas.errors import GvitError
from .source import IMAGE_SUFFIXES, LABEL_NAMES, as_text, is_image_name, suffix_of
from .tar_members import Member, list_members, opened_tar

__all__ = ["Label", "TarContents", "TarWishes", "folder_of", "read_tar"]

Label = int | str | None
_T = TypeVar("_T")

_LABEL_BYTES = 256
_JSON_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class TarWishes:
    """What is looked for beside images: one field of JSON members as label; members to be kept, by suffix."""

    label_field: str | None = None
    keep: tuple[str, ...] = ()

    @property
    def fields(self) -> Sequence[str]:
        """The fields of JSON that may be a label."""
        return LABEL_NAMES if self.label_field is None else (self.label_field,)


@dataclass(slots=True)
class TarContents:
    """The images of a tar file, in the order of their names.

    Attributes:
        names: Their paths in it, as text.
        folders: How many lie in each folder within it, "" or a path that ends with `/`.
        beginning: What the names of all files begin with.
        spans: int64 `[n, 2 + 2k]`: offset and length of each, and of k members that are kept, -1 for none.
        labels: Of each, None without one.
        passed: Members that are neither images, nor labels, nor kept: suffix to number.
        told: What the labels were read from.
        fields: The fields of the first JSON member.
    """

    names: pa.Array
    folders: Counter[str]
    beginning: str
    spans: NDArray[np.int64]
    labels: list[Label]
    passed: Counter[str] = field(default_factory=Counter[str])
    told: set[str] = field(default_factory=set[str])
    fields: tuple[str, ...] = ()


def read_tar(path: Path, wishes: TarWishes) -> TarContents:
    """Read the headers of all members, and those that are labels.

    Raises:
        GvitError: The file cannot be used, see `list_members`; a member's path leads elsewhere or is there
            twice; an image is a link; or a label is neither a whole number nor text.
    """
    with opened_tar(path) as file:
        return _Reader(path, file, wishes).contents()


def folder_of(name: str) -> str:
    """Return the folder of a path: "", or a path that ends with `/`."""
    folder, slash, _ = name.rpartition("/")
    return folder + slash


class _Reader:
    """One walk through a tar file."""

    def __init__(self, path: Path, file: FileIO, wishes: TarWishes) -> None:
        self._path, self._file, self._wishes = path, file, wishes
        self._images: dict[str, Member] = {}
        self._labels: dict[str, Label] = {}  # by the path without what makes it a label
        self._kept: dict[str, dict[str, Member]] = {suffix: {} for suffix in wishes.keep}
        self._passed = Counter[str]()
        self._told = set[str]()
        self._fields: tuple[str, ...] = ()

    def contents(self) -> TarContents:
        seen = set[str]()
        for member in list_members(self._path, self._file):
            name = PurePosixPath(member.name)
            if not self._concerns(member, name):
                self._passed[suffix_of(name.name)] += 1
                continue
            _check_member(self._path, member, name)
            if name.as_posix() in seen:
                raise GvitError(f"{self._path} holds {member.name!r} twice; make the tar file anew")
            seen.add(name.as_posix())
        names = sorted(_main_images(list(self._images)))
        self._passed.update(suffix_of(name) for name in self._images.keys() - set(names))
        return TarContents(
            pa.array([as_text(name) for name in names], pa.large_string()),
            Counter(folder_of(as_text(name)) for name in names),
            _beginning([name.rpartition("/")[2] for name in names]),
            np.array([self._spans(name) for name in names], np.int64).reshape(-1, 2 + 2 * len(self._kept)),
            [_of_sample(self._labels, name) for name in names],
            self._passed,
            self._told,
            self._fields,
        )

    def _concerns(self, member: Member, name: PurePosixPath) -> bool:
        """Take a member as what it is; tell whether it is anything to us."""
        if any(part.startswith(".") and part != ".." for part in name.parts):
            return False
        suffix = suffix_of(name.name)
        kept = self._kept.get(suffix)
        if kept is not None:
            kept[name.as_posix().rpartition(".")[0]] = member
        if is_image_name(name.name):
            self._images[name.as_posix()] = member
            return True
        stem = _labelled(name) if self._wishes.label_field is None else None
        if stem is not None:
            self._labels[stem] = self._text_label(member)
            self._told.add(f"members .{name.as_posix()[len(stem) + 1 :]}")
            return True
        if suffix == "json" and member.plain and member.length <= _JSON_BYTES:
            return self._json_label(member, name) or kept is not None
        return kept is not None

    def _read(self, member: Member, length: int) -> bytes:
        return os.pread(self._file.fileno(), min(length, member.length), member.offset)

    def _text_label(self, member: Member) -> Label:
        data = self._read(member, _LABEL_BYTES)
        text = data.decode("utf-8", "replace").strip()
        try:
            label = int(text)
        except ValueError:
            label = -2
        if label >= -1 and member.length <= _LABEL_BYTES and text.isascii() and len(text) <= 32:
            return None if label == -1 else label
        if member.length <= _LABEL_BYTES and text.isprintable() and any(map(str.isalpha, text)):
            return text
        raise GvitError(
            f"{self._path}: {member.name!r} is {text!r:.60}; a label is a whole number, -1 for none, or text"
        )

    def _json_label(self, member: Member, name: PurePosixPath) -> bool:
        try:
            said: object = json.loads(self._read(member, _JSON_BYTES))
        except (ValueError, RecursionError):
            return False
        if not isinstance(said, dict):
            return False
        fields = cast("dict[str, object]", said)
        self._fields = self._fields or tuple(fields)
        given = {name: fields[name] for name in self._wishes.fields if fields.get(name) is not None}
        if not given:
            return False
        field_name, label = next(iter(given.items()))
        if (
            isinstance(label, bool)
            or not isinstance(label, int | str)
            or (isinstance(label, int) and label < -1)
        ):
            raise GvitError(
                f"{self._path}: the field {field_name!r} of {member.name!r} is {label!r:.60}; a label is a "
                "whole number or text; name another field with --label-column"
            )
        stem = name.as_posix().rpartition(".")[0]
        if stem not in self._labels:
            self._labels[stem] = None if label in (-1, "") else label
            self._told.add(f"the field {field_name!r} of members .json")
        return True

    def _spans(self, name: str) -> list[int]:
        members = [self._images[name], *(_of_sample(kept, name) for kept in self._kept.values())]
        return [at for m in members for at in ((m.offset, m.length) if m is not None else (-1, -1))]


def _beginning(names: Sequence[str]) -> str:
    """Return what all names begin with, letter by letter."""
    if not names:
        return ""
    first, last = min(names), max(names)
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _of_sample(found: Mapping[str, _T], image: str) -> _T | None:
    """Return what belongs to an image: what has its name but for the suffix, or what is its sample's."""
    stem = image.rpartition(".")[0]
    return found[stem] if stem in found else found.get(_sample(image)[0])


def _labelled(name: PurePosixPath) -> str | None:
    """Return the path of a label without what makes it one, as `.cls`, `.class.txt`; None of all else."""
    stem, last = name.as_posix().rpartition(".")[::2]
    if last.lower() == "txt":
        stem, last = stem.rpartition(".")[::2]
    elif last.lower() == "cls" and suffix_of(PurePosixPath(stem).name) in LABEL_NAMES:
        stem = stem.rpartition(".")[0]
    return (
        stem if last.lower() in LABEL_NAMES and PurePosixPath(stem).name == stem.rpartition("/")[2] else None
    )


def _main_images(names: Sequence[str]) -> list[str]:
    """Leave out what a sample holds beside its image, as `0001.mask.png` beside `0001.jpg`."""
    samples = {name: _sample(name) for name in names}
    plain = {sample for sample, extension in samples.values() if extension in IMAGE_SUFFIXES}
    return [
        n for n, (sample, extension) in samples.items() if extension in IMAGE_SUFFIXES or sample not in plain
    ]


def _sample(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _check_member(path: Path, member: Member, name: PurePosixPath) -> None:
    if name.is_absolute() or ".." in name.parts:
        raise GvitError(
            f"{path} is refused: its member {member.name!r} leads out of the folder; make the tar file anew"
        )
    if not member.plain:
        raise GvitError(
            f"{path} is refused: its member {member.name!r} is a link or no file; "
            "make the tar file anew with --dereference --hard-dereference"
        )
