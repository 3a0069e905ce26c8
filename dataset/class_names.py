"""`class-names.json`: what the classes of a dataset are called by people, as "tench" for "n01440764".

The file is optional, and nothing is decided by it: labels are indices into `classes` of the manifest.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..schemas.checksums import CLASS_NAMES_NAME
from ..schemas.documents import from_json
from ..schemas.errors import DatasetError
from ..schemas.files import read_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["dump_class_names", "parse_class_names", "read_class_names"]


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
