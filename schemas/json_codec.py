"""Frozen dataclasses to JSON and back, strictly: the field names are the contract."""

from __future__ import annotations

import json
import math
import types
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import DatasetError

__all__ = ["OPTIONAL", "from_json", "to_json"]

Value = TypeVar("Value")
INT64_MAX = (1 << 63) - 1
KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "a text",
    tuple: "a list",
    dict: "an object",
    types.NoneType: "null",
}

OPTIONAL = "optional"
"""In the metadata of a field: it may be missing, which means None."""


def to_json(value: Any) -> bytes:  # noqa: ANN401
    """Return a dataclass as UTF-8 JSON: its fields in their order, ``indent=1``, a newline at the end.

    A field of the outermost object that is ``OPTIONAL`` is left out where it is None.
    """
    document = asdict(value)
    for field in fields(value):
        if OPTIONAL in field.metadata and document[field.name] is None:
            del document[field.name]
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def from_json(kind: type[Value], data: bytes, *, schema_version: int) -> Value:
    """Return the dataclass that the JSON text describes.

    Fields beyond those of ``kind`` are left out, so that a writer may add some within a schema version.

    Raises:
        DatasetError: no JSON object, another ``schema_version``, or a missing or mistyped field, named by
            its path in the document. Also what ``kind`` itself raises.
    """
    try:
        document = json.loads(data.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"is not valid JSON ({type(error).__name__}: {error})") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if type(version) is int and version != schema_version:
        raise DatasetError(
            f"has schema version {version} where this gvit reads version {schema_version}: "
            "install the gvit that wrote it"
        )
    return _parse(kind, document, "")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _parse(kind: Any, value: Any, place: str) -> Any:  # noqa: ANN401
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        return None if value is None else _parse(inner, value, place)
    if is_dataclass(kind):
        return _parse_fields(kind, _expect(dict, value, place), place)
    if origin is tuple:
        items = _expect(tuple, value, place)
        return tuple(_parse(arguments[0], item, f"{place}[{i}]") for i, item in enumerate(items))
    if origin is dict:
        items = _expect(dict, value, place)
        return {_expect(str, key, place): _parse(arguments[1], items[key], f"{place}.{key}") for key in items}
    return _expect(kind, value, place)


def _parse_fields(kind: Any, document: dict[str, Any], place: str) -> Any:  # noqa: ANN401
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in fields(kind):
        inside = f"{place}.{field.name}" if place else field.name
        if field.name not in document and OPTIONAL in field.metadata:
            values[field.name] = None
            continue
        if field.name not in document:
            raise DatasetError(f"lacks the field {inside!r}")
        values[field.name] = _parse(hints[field.name], document[field.name], inside)
    return kind(**values)


def _expect(kind: Any, value: Any, place: str) -> Any:  # noqa: ANN401
    if kind is float and type(value) is int and abs(value) <= INT64_MAX:
        return float(value)
    if type(value) is not (list if kind is tuple else kind) or not _is_storable(value):
        simple = isinstance(value, bool | int | float | str | None)
        found = f"{value!r:.60}" if simple else type(value).__name__
        where = f"the field {place!r}" if place else "the document"
        raise DatasetError(f"{where} must be {KINDS[kind]}, not {found}")
    return value


def _is_storable(value: Any) -> bool:  # noqa: ANN401
    """Whether a value of the right type fits what other readers and Arrow can hold."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) <= INT64_MAX
    return not isinstance(value, str) or not any("\ud800" <= letter <= "\udfff" for letter in value)
