"""Configs as plain mappings: read from YAML, merged, checked against the dataclasses, written back."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..schemas.errors import GvitError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Settings", "build", "differences", "dump", "merge", "parse_assignment", "plain", "read_yaml"]

Settings = dict[str, Any]
"""A config as nested plain values, by field."""


def read_yaml(path: Path) -> Settings:
    """Read settings from a YAML file.

    Raises:
        GvitError: The file cannot be read, is no YAML, or is no mapping.
    """
    try:
        found = yaml.safe_load(path.read_text())
    except OSError as error:
        raise GvitError(f"cannot read the config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = "" if where is None else f", line {where.line + 1}"
        raise GvitError(f"{path}{line} is not YAML: mend it or leave --config out") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise GvitError(f"{path} must be a mapping of settings, such as 'epochs: 90'")
    return found


def parse_assignment(text: str) -> Settings:
    """Turn `section.field=value` into settings; the value is read as YAML.

    Raises:
        GvitError: It is no assignment.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise GvitError(f"--set takes section.field=value, not {text!r}")
    try:
        settings = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise GvitError(f"--set {name}: {value!r} is no value") from error
    for part in reversed(name.strip().split(".")):
        settings = {part: settings}
    return settings


def merge(*layers: Mapping[str, Any]) -> Settings:
    """Lay settings over each other, later ones on top, section by section."""
    merged: Settings = {}
    for layer in layers:
        for name, value in layer.items():
            below: Any = merged.get(name)
            if isinstance(below, dict) and isinstance(value, dict):
                merged[name] = merge(below, value)
            else:
                merged[name] = value
    return merged


def build(kind: type[Any], settings: Mapping[str, Any], prefix: str = "") -> Any:  # noqa: ANN401
    """Build a config dataclass, with its sections, from settings.

    Raises:
        GvitError: An unknown field, with a suggestion; a missing one; a value of another type.
    """
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in settings:
        if name not in fields:
            raise GvitError(_unknown(f"{prefix}{name}", str(name), list(fields)))
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and name not in settings and not dataclasses.is_dataclass(hints[name]):
            raise GvitError(f"the setting {prefix}{name} is missing: give it")
    values = {name: _convert(hints[name], value, f"{prefix}{name}") for name, value in settings.items()}
    return kind(**values)


def _unknown(path: str, name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    advice = f"did you mean {path.removesuffix(name)}{close[0]}?" if close else f"known: {', '.join(known)}"
    return f"there is no setting {path}; {advice}"


def _convert(hint: Any, value: Any, path: str) -> Any:  # noqa: ANN401
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            if not isinstance(value, dict):
                raise GvitError(f"the setting {path} is a section with fields of its own, not {value!r}")
            return build(option, value, f"{path}.")
        matched, converted = _as(option, value)
        if matched:
            return converted
    raise GvitError(f"the setting {path} must be {_words(options)}, not {value!r}")


def _as(option: Any, value: Any) -> tuple[bool, Any]:  # noqa: ANN401
    """Whether a plain value fits a type, and the value as that type."""
    if option is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string
        try:
            return True, float(value)
        except ValueError:
            return False, None
    if option is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    if option is Path and isinstance(value, str):
        return True, Path(value)
    if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
        inner = typing.get_args(option)
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        pairs = [_as(kind, item) for kind, item in zip(kinds, value, strict=False)]
        return len(kinds) == len(value) and all(ok for ok, _ in pairs), tuple(item for _, item in pairs)
    if typing.get_origin(option) is typing.Literal:
        return value in typing.get_args(option), value
    exact = isinstance(option, type) and isinstance(value, option)
    return exact and not (option is int and isinstance(value, bool)), value


_NAMES = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", Path: "a path"}


def _words(options: Sequence[Any]) -> str:
    words = [_NAMES.get(option, str(option)) for option in options if option is not type(None)]
    return " or ".join([*words, *(["nothing"] if type(None) in options else [])])


def plain(config: Any) -> Settings:  # noqa: ANN401
    """Return a config dataclass as settings that YAML and JSON can hold."""

    def simplify(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, dict):
            return {name: simplify(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [simplify(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return simplify(dataclasses.asdict(config))


def dump(settings: Settings) -> str:
    """Write settings as YAML, in the order of the fields."""
    return yaml.safe_dump(settings, sort_keys=False)


def differences(mine: Settings, other: Settings, prefix: str = "") -> list[str]:
    """Name the settings that differ, each as `section.field (other's value, mine)`."""
    found: list[str] = []
    for name in {**mine, **other}:
        here, there = mine.get(name), other.get(name)
        if isinstance(here, dict) and isinstance(there, dict):
            found += differences(here, there, f"{prefix}{name}.")
        elif here != there:
            found.append(f"{prefix}{name} ({there} there, {here} here)")
    return found
