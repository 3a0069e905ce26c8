"""Configs as plain mappings: read from YAML, merged, compared, written back."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..schemas.errors import GvitError

__all__ = ["Settings", "differences", "dump", "merge", "parse_assignment", "plain", "read_yaml"]

Settings = dict[str, Any]
"""A config as nested plain values, by field."""


class _Loader(yaml.SafeLoader):
    """YAML as people write numbers: 1e-3 is one, which YAML 1.1 takes for a text."""


class _Dumper(yaml.SafeDumper):
    """YAML that the loader reads as it was: a folder called 1e3 is quoted."""


_NUMBER = re.compile(r"[-+]?(\.[0-9]|[0-9])[0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+")
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def read_yaml(path: Path) -> Settings:
    """Read settings from a YAML file.

    Raises:
        GvitError: The file cannot be read, is no YAML, or is no mapping.
    """
    try:
        found = yaml.load(path.read_text(), _Loader)  # noqa: S506 - it is a safe one
    except OSError as error:
        raise GvitError(f"cannot read the config {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
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
        settings = yaml.load(value, _Loader)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise GvitError(f"--set {name}: {value!r} is no value") from error
    return nested(name.strip(), settings)


def nested(name: str, value: Any) -> Settings:  # noqa: ANN401
    """Return the settings that a name such as `schedule.lr` and its value say."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


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
    return yaml.dump(settings, Dumper=_Dumper, sort_keys=False)


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
