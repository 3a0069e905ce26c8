"""How far an encode is, told from the files of its destination alone: from any terminal, on any machine."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..dataset.remote.remote import open_remote
from ..dataset.remote.urls import as_url, place_name
from ..schemas.documents import from_json
from ..schemas.errors import GvitError
from ..schemas.manifest import MANIFEST_NAME, SCHEMA_VERSION, Manifest, read_manifest
from .place.lease import Holder, live_holder
from .place.private_files import PRIVATE, private_files
from .place.run_state import RunState, read_run_state
from .place.url_lease import live_holder_at
from .progress import plain_duration
from .snapshot import Snapshot, read_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["STOPPED", "Status", "status_of"]

RUNNING, FINISHED, STOPPED = "running", "finished", "stopped"


@dataclass(frozen=True, slots=True)
class Status:
    """Where an encode stands.

    `state` is "running", "finished", or "stopped" (neither: the same command goes on with it). Images count
    as done when they are finished, failed ones included. Rate, time to go and workers are those of a live
    run: 0, None and empty otherwise; `psnr_mean` is None before there is one, in dB.
    """

    destination: Path
    state: str
    images: int
    done: int
    failed: int
    images_per_second: float
    eta_seconds: float | None
    psnr_mean: float | None
    workers: dict[str, str]
    holder: Holder | None
    seen: float | None

    def json(self) -> dict[str, Any]:
        """Return it for programs."""
        content = asdict(self)
        holder = content.pop("holder")
        del content["destination"], content["seen"]
        names = ("host", "pid")
        return {**content, "process": None if holder is None else {name: holder[name] for name in names}}

    def lines(self) -> Iterator[str]:
        """Say it for people, a line each."""
        where = "" if self.holder is None else f" (process {self.holder.pid} on {self.holder.host})"
        yield f"{place_name(self.destination)}: {self.state}{where}"
        psnr = "" if self.psnr_mean is None else f", {self.psnr_mean:.2f} dB"
        eta = "" if self.eta_seconds is None else f", {plain_duration(self.eta_seconds)} to go"
        rate = f", {self.images_per_second:.1f} images/s{eta}" if self.state == RUNNING else ""
        yield f"{self.done} of {self.images} images, {self.failed} failed{psnr}{rate}"
        for name, words in self.workers.items():
            yield f"{name}: {words}"
        if self.seen is not None and self.state == RUNNING:
            yield f"as of {plain_duration(max(0.0, time.time() - self.seen))} ago"
        if self.state == STOPPED:
            yield "run the same gvit encode again to finish it"


def status_of(destination: Path) -> Status:
    """Look at the files of a destination, and change nothing.

    Raises:
        GvitError: There is no dataset, begun or finished, or the URL cannot be read.
    """
    url = as_url(destination)
    holder = live_holder(destination / PRIVATE) if url is None else live_holder_at(destination)
    manifest = None if holder is not None else _manifest(destination, url)
    if manifest is not None:
        return _finished(destination, manifest)
    state = _state(destination)
    if state is None and holder is None:
        raise GvitError(
            f"{place_name(destination)} holds no dataset, begun or finished; give the DST of a gvit encode"
        )
    images = 0 if state is None else int(state.fingerprint.get("images") or 0)
    return _unfinished(destination, images, holder, read_snapshot(destination))


def _manifest(destination: Path, url: str | None) -> Manifest | None:
    """Return the manifest of a finished dataset; one behind a URL is finished once its checksums list it."""
    if url is None:
        return read_manifest(destination) if (destination / MANIFEST_NAME).is_file() else None
    remote = open_remote(url)
    data = remote.read(MANIFEST_NAME) if MANIFEST_NAME in remote.checksums() else None
    return None if data is None else from_json(Manifest, data, schema_version=SCHEMA_VERSION)


def _state(destination: Path) -> RunState | None:
    return read_run_state(private_files(destination), f"{place_name(destination)}/{PRIVATE}")


def _finished(destination: Path, manifest: Manifest) -> Status:
    total = manifest.images + manifest.failed
    psnr = None if manifest.psnr is None else manifest.psnr.mean
    return Status(
        destination, FINISHED, total, total, manifest.failed, 0.0, None, psnr, {}, holder=None, seen=None
    )


def _unfinished(destination: Path, images: int, holder: Holder | None, seen: Snapshot | None) -> Status:
    live = holder is not None
    return Status(
        destination=destination,
        state=RUNNING if live else STOPPED,
        images=images,
        done=0 if seen is None else seen.done,
        failed=0 if seen is None else seen.failed,
        images_per_second=seen.images_per_second if live and seen is not None else 0.0,
        eta_seconds=seen.eta_seconds if live and seen is not None else None,
        psnr_mean=None if seen is None else seen.psnr_mean,
        workers=seen.workers if live and seen is not None else {},
        holder=holder,
        seen=None if seen is None else seen.time,
    )
