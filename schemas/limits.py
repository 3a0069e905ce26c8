"""What a setting may be, declared with its field; checked when a config is made, wherever it came from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_type_hints

from .errors import GvitError

__all__ = ["Choice", "Range", "Share", "check_limit", "check_limits"]


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`; `above` leaves out the lowest, `below` the highest (infinity, too)."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            least = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
            return f"{least} and finite" if self.below else least
        if self.above:
            return f"above {self.low:g} and at most {self.high:g}"
        return f"from {_plain(self.low)} to {'below ' * self.below}{_plain(self.high)}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some names."""

    names: tuple[str, ...]

    def __contains__(self, value: str) -> bool:
        return value in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"


Share = Annotated[float, Range(0.0, 1.0)]


def check_limits(config: object, section: str = "") -> None:
    """Check the fields of a dataclass whose types are annotated with limits; None is always allowed.

    Args:
        config: Of a class whose types can be resolved.
        section: What the names of its fields begin with in a sentence, as `optim.`; without one they are
            called as options are.

    Raises:
        GvitError: A value is out of its limits; the sentence names field, limits and value.
    """
    for name, limit in _limits_of(type(config)):
        check_limit(f"{section}{name}" if section else name.replace("_", "-"), getattr(config, name), limit)


def check_limit(name: str, value: Any, limit: Range | Choice) -> None:  # noqa: ANN401
    """Check one value, likewise."""
    if value is not None and value not in limit:
        raise GvitError(f"{name} must be {limit}, not {_plain(value)}")


@cache
def _limits_of(kind: type[Any]) -> tuple[tuple[str, Range | Choice], ...]:
    return tuple(
        (name, limit)
        for name, hint in get_type_hints(kind, include_extras=True).items()
        for limit in getattr(hint, "__metadata__", ())
        if isinstance(limit, Range | Choice)
    )


def _plain(value: Any) -> str:  # noqa: ANN401
    return f"{value:g}" if isinstance(value, float) else repr(value)
