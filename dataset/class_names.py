"""`class-names.json`: what the classes of a dataset are called by people, as "tench" for "n01440764".

The file is optional, and nothing is decided by it: labels are indices into `classes` of the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ..schemas.checksums import CLASS_NAMES_NAME
from ..schemas.documents import from_json
from ..schemas.errors import DatasetError, GvitError
from ..schemas.files import read_file

__all__ = ["class_names_file", "dump_class_names", "parse_class_names", "read_class_names"]


def dump_class_names(names: Mapping[str, str]) -> bytes:
    """Return class to name as the content of the file: a JSON object, classes sorted."""
    return (json.dumps(dict(sorted(names.items())), indent=1, ensure_ascii=False) + "\n").encode()


def read_class_names(dst: Path) -> dict[str, str]:
    """Return class to name of the dataset in a folder, nothing where it has no such file.

    Raises:
        DatasetError: the file is damaged.
    """
    path = dst / CLASS_NAMES_NAME
    return parse_class_names(read_file(path), str(path)) if path.is_file() else {}


def parse_class_names(data: bytes, name: str) -> dict[str, str]:
    """Return class to name of the content of such a file.

    Raises:
        DatasetError: naming it by `name`: it is damaged.
    """
    try:
        return from_json(dict[str, str], data)
    except DatasetError as error:
        raise DatasetError(f"{name} is damaged ({error}): fetch it again, or delete it") from error


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
    except (ValueError, RecursionError) as error:
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
