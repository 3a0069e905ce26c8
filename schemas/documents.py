"""Documents that somebody else may have written: plain values to frozen dataclasses and back, strictly.

A file's schema is a frozen dataclass: the names of its fields are the contract, their types and grammars are
checked by msgspec, and what ties fields together by the class itself.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from .errors import DatasetError, GvitError

__all__ = [
    "KEY",
    "OPTIONAL",
    "SPLIT",
    "Count",
    "Integer",
    "Sha256",
    "ShardName",
    "Split",
    "Word",
    "build",
    "from_json",
    "to_json",
]

Value = TypeVar("Value")

KEY = "[a-z0-9_-]+(/[a-z0-9_-]+)*"
"""The grammar of a key: lower case, no dots, no empty part; so it is a path that stays below its folder."""

SPLIT = "[A-Za-z0-9_-]+"
"""The grammar of the name of a split: it begins names of files and folders."""

Integer = Annotated[int, Meta(ge=-(2**63) + 1, le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
ShardName = Annotated[str, Meta(pattern=r"\Ashard-[0-9]{6}\Z")]
Split = Annotated[str, Meta(pattern=rf"\A{SPLIT}\Z")]
Word = Annotated[str, Meta(pattern=r"\A[a-z0-9_-]+\Z")]

OPTIONAL = "optional"
"""In the metadata of a field that is None by default: it is left out of JSON where it is None."""

_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "array": "a list",
    "object": "a section with fields",
    "null": "nothing",
    "path": "a path",
    Sha256: "a SHA-256",
    ShardName: "a shard's name (shard-000000)",
    Split: "a word of letters, digits, - and _",
    Word: "a word of lower-case letters, digits, - and _",
}
_GRAMMARS: dict[str, str] = {
    get_args(kind)[1].pattern: words for kind, words in _WORDS.items() if get_args(kind)
}
_FAULT = re.compile(r"Expected `(?P<kinds>[^`]+)`(?P<bound> [^,]*)?(?:, got .*)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.+)`")


def to_json(value: Any) -> bytes:  # noqa: ANN401
    """Return a dataclass as UTF-8 JSON: its fields in their order, ``indent=1``, a newline at the end.

    A field that is ``OPTIONAL`` is left out where it is None, of the outermost object and of those in it.
    """
    document = asdict(value)
    _leave_out(value, document)
    with suppress(UnicodeEncodeError):  # of a path that is no text
        return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def _leave_out(value: Any, document: dict[str, Any]) -> None:  # noqa: ANN401
    for field in fields(value):
        inner = getattr(value, field.name)
        if OPTIONAL in field.metadata and inner is None:
            del document[field.name]
        elif is_dataclass(inner):
            _leave_out(inner, document[field.name])


@dataclass(frozen=True, slots=True)
class _Rules:
    """How strict to be, and how to say it.

    `what` a field is called; the `error` to raise; `closed` refuses names that a dataclass does not have,
    `complete` the lack of one that it has, with a default or not.
    """

    what: str
    error: type[GvitError]
    closed: bool
    complete: bool


def from_json(
    kind: type[Value],
    data: bytes,
    *,
    schema_version: int | None = None,
    closed: bool = False,
    nan: bool = False,
) -> Value:
    """Return the dataclass that a JSON text describes.

    Args:
        kind: The dataclass.
        data: UTF-8.
        schema_version: What the field of that name must be; then no field may be missing that is not
            ``OPTIONAL``. None where the document has none; then fields with a default may be missing.
        closed: Refuse fields beyond those of `kind`; else they are left out, so that a writer may add some
            within a schema version.
        nan: Let numbers be infinite or none.

    Raises:
        DatasetError: no JSON object, another ``schema_version``, or a missing, mistyped or unknown field,
            named by its path in the document. Also what ``kind`` itself raises.
    """
    try:
        # Python's own: a path may hold surrogates, which msgspec refuses
        document = json.loads(data.decode(), parse_constant=float if nan else _finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"is not valid JSON ({type(error).__name__}: {error})") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if schema_version is not None and type(version) is int and version != schema_version:
        raise DatasetError(
            f"has schema version {version} where this gvit reads version {schema_version}: "
            "install the gvit that wrote it"
        )
    return _build(kind, document, _Rules("field", DatasetError, closed, schema_version is not None))


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is no number")
    return value


def build(kind: type[Value], settings: Mapping[str, Any]) -> Value:
    """Return the config dataclass that plain values describe, with the dataclasses in it.

    Args:
        kind: The dataclass.
        settings: Dicts, lists, numbers, texts, by field; one that has a default may be missing.

    Raises:
        GvitError: A setting is missing, unknown, mistyped or breaks its grammar. Also what `kind` raises.
    """
    return _build(kind, settings, _Rules("setting", GvitError, closed=True, complete=False))


def _build(kind: type[Value], document: Any, rules: _Rules) -> Value:  # noqa: ANN401
    for inner, part in _sections(kind, document):
        _check_names(inner, part, rules)
    try:
        return msgspec.convert(document, kind, dec_hook=_as_path)
    except (msgspec.ValidationError, RecursionError) as error:
        raise rules.error(_sentence(str(error), document, rules.what)) from error


def _as_path(kind: type[Any], value: Any) -> Any:  # noqa: ANN401
    if kind is not Path or not isinstance(value, str) or "\0" in value:
        raise ValueError("Expected `path`")
    return Path(value)


def _check_names(kind: Any, document: Mapping[str, Any], rules: _Rules, prefix: str = "") -> None:  # noqa: ANN401
    hints, known = get_type_hints(kind), {field.name: field for field in fields(kind)}
    lacking = [name for name in known if name not in document and OPTIONAL not in known[name].metadata]
    if rules.complete and lacking:
        raise rules.error(f"the {rules.what} {prefix}{lacking[0]} is missing")
    for name, value in document.items():
        if name in known:
            for inner, part in _sections(hints[name], value):
                _check_names(inner, part, rules, f"{prefix}{name}.")
        elif rules.closed:
            raise rules.error(_unknown(name, rules.what, prefix, list(known)))


def _sections(hint: Any, value: Any) -> Iterator[tuple[type[Any], dict[str, Any]]]:  # noqa: ANN401
    """Yield the dataclasses that a type holds, each with the value that is to become one."""
    arguments = get_args(hint)
    if is_dataclass(hint) and isinstance(value, dict):
        yield cast("type[Any]", hint), cast("dict[str, Any]", value)
    elif get_origin(hint) is tuple and isinstance(value, list):
        for part in cast("list[Any]", value):
            yield from _sections(arguments[0], part)
    elif get_origin(hint) is dict and isinstance(value, dict):
        for part in cast("dict[str, Any]", value).values():
            yield from _sections(arguments[1], part)
    elif isinstance(hint, types.UnionType):
        for argument in arguments:
            yield from _sections(argument, value)


def _unknown(name: str, what: str, prefix: str, known: list[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    advice = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(known)}"
    return f"there is no {what} {prefix}{name}; {advice}"


def _sentence(fault: str, document: Any, what: str) -> str:  # noqa: ANN401
    """Say in our words what msgspec says: which field, what it must be, and what it is."""
    text, _, place = fault.partition(" - at `$")
    place = place.rstrip("`").removeprefix(".")
    missing = _MISSING.match(text)
    if missing:
        return f"the {what} {f'{place}.' if place else ''}{missing['name']} is missing"
    found = _FAULT.match(text)
    where = f"the {what} {place}" if place else "the document"
    if found is None:
        return f"{where} is wrong: {text}"
    grammar = (found["bound"] or "").removeprefix(" matching regex ").strip("'").replace(r"\\", "\\")
    expected = _GRAMMARS.get(grammar)
    if expected is None:
        expected = " or ".join(_WORDS.get(kind, kind) for kind in found["kinds"].split(" | ")) + (
            found["bound"] or ""
        )
    return f"{where} must be {expected}, not {_shown(document, place)}"


def _shown(document: Any, place: str) -> str:  # noqa: ANN401
    """Return the value at a place of a document, as `fit.steps` or `shards[0].name`, cut short."""
    value = document
    for step in re.findall(r"[^.\[\]]+", place):
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError):  # msgspec names no key of a mapping
            return "what it is"
    if isinstance(value, dict):
        return "a section"
    return f"a list of {len(value)}" if isinstance(value, list) else f"{value!r:.60}"
