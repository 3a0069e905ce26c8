"""How far an encode is: one record that adds up, and the standing of a whole run that is made of it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..pictures.progress import Pace, plain_duration
from ..schemas.documents import Count, from_json, to_json
from ..schemas.errors import DatasetError, GvitError
from .place.place import PRIVATE

if TYPE_CHECKING:
    from .place.place import Place

__all__ = [
    "EventLog",
    "Meter",
    "Progress",
    "Reporter",
    "Standing",
    "StandingFile",
    "read_standing",
]

_STANDING = f"{PRIVATE}/progress.json"
_STANDING_SECONDS = 2.0  # how old the standing that others see of a live run is at most


@dataclass(frozen=True, slots=True)
class Progress:
    """Images that are finished; adds up, and shows by a difference what was added.

    Attributes:
        ok: Stored.
        failed: In vain.
        psnr_sum: Of the former, in dB.
        fresh: Those among all of them that this run has finished, and no earlier one.
        cost_sum: What the fits of this run took, in full-size render + backward steps.
        fitted: How many fits there were: an image that cannot be decoded has none.
    """

    ok: int = 0
    failed: int = 0
    psnr_sum: float = 0.0
    fresh: int = 0
    cost_sum: float = 0.0
    fitted: int = 0

    def __add__(self, other: Progress) -> Progress:
        return Progress(
            self.ok + other.ok,
            self.failed + other.failed,
            self.psnr_sum + other.psnr_sum,
            self.fresh + other.fresh,
            self.cost_sum + other.cost_sum,
            self.fitted + other.fitted,
        )

    def __sub__(self, other: Progress) -> Progress:
        return Progress(
            self.ok - other.ok,
            self.failed - other.failed,
            self.psnr_sum - other.psnr_sum,
            self.fresh - other.fresh,
            self.cost_sum - other.cost_sum,
            self.fitted - other.fitted,
        )

    @property
    def images(self) -> int:
        """All that are finished."""
        return self.ok + self.failed


Reporter = Callable[[str, Progress], None]
"""Told how far the present attempt at a shard is, all in all, by the shard's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A run at `time` (seconds since 1970), as `.gvit/progress.json` tells it.

    Of `total` images `done` are finished, `failed` of them in vain. The rate is that of the last minute;
    `eta_seconds` and `psnr_mean` (dB) are None where they cannot be told; `workers` says what each does.
    """

    time: float
    engine: str
    total: Count
    done: Count
    failed: Count
    images_per_second: float
    eta_seconds: float | None
    psnr_mean: float | None
    workers: dict[str, str] = field(default_factory=dict[str, str])

    def describe(self) -> str:
        """Say it in a line."""
        words = [f"{self.done} of {self.total} images", f"{self.failed} failed"]
        if self.psnr_mean is not None:
            words.append(f"{self.psnr_mean:.2f} dB")
        if self.images_per_second > 0:
            words.append(f"{self.images_per_second:.1f} images/s")
        if self.eta_seconds is not None:
            words.append(f"{plain_duration(self.eta_seconds)} to go")
        if self.workers:
            words.append(f"{len(self.workers)} workers")
        return ", ".join(words)


class Meter:
    """Sums up what is reported of the shards of a run, out of `total` images; `clock` counts seconds."""

    def __init__(
        self, total: int, engine: str = "inline", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.sum = Progress()
        self.workers: dict[str, str] = {}
        self._total = total
        self._engine = engine
        self._shards: dict[str, Progress] = {}
        self._pace = Pace(clock)

    def report(self, shard: str, progress: Progress) -> None:
        """Note how far the present attempt at a shard is; it may be less than an attempt before it was."""
        change = progress - self._shards.get(shard, Progress())
        self._shards[shard] = progress
        self.sum += change
        if change.fresh:
            self._pace.note(self.sum.fresh)

    def standing(self) -> Standing:
        """Return where the run stands now."""
        done = self.sum
        return Standing(
            time=round(time.time(), 3),
            engine=self._engine,
            total=self._total,
            done=done.images,
            failed=done.failed,
            images_per_second=round(self._pace.rate, 3),
            eta_seconds=self._pace.seconds_for(self._total - done.images),
            psnr_mean=done.psnr_sum / done.ok if done.ok else None,
            workers=self.workers,
        )


class StandingFile:
    """Writes the standing of a run for whoever looks from outside, not more often than anybody would look."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._interval = max(_STANDING_SECONDS, 2 * place.request_seconds)
        self._last = -self._interval

    def write(self, standing: Standing, *, now: bool = False) -> None:
        """Write it if it is time to, or `now`; one that cannot be written is worth less than the run."""
        if now or time.monotonic() - self._last >= self._interval:
            self._last = time.monotonic()
            with contextlib.suppress(OSError, GvitError):
                self._place.write(_STANDING, to_json(standing), durable=False)


def read_standing(place: Place) -> Standing | None:
    """Return the newest standing that a run has written, None where there is none that can be read."""
    data = place.read(_STANDING)
    try:
        return None if data is None else from_json(Standing, data, closed=True)
    except DatasetError:
        return None


@dataclass(frozen=True, slots=True)
class EventLog:
    """`.gvit/events.jsonl`: one JSON object per line, with a time; what happened, for whoever looks later."""

    place: Place

    def write(self, event: str, **facts: object) -> None:
        """Append an event; one that cannot be written is lost, since the log is worth less than the run."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts})
        with contextlib.suppress(OSError, GvitError):
            self.place.append(f"{PRIVATE}/events.jsonl", f"{line}\n".encode())
