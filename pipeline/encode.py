"""The whole job: look at the source, plan, take the lease, let the engine work, write manifest and card."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console

from ..dataset.class_name_lists import class_names_file
from ..dataset.remote.urls import as_url, place_name
from ..fitting.device import resolve_device
from ..images.open import open_source
from ..schemas.errors import GvitError
from .config import EncodeConfig, Fingerprint, RunConfig, fingerprint
from .engines.inline import run_inline
from .place.destination import explain
from .place.private_files import private_files
from .place.run_state import RunRecord, RunState, check_same
from .place.targets import Target, open_target
from .plan import Plan, ShardPlan, make_plan
from .progress import EventLog, Reporter, Standing, Tally, reporting
from .retry import forget_failures
from .snapshot import SnapshotWriter
from .worker import FitterFactory, ImageFitter, WorkerSpec, journal_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..fitting.config import FitConfig
    from ..images.sources.folder import Listing, Source
    from ..schemas.manifest import DoneMark
    from .engines.worker_state import WorkerState
    from .place.lease import Claim

__all__ = [
    "EncodeSummary",
    "Survey",
    "encode",
    "look",
    "make_fitter",
    "resolve_device",
    "resolve_engine",
    "worker_spec",
]


@dataclass(frozen=True, slots=True)
class EncodeSummary:
    """What an encode ended with.

    `images`, `failed` and `psnr_mean` (dB, None without an image) speak of the whole dataset, whichever run
    did the work; `seconds`, `images_per_second` and `steps_mean` (the cost per fit, None without one) of
    this run. `failures` holds the first few, each as (source, reason).
    """

    destination: Path
    images: int
    failed: int
    seconds: float
    images_per_second: float
    psnr_mean: float | None
    steps_mean: float | None
    failures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """The images of a source, the plan made of them, and the fingerprint of the dataset that they give."""

    source: Source
    listing: Listing
    plan: Plan
    fingerprint: Fingerprint


def look(config: EncodeConfig) -> Survey:
    """Look at the source and at the destination, and change neither.

    Raises:
        GvitError: The source has no images, a class no name, or the destination cannot take this dataset.
    """
    _check_apart(config)
    source = open_source(config.source, config.labels)
    listing = source.scan()
    plan = make_plan(listing.entries, config.fit.seed, config.shard_size)
    survey = Survey(source, listing, plan, fingerprint(config, plan, listing.classes))
    class_names_file(config.class_names, listing.classes)
    _admit(config, survey, open_target(config.destination))
    return survey


def _check_apart(config: EncodeConfig) -> None:
    """Refuse a destination within the source: its shards would be taken for tar files of images."""
    source, destination = config.source.resolve(), config.destination.resolve()
    if as_url(config.destination) is None and source.is_dir() and destination.is_relative_to(source):
        raise GvitError(f"{config.destination} lies in {config.source}; choose a folder outside of it")


def encode(
    config: EncodeConfig, *, console: Console | None = None, fitter_factory: FitterFactory | None = None
) -> EncodeSummary:
    """Encode images into a dataset, or go on with one that was interrupted.

    Args:
        config: What to encode, where to, and how.
        console: Where progress goes; None for standard error.
        fitter_factory: Makes the fitter; None for `gvit.fitting.fitter.Fitter`.

    Raises:
        GvitError: The source, the destination or the lease do not allow it, or the destination is full.
        KeyboardInterrupt: As raised in the meantime; the same call goes on from there.
    """
    console = Console(stderr=True) if console is None else console
    fitter_factory = make_fitter if fitter_factory is None else fitter_factory
    survey = look(config)
    try:
        target = open_target(config.destination)
        with target.lease() as lease:
            return _Run(config, survey, target, lease.claim, console, fitter_factory).run()
    except OSError as error:
        explained = explain(error, config.destination)
        if explained is None:
            raise
        raise explained from error


def make_fitter(config: FitConfig, encoding: str, threads: int, device: str) -> ImageFitter:
    """Make the fitter of this package."""
    from ..fitting.fitter import Fitter  # compiles; only now is it sure to be needed

    return Fitter(config, encoding, threads, device)


def resolve_engine(run: RunConfig) -> str:
    """Return the engine that "auto" stands for: "ray" where an address is given or several GPUs are used."""
    if run.engine != "auto":
        return run.engine
    if run.ray_address is not None or run.gpus_per_worker is not None or run.cpus_per_worker is not None:
        return "ray"
    if resolve_device(run.device) != "cuda":
        return "inline"
    import torch  # takes seconds, and is needed for the GPU anyway

    return "ray" if torch.cuda.device_count() > 1 else "inline"


def worker_spec(config: EncodeConfig, source: Source, claim: Claim) -> WorkerSpec:
    """Work out what a worker needs to know."""
    device = resolve_device(config.run.device)
    return WorkerSpec(
        destination=config.destination,
        source=source,
        fit=config.fit,
        crop=config.crop,
        encoding=config.encoding,
        batch=config.run.batch(config.fit.size, device),
        device=device,
        threads=config.run.threads,
        decoders=config.run.decoders(device),
        claim=claim,
        attempt=claim.token,
    )


def _admit(config: EncodeConfig, survey: Survey, target: Target) -> RunState | None:
    """Return the state that this run is to go on from, None where it begins afresh."""
    overwrite = config.run.overwrite
    state = target.inspect(overwrite=overwrite)
    if state is None:
        return None
    if overwrite:
        # An interrupted --overwrite goes on when it is called again; it does not begin over and over.
        goes_on = state.replaced and not target.is_complete()
        return state if goes_on and state.fingerprint == survey.fingerprint else None
    if state.fingerprint != survey.fingerprint and not target.holds_work():
        return None
    check_same(place_name(config.destination), state.fingerprint, survey.fingerprint)
    return state


class _Run:
    """One run, under the lease."""

    def __init__(
        self,
        config: EncodeConfig,
        survey: Survey,
        target: Target,
        claim: Claim,
        console: Console,
        fitter_factory: FitterFactory,
    ) -> None:
        self._config = config
        self._survey = survey
        self._target = target
        self._spec = worker_spec(config, survey.source, claim)
        self._console = console
        self._fitter_factory = fitter_factory
        self._journal = journal_of(config.destination)
        self._events = EventLog(private_files(config.destination))
        self._engine = resolve_engine(config.run)
        self._standing = Standing(survey.plan.images)
        self._snapshots = SnapshotWriter(config.destination, self._engine, self._standing)
        self._marks: dict[str, DoneMark] = {}
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()

    def run(self) -> EncodeSummary:
        state = self._prepare()
        outcome = "failed"
        try:
            self._work()
            summary = self._finish()
            outcome = "finished"
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        finally:
            self._record(state, outcome)
        return summary

    # ------------------------------------------------------------ before

    def _prepare(self) -> RunState:
        """Make the destination ready; admitted again, since another run may have been at work until now."""
        state = _admit(self._config, self._survey, self._target)
        if state is None:
            self._target.clear()
            state = RunState(self._survey.fingerprint, replaced=self._config.run.overwrite)
            self._target.save(state)
        self._target.sweep()
        return state

    def _sort_shards(self) -> list[ShardPlan]:
        """Take note of the shards that are done and return those that are to do."""
        todo: list[ShardPlan] = []
        for shard in self._survey.plan.shards:
            mark = self._target.done_mark(shard)
            if mark is None or (self._config.run.retry_failed and mark.failed):
                todo.append(shard)
                if self._config.run.retry_failed:
                    self._forget_failures(shard, mark)
            else:
                self._marks[shard.name] = mark
                self._journal.remove(shard.name)
        return todo

    def _forget_failures(self, shard: ShardPlan, mark: DoneMark | None) -> None:
        forget_failures(self._journal, shard)
        if mark is not None:
            self._target.reopen(self._journal, shard, mark, self._config)

    # ------------------------------------------------------------ the work

    def _work(self) -> None:
        todo = self._sort_shards()
        if not todo:
            return
        self._target.withdraw()
        self._events.write("start", images=self._survey.plan.images, shards_to_do=len(todo))
        with reporting(self._standing, self._console, self._snapshots.watch) as report:
            for mark in self._marks.values():
                report(self._target.tally(mark))
            if self._engine == "ray":
                self._run_ray(todo, report)
            else:
                run_inline(
                    self._spec, todo, report, fitter_factory=self._fitter_factory, committed=self._committed
                )

    def _run_ray(self, todo: Sequence[ShardPlan], report: Reporter) -> None:
        from .engines.driver import Job
        from .engines.ray import run_ray  # takes a second, and no inline run needs it

        def crew(states: Sequence[WorkerState]) -> None:
            self._standing.workers = {state.name: state.describe() for state in states}
            report(Tally(0, 0, 0.0, fresh=False))

        job = Job(
            spec=self._spec,
            run=self._config.run,
            fitter_factory=self._fitter_factory,
            report=report,
            committed=self._committed,
            crew=crew,
            notice=self._notice,
        )
        self._spec = replace(self._spec, device=run_ray(job, todo))

    def _notice(self, news: str) -> None:
        self._events.write("notice", news=news)
        self._console.print(news, markup=False, highlight=False, soft_wrap=True)

    def _committed(self, mark: DoneMark) -> None:
        self._marks[mark.name] = mark
        self._events.write("shard", name=mark.name, images=mark.images, failed=mark.failed)

    # ------------------------------------------------------------ after

    def _finish(self) -> EncodeSummary:
        marks = [self._marks[shard.name] for shard in self._survey.plan.shards]
        self._spec.claim.require(self._config.destination)  # or the journal may be that of another run by now
        self._journal.clear()  # workers of a run that was killed may have lived on for a moment
        self._target.sweep()
        manifest, failures = self._target.complete(self._config, self._survey.listing.classes, marks)
        seconds, standing = time.monotonic() - self._clock, self._standing
        return EncodeSummary(
            destination=self._config.destination,
            images=manifest.images,
            failed=manifest.failed,
            seconds=round(seconds, 3),
            images_per_second=round(standing.fresh / seconds, 3),
            psnr_mean=None if manifest.psnr is None else manifest.psnr.mean,
            steps_mean=round(standing.cost_sum / standing.fitted, 1) if standing.fitted else None,
            failures=failures,
        )

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
            images=self._standing.fresh,
            outcome=outcome,
            source=str(self._config.source.absolute()),
        )
        self._events.write("end", **asdict(record))
        with contextlib.suppress(OSError, GvitError):
            if self._spec.claim.still_ours():
                self._standing.workers = {}
                self._snapshots.write()
                self._target.save(replace(state, runs=(*state.runs, record)))
