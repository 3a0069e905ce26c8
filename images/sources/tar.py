"""WebDataset tar files of images as a source.

A sample is the members that share a path up to the first dot of the file name: an image, and beside it
perhaps `.cls`, its label as a number in text. Everything is looked up by offset; nothing is extracted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from ...schemas.errors import GvitError
from ..references import FilePart
from .source import (
    IMAGE_SUFFIXES,
    Entry,
    Listing,
    SharedFiles,
    as_text,
    is_image_name,
    make_keys,
    numbered_classes,
)
from .split_names import split_of_file
from .tar_members import Member, list_members, opened_tar

__all__ = ["TarSource", "find_in_tar"]

_LABEL = "cls"
_LABEL_BYTES = 32


@dataclass(frozen=True, slots=True)
class TarSource(SharedFiles):
    """WebDataset tar files.

    `.cls` numbers become classes named by these numbers (with zeros before, so that sorting keeps their
    order): the label of an image is its `.cls`. A sample without one, or with -1, has no class. An image's
    place is (number of its file, offset, length).
    """

    def scan(self) -> Listing:
        """List the images by reading the headers of all members, and the labels.

        Raises:
            GvitError: A file cannot be used, see `list_members`; a member's path leads elsewhere or is there
                twice; an image is a link; a label is no number; or there is no image.
        """
        contents = [_read_tar(self.root / file) for file in self.files]
        found = [
            (as_text(f"{file}/{image.name}"), number, image)
            for number, (file, content) in enumerate(zip(self.files, contents, strict=True))
            for image in content.images
        ]
        if not found:
            raise GvitError(
                f"{self.shown} holds no image: no member of a tar file ends with "
                f"{', '.join(f'.{suffix}' for suffix in sorted(IMAGE_SUFFIXES))}"
            )
        found.sort(key=lambda item: item[0])
        classes = numbered_classes(max(image.label for _, _, image in found))
        splits = [split_of_file(file) for file in self.files]
        entries = tuple(
            Entry(
                key=key,
                source=source,
                split=splits[number],
                label=image.label,
                class_name=classes[image.label] if image.label >= 0 else None,
                place=(number, image.offset, image.length),
            )
            for key, (source, number, image) in zip(make_keys([s for s, _, _ in found]), found, strict=True)
        )
        return Listing(entries, classes, sum(content.ignored for content in contents))

    def reference(self, entry: Entry) -> FilePart:
        """Return file, offset and length of the image."""
        _, offset, length = entry.place
        return FilePart(os.fspath(self.path_of(entry)), offset, length)


def find_in_tar(path: Path, name: str) -> FilePart | None:
    """Return where an image is in a tar file, by its path in it; None where it is not.

    Raises:
        GvitError: The tar file cannot be used.
    """
    return _index(path).get(name)


@lru_cache(maxsize=4)  # a look at a dataset asks for many images of few files
def _index(path: Path) -> dict[str, FilePart]:
    images = _read_tar(path).images
    return {image.name: FilePart(os.fspath(path), image.offset, image.length) for image in images}


# ---------------------------------------------------------------- one tar file


@dataclass(frozen=True, slots=True)
class _Image:
    name: str
    offset: int
    length: int
    label: int


@dataclass(frozen=True, slots=True)
class _Contents:
    images: tuple[_Image, ...]
    ignored: int


def _read_tar(path: Path) -> _Contents:
    images: dict[str, Member] = {}
    labels: dict[str, int] = {}
    others = 0
    with opened_tar(path) as file:
        for member in list_members(path, file):
            name = PurePosixPath(member.name)
            is_label = _extension(name) == _LABEL
            if _is_hidden(name) or not (is_label or is_image_name(name.name)):
                others += 1
                continue
            _check_member(path, member, name)
            if (_sample(name) in labels) if is_label else (name.as_posix() in images):
                raise GvitError(f"{path} holds {member.name!r} twice; make the tar file anew")
            if is_label:
                text = os.pread(file.fileno(), min(_LABEL_BYTES, member.length), member.offset)
                labels[_sample(name)] = _parse_label(path, member, text)
            else:
                images[name.as_posix()] = member
    kept = _main_images(list(images))
    listed = (
        _Image(name, images[name].offset, images[name].length, labels.get(_sample(PurePosixPath(name)), -1))
        for name in kept
    )
    return _Contents(tuple(listed), others + len(images) - len(kept))


def _is_hidden(name: PurePosixPath) -> bool:
    return any(part.startswith(".") and part != ".." for part in name.parts)


def _extension(name: PurePosixPath) -> str:
    return name.name.partition(".")[2].lower()


def _sample(name: PurePosixPath) -> str:
    return f"{name.parent}/{name.name.partition('.')[0]}"


def _main_images(names: Sequence[str]) -> list[str]:
    """Leave out what a sample holds beside its image, as `0001.mask.png` beside `0001.jpg`."""
    paths = [PurePosixPath(name) for name in names]
    plain = {_sample(path) for path in paths if _extension(path) in IMAGE_SUFFIXES}
    return [
        name
        for name, path in zip(names, paths, strict=True)
        if _extension(path) in IMAGE_SUFFIXES or _sample(path) not in plain
    ]


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


def _parse_label(path: Path, member: Member, data: bytes) -> int:
    text = data.decode("ascii", "replace").strip()
    try:
        label = int(text)
    except ValueError:
        label = -2
    if label < -1 or member.length > _LABEL_BYTES:
        raise GvitError(f"{path}: {member.name!r} is {text!r}; a label is a whole number, or -1 for none")
    return label
