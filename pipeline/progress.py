"""How far an encode is: one record that adds up, and the standing of a whole run that is made of it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field, replace
from operator import add, sub
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..pictures.progress import Pace, plain_duration, three_digits
from ..schemas.checksums import PRIVATE
from ..schemas.documents import Count, from_json, to_json
from ..schemas.errors import DatasetError, GvitError
from ..schemas.manifest import MANIFEST_NAME, parse_manifest
from .place.lease import Holder, live_holder
from .place.open import open_place
from .place.run_state import read_state

if TYPE_CHECKING:
    from .place.place import Place

__all__ = [
    "STOPPED",
    "EventLog",
    "Meter",
    "Progress",
    "Reporter",
    "Standing",
    "StandingFile",
    "Status",
    "read_standing",
    "status_of",
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
        converted: Images that this run converted to sRGB by their colour profiles.
        ignored: Images of this run whose colour profiles are damaged, or not for such pixels.
        reason: Why the last of those that failed did.
    """

    ok: int = 0
    failed: int = 0
    psnr_sum: float = 0.0
    fresh: int = 0
    cost_sum: float = 0.0
    fitted: int = 0
    converted: int = 0
    ignored: int = 0
    reason: str = ""

    def __add__(self, other: Progress) -> Progress:
        return Progress(*map(add, self._numbers, other._numbers), reason=other.reason or self.reason)

    def __sub__(self, other: Progress) -> Progress:
        return Progress(*map(sub, self._numbers, other._numbers), reason=self.reason)

    @property
    def _numbers(self) -> tuple[Any, ...]:
        return astuple(self)[:-1]

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

    time: float = 0.0
    engine: str = ""
    total: Count
    done: Count = 0
    failed: Count = 0
    images_per_second: float = 0.0
    eta_seconds: float | None = None
    psnr_mean: float | None = None
    workers: dict[str, str] = field(default_factory=dict[str, str])

    def facts(self) -> list[str]:
        """Return what there is to say of it, what matters most first."""
        facts = [f"{self.done} of {self.total} images", f"{self.failed} failed"]
        if self.eta_seconds is not None:
            facts.insert(0, f"{plain_duration(self.eta_seconds)} to go")
        if self.images_per_second > 0:
            facts.append(f"{three_digits(self.images_per_second)} images/s")
        if self.psnr_mean is not None:
            facts.append(f"{self.psnr_mean:.2f} dB")
        if self.workers:
            facts.append("1 worker" if len(self.workers) == 1 else f"{len(self.workers)} workers")
        return facts

    def describe(self) -> str:
        """Say it in a line."""
        return ", ".join(self.facts())


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


RUNNING, FINISHED, STOPPED = "running", "finished", "stopped"


@dataclass(frozen=True, slots=True)
class Status:
    """Where an encode stands.

    `state` is "running", "finished", or "stopped" (neither: the same command goes on with it). Of the
    standing, rate, time to go and workers are those of a live run: 0, None and empty otherwise.
    """

    place: str
    state: str
    standing: Standing
    holder: Holder | None = None

    def json(self) -> dict[str, Any]:
        """Return it for programs."""
        now, holder = self.standing, self.holder
        return {
            "state": self.state,
            "images": now.total,
            "done": now.done,
            "failed": now.failed,
            "images_per_second": now.images_per_second,
            "eta_seconds": now.eta_seconds,
            "psnr_mean": now.psnr_mean,
            "workers": now.workers,
            "process": None if holder is None else {"host": holder.host, "pid": holder.pid},
        }

    def lines(self) -> Iterator[str]:
        """Say it for people, a line each."""
        where = "" if self.holder is None else f" (process {self.holder.pid} on {self.holder.host})"
        yield f"{self.place}: {self.state}{where}"
        yield self.standing.describe()
        for name, words in self.standing.workers.items():
            yield f"{name}: {words}"
        if self.state == RUNNING and self.standing.time:
            yield f"as of {plain_duration(max(0.0, time.time() - self.standing.time))} ago"
        if self.state == STOPPED:
            yield "run the same gvit encode again to finish it"


def status_of(destination: str | Path) -> Status:
    """Look at the files of a destination, and change nothing.

    Raises:
        GvitError: There is no dataset, begun or finished, or the URL cannot be read.
    """
    place = open_place(destination)
    holder = live_holder(place)
    if holder is None and place.is_complete():
        return Status(place.name, FINISHED, _finished(place))
    state = read_state(place)
    if state is None and holder is None:
        raise GvitError(f"{place.name} holds no dataset, begun or finished; give the DST of a gvit encode")
    images = 0 if state is None else state.fingerprint.get("images")
    images = images if isinstance(images, int) else 0
    standing = read_standing(place) or Standing(total=images)
    if holder is None:
        standing = replace(standing, total=images, images_per_second=0.0, eta_seconds=None, workers={})
        return Status(place.name, STOPPED, standing)
    return Status(place.name, RUNNING, replace(standing, total=images), holder)


def _finished(place: Place) -> Standing:
    manifest = parse_manifest(place.read(MANIFEST_NAME) or b"", f"{place.name}/{MANIFEST_NAME}")
    total, psnr = manifest.images + manifest.failed, None if manifest.psnr is None else manifest.psnr.mean
    return Standing(total=total, done=total, failed=manifest.failed, psnr_mean=psnr)
