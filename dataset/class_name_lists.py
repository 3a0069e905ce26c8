"""Names of classes from a file that somebody has: what goes into `class-names.json` of a dataset."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from ..schemas.errors import GvitError
from .class_names import dump_class_names

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["class_names_file"]


def class_names_file(path: Path | None, classes: Sequence[str]) -> bytes | None:
    """Return the content of `class-names.json` for these classes, None without a file to read names from.

    Args:
        path: Lines `n01440764 tench, Tinca tinca` (as `LOC_synset_mapping.txt`), or JSON: an object of class
            and name, or of number and `[class, name]` (as `imagenet_class_index.json`).
        classes: The classes of the dataset; a number may have zeros before.

    Raises:
        GvitError: The file cannot be read, or does not name each class.
    """
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = _from_json(text) if text.lstrip().startswith("{") else _from_lines(text)
    except OSError as error:
        raise GvitError(f"the class names {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise GvitError(
            f"the class names {path} cannot be understood ({error}); give lines of a class and its name, "
            "or a JSON object of both"
        ) from error
    found = {name: names.get(name) or names.get(_without_zeros(name)) for name in classes}
    missing = [name for name, known in found.items() if not known]
    if missing:
        raise GvitError(f"{path} has no name for class {missing[0]!r}; add one, or leave --class-names out")
    return dump_class_names(cast("dict[str, str]", found))


def _without_zeros(name: str) -> str:
    return name.lstrip("0") or "0"


def _from_lines(text: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            name, _, words = line.strip().replace("\t", " ").partition(" ")
            if not words:
                raise ValueError(f"line {number} has no name")
            names[name] = words.strip()
    return names


def _from_json(text: str) -> dict[str, str]:
    found: dict[str, Any] = json.loads(text)
    names: dict[str, str] = {}
    for key, value in found.items():
        if isinstance(value, str):
            names[key] = value
        elif isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
            names[value[0]] = names[key] = value[1]
        else:
            raise ValueError(f"{key!r} has no name")
    return names
