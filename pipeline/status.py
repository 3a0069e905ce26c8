"""How far an encode is, told from the files of its destination alone: from any terminal, on any machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..pictures.progress import plain_duration
from ..schemas.errors import GvitError
from ..schemas.manifest import MANIFEST_NAME, parse_manifest
from .place.lease import Holder, live_holder
from .place.open import open_place
from .place.run_state import read_state
from .progress import Standing, read_standing

if TYPE_CHECKING:
    from .place.place import Place

__all__ = ["STOPPED", "Status", "status_of"]

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
    images = 0 if state is None else int(state.fingerprint.get("images") or 0)
    standing = read_standing(place) or replace(_NOTHING, total=images)
    if holder is None:
        standing = replace(standing, total=images, images_per_second=0.0, eta_seconds=None, workers={})
        return Status(place.name, STOPPED, standing)
    return Status(place.name, RUNNING, replace(standing, total=images), holder)


_NOTHING = Standing(
    time=0.0,
    engine="",
    total=0,
    done=0,
    failed=0,
    images_per_second=0.0,
    eta_seconds=None,
    psnr_mean=None,
)


def _finished(place: Place) -> Standing:
    manifest = parse_manifest(place.read(MANIFEST_NAME) or b"", f"{place.name}/{MANIFEST_NAME}")
    total, psnr = manifest.images + manifest.failed, None if manifest.psnr is None else manifest.psnr.mean
    return replace(_NOTHING, total=total, done=total, failed=manifest.failed, psnr_mean=psnr)
