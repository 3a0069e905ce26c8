"""One run of an encode, under the lease: what is done and what is to do, the engine, how it went."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ..fitting.config import describe_device, resolve_device
from ..pictures.progress import Display
from ..schemas.checksums import EXTRA_SUFFIX
from ..schemas.errors import DatasetError, GvitError
from ..schemas.urls import as_url
from .engines.inline import run_inline
from .failures import FailureLimit, StoppedError
from .finished import FinishedShards, complete, reopen_shard
from .install import resolve_engine
from .place.run_state import RunRecord, RunState, clear_dataset, new_state, save_state
from .progress import EventLog, Meter, Progress, StandingFile
from .seen import changed_entries
from .survey import Survey, admit
from .worker import FitterFactory, WorkerSpec, write_extra

if TYPE_CHECKING:
    from rich.console import Console

    from ..images.sources.extras import Extras
    from ..images.sources.images import Entry
    from ..images.sources.source import Source
    from ..schemas.manifest import DoneMark
    from .config import EncodeConfig
    from .engines.remote_worker import WorkerState
    from .journal import Outcome
    from .place.lease import Claim
    from .plan import ShardPlan

__all__ = ["EncodeSummary", "Run", "worker_spec"]

_STOPPED = "stopped"  # by too many failures: the next run tries them again
_WORTH_TELLING = 2.0  # seconds
_NAMED = 3


@dataclass(frozen=True, slots=True)
class EncodeSummary:
    """What an encode ended with.

    `destination` is the folder or URL. `images`, `failed` and `psnr_mean` (dB, None without an image) speak
    of the whole dataset, whichever run did the work; `seconds`, `images_per_second` and `steps_mean` (the
    cost per fit, None without one) of this run. `failures` holds the first few, each as (source, reason).
    `changed` images are other ones now than those that were encoded. This run `converted` so many images to
    sRGB by the colour profiles in them, and found so many `profiles_ignored` that are damaged or do not fit.
    """

    destination: Path | str
    images: int
    failed: int
    seconds: float
    images_per_second: float
    psnr_mean: float | None
    steps_mean: float | None
    failures: tuple[tuple[str, str], ...]
    changed: int = 0
    converted: int = 0
    profiles_ignored: int = 0


def worker_spec(
    config: EncodeConfig, source: Source, claim: Claim, extras: Extras | None = None
) -> WorkerSpec:
    """Work out what a worker needs to know."""
    device = resolve_device(config.run.device)
    return WorkerSpec(
        place=claim.place,
        source=source,
        fit=config.fit,
        crop=config.crop,
        color=config.color,
        encoding=config.encoding,
        batch=config.run.batch(config.fit.size, device),
        device=device,
        threads=config.run.threads,
        decoders=config.run.decoders(device),
        claim=claim,
        attempt=claim.token,
        extras=extras,
    )


class Run:
    """One run, under the lease."""

    def __init__(
        self,
        config: EncodeConfig,
        found: Survey,
        claim: Claim,
        console: Console,
        fitter_factory: FitterFactory,
    ) -> None:
        self._config = config
        self._survey = found
        self._place = found.place
        self._spec = worker_spec(config, found.source, claim, found.listing.extras)
        self._console = console
        self._fitter_factory = fitter_factory
        self._journal = self._spec.journal
        self._events = EventLog(found.place)
        self._engine = resolve_engine(config.run)
        self._meter = Meter(found.plan.images, self._engine)
        self._standing_file = StandingFile(found.place)
        self._display = Display("encode", found.plan.images, console)
        self._shards = FinishedShards(found.place)
        self._limit = FailureLimit.parse(config.run.max_failures)
        self._changed = 0
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()

    def run(self) -> EncodeSummary:
        """Do what is to do, and complete the dataset.

        Raises:
            StoppedError: Too many images fail.
        """
        state = self._prepare()
        outcome = "failed"
        try:
            self._work(state)
            summary = self._finish()
            outcome = "finished"
        except StoppedError:
            outcome = _STOPPED
            raise
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        finally:
            self._record(state, outcome)
        return summary

    # ------------------------------------------------------------ before

    def _prepare(self) -> RunState:
        """Make the place ready; admitted again, since another run may have been at work until now."""
        run = self._config.run
        state = admit(run, self._survey)
        if state is None:
            clear_dataset(self._place)
            state = new_state(self._survey.fingerprint, replaced=run.overwrite)
            save_state(self._place, state)
            self._shards = FinishedShards(self._place)
        self._place.sweep(self._spec.claim.token)
        return state

    def _sort_shards(self, state: RunState) -> list[ShardPlan]:
        """Take note of the shards that are done and return those that are to do."""
        run = self._config.run
        again = run.retry_failed or (bool(state.runs) and state.runs[-1].outcome == _STOPPED)
        complete = self._place.is_complete()
        done = self._find_done(check=not (complete or run.trust_done))
        changed = self._find_changed(done) if complete or run.refresh else {}
        todo: list[ShardPlan] = []
        for shard in self._survey.plan.shards:
            mark = done.get(shard.name)
            redo = frozenset(changed.get(shard.name, ())) if run.refresh else frozenset[str]()
            if mark is not None and not (redo or (again and mark.failed)):
                self._journal.remove(shard.name)
                continue
            todo.append(shard)
            if again or redo:
                self._reopen(shard, mark, redo, keep_failures=not again)
        return todo

    def _find_done(self, *, check: bool) -> dict[str, DoneMark]:
        """Return the shards that are done; with `check` those whose files are what their done marks say."""
        found = {shard.name: mark for shard in self._survey.plan.shards if (mark := self._shards.find(shard))}
        if not (check and found):
            return found
        began, read = time.monotonic(), 0
        for name, mark in list(found.items()):
            try:
                read += self._shards.check(mark)
            except DatasetError as error:
                self._notice(f"{error}: {name} is encoded again")
                self._shards.forget(found.pop(name))
        seconds = max(time.monotonic() - began, 1e-9)
        if seconds > _WORTH_TELLING:
            pace = f"{read / 1e9:.1f} GB in {seconds:.0f} s, {read / seconds / 1e6:.0f} MB/s"
            self._notice(f"what is done was checked ({pace}); --trust-done leaves that out")
        return found

    def _find_changed(self, done: Mapping[str, DoneMark]) -> dict[str, list[str]]:
        """Return the keys of images that are other ones now than those that were encoded, by shard."""
        found: dict[str, list[Entry]] = {}
        for shard in self._survey.plan.shards:
            if mark := done.get(shard.name):
                digests = self._shards.rows(mark)["source_sha256"].to_pylist()
                found[shard.name] = changed_entries(self._place, self._survey.source, shard, digests)
        sources = [entry.source for entries in found.values() for entry in entries]
        self._changed = 0 if self._config.run.refresh else len(sources)
        if self._changed:
            named = ", ".join(sources[:_NAMED]) + (", ..." if len(sources) > _NAMED else "")
            images = "1 image has" if len(sources) == 1 else f"{len(sources)} images have"
            self._notice(f"{images} changed since they were encoded ({named}); --refresh encodes them anew")
        return {name: [entry.key for entry in entries] for name, entries in found.items()}

    def _reopen(
        self, shard: ShardPlan, mark: DoneMark | None, redo: frozenset[str], *, keep_failures: bool
    ) -> None:
        """Have only a part of a shard fitted again: all else of it is in the journal then."""

        def keep(outcome: Outcome) -> bool:
            return outcome.key not in redo and (keep_failures or outcome.error is None)

        self._journal.keep_only(shard, keep)
        if mark is not None:
            rows = self._shards.rows(mark)
            reopen_shard(self._place, self._journal, shard, mark, rows, keep, self._config)
            self._shards.forget(mark)

    # ------------------------------------------------------------ the work

    def _work(self, state: RunState) -> None:
        todo = self._sort_shards(state)
        if not todo:
            return
        self._place.unpublish()
        self._events.write("start", images=self._survey.plan.images, shards_to_do=len(todo))
        with self._display:
            for mark in self._shards.marks:
                self._report(mark.name, self._shards.progress(mark))
            if self._engine == "ray":
                self._run_ray(todo)
            else:
                run = self._config.run
                self._display.say(f"encode: fitting {describe_device(run.device, run.threads)}")
                run_inline(
                    self._spec,
                    todo,
                    self._report,
                    fitter_factory=self._fitter_factory,
                    committed=self._committed,
                )

    def _run_ray(self, todo: Sequence[ShardPlan]) -> None:
        from .engines.driver import Job
        from .engines.ray import run_ray  # takes a second, and no inline run needs it

        job = Job(
            spec=self._spec,
            run=self._config.run,
            fitter_factory=self._fitter_factory,
            report=self._report,
            committed=self._committed,
            workers=self._note_workers,
            notice=self._notice,
        )
        self._spec = replace(self._spec, device=run_ray(job, todo))

    def _report(self, shard: str, progress: Progress) -> None:
        self._meter.report(shard, progress)
        self._show()
        if progress.failed:
            self._limit.check(self._meter.sum, self._place.name)

    def _note_workers(self, states: Sequence[WorkerState]) -> None:
        self._meter.workers = {state.name: state.describe() for state in states}
        self._show()

    def _show(self) -> None:
        standing = self._meter.standing()
        self._display.show(standing.done, standing.facts(), standing.workers)
        self._standing_file.write(standing)

    def _notice(self, news: str) -> None:
        self._events.write("notice", news=news)
        self._display.say(news)

    def _committed(self, mark: DoneMark) -> None:
        self._shards.add(mark)
        self._events.write("shard", name=mark.name, images=mark.images, failed=mark.failed)

    # ------------------------------------------------------------ after

    def _finish(self) -> EncodeSummary:
        self._spec.claim.require()  # or the journal may be that of another run by now
        self._journal.clear()  # workers of a run that was killed may have lived on for a moment
        self._place.sweep(self._spec.claim.token)
        if missing := {s.name for s in self._survey.plan.shards} - {m.name for m in self._shards.marks}:
            raise GvitError(f"{min(missing)} of {self._place.name} is not done; run the same command again")
        self._limit.check(
            sum(map(self._shards.progress, self._shards.marks), Progress()), self._place.name, ended=True
        )
        self._write_extras()
        manifest, failures = complete(self._place, self._config, self._survey.listing.classes, self._shards)
        seconds, done = time.monotonic() - self._clock, self._meter.sum
        return EncodeSummary(
            destination=self._place.folder or self._place.name,
            images=manifest.images,
            failed=manifest.failed,
            seconds=round(seconds, 3),
            images_per_second=round(done.fresh / seconds, 3),
            psnr_mean=None if manifest.psnr is None else manifest.psnr.mean,
            steps_mean=round(done.cost_sum / done.fitted, 1) if done.fitted else None,
            failures=failures,
            changed=self._changed,
            converted=done.converted,
            profiles_ignored=done.ignored,
        )

    def _write_extras(self) -> None:
        """Write what is kept of images of shards that were done before anybody asked for it."""
        if (extras := self._survey.listing.extras) is None:
            return
        there = self._place.lengths()
        for shard in self._survey.plan.shards:
            if f"{shard.name}.{EXTRA_SUFFIX}" not in there:
                self._place.unpublish()
                write_extra(self._place, shard, extras)

    def _record(self, state: RunState, outcome: str) -> None:
        """Note how the run went; where the disk is full or the lease lost, nothing is noted."""
        record = RunRecord(
            started=self._started.isoformat(timespec="seconds"),
            host=socket.gethostname(),
            pid=os.getpid(),
            engine=self._engine,
            device=self._spec.device,
            workers=self._spec.threads,
            seconds=round(time.monotonic() - self._clock, 3),
            images=self._meter.sum.fresh,
            outcome=outcome,
            source=as_url(self._config.source) or str(Path(self._config.source).absolute()),
        )
        self._events.write("end", **asdict(record))
        with contextlib.suppress(OSError, GvitError):
            if self._spec.claim.still_ours():
                self._meter.workers = {}
                self._standing_file.write(self._meter.standing(), now=True)
                save_state(self._place, replace(state, runs=(*state.runs, record)))
