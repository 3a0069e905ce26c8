"""The whole job: survey the source, plan, take the lease, let the engine work, write manifest and card."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ..dataset.class_names import class_names_file
from ..fitting.config import describe_device, resolve_device
from ..images.open import open_source
from ..pictures.progress import Display
from ..schemas.errors import GvitError
from ..schemas.extras import require
from .config import EncodeConfig, RunConfig, fingerprint
from .engines.inline import run_inline
from .finished import FinishedShards, complete, reopen_shard
from .place.lease import Lease
from .place.open import open_place
from .place.run_state import (
    RunRecord,
    RunState,
    check_same,
    clear_dataset,
    holds_work,
    inspect_place,
    new_state,
    save_state,
)
from .plan import Plan, ShardPlan, make_plan
from .progress import EventLog, Meter, Progress, StandingFile
from .worker import FitterFactory, WorkerSpec

if TYPE_CHECKING:
    from ..fitting.config import FitConfig
    from ..fitting.fitter import Fitter
    from ..images.sources.source import Listing, Source
    from ..schemas.manifest import DoneMark
    from .engines.remote_worker import WorkerState
    from .place.lease import Claim
    from .place.place import Place
    from .place.run_state import Fingerprint

__all__ = [
    "EncodeSummary",
    "Survey",
    "check_install",
    "encode",
    "make_fitter",
    "resolve_engine",
    "survey",
    "worker_spec",
]


@dataclass(frozen=True, slots=True)
class EncodeSummary:
    """What an encode ended with.

    `destination` is the folder or URL. `images`, `failed` and `psnr_mean` (dB, None without an image) speak
    of the whole dataset, whichever run did the work; `seconds`, `images_per_second` and `steps_mean` (the
    cost per fit, None without one) of this run. `failures` holds the first few, each as (source, reason).
    """

    destination: Path | str
    images: int
    failed: int
    seconds: float
    images_per_second: float
    psnr_mean: float | None
    steps_mean: float | None
    failures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """The place and the images of a job, their plan, and the fingerprint of the dataset that they give."""

    place: Place
    source: Source
    listing: Listing
    plan: Plan
    fingerprint: Fingerprint


def survey(config: EncodeConfig) -> Survey:
    """Look at the source and at the destination, and change neither.

    Raises:
        GvitError: The source has no images, a class no name, or the destination cannot take this dataset.
    """
    place = open_place(config.destination)
    _check_folder(config, place)
    source = open_source(config.source, config.labels)
    listing = source.scan()
    plan = make_plan(listing.entries, config.fit.seed, config.shard_size)
    found = Survey(place, source, listing, plan, fingerprint(config, plan, listing.classes))
    class_names_file(config.class_names, listing.classes)
    _admit(config.run, found)
    return found


def _check_folder(config: EncodeConfig, place: Place) -> None:
    """Refuse arrays at a URL, and a folder within the source: shards would be taken for tars of images."""
    if place.folder is None:
        if config.format == "zarr":
            raise GvitError(
                "format zarr needs a folder as destination; encode to the URL as webdataset, "
                "then use gvit pull and gvit export --to zarr"
            )
        return
    source = config.source.resolve()
    if source.is_dir() and place.folder.resolve().is_relative_to(source):
        raise GvitError(f"{place.name} lies in {config.source}; choose a folder outside of it")


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
    if fitter_factory is None:
        check_install(config.run)
        fitter_factory = factory_of(config.run)
    found = survey(config)
    try:
        found.place.prepare()
        with Lease(found.place) as lease:
            return _Run(config, found, lease.claim, console, fitter_factory).run()
    except OSError as error:
        explained = found.place.explain(error)
        if explained is None:
            raise
        raise explained from error


def check_install(run: RunConfig) -> None:
    """Make sure that what a run needs is installed, before anything is written.

    Raises:
        GvitError: It is not; the sentence says how to install it.
    """
    require("encode", "numba")
    here = run.ray_address is None  # or the GPUs are those of other machines
    if run.device == "cuda":
        require("encode", "torch")
        if here and resolve_device("auto") != "cuda":
            raise GvitError("there is no GPU that torch can use: leave --device out; gvit doctor says more")
    if run.renderer == "gsplat":
        if here and resolve_device(run.device) != "cuda":
            raise GvitError("renderer gsplat needs a GPU that torch can use: leave --renderer out on a CPU")
        require("encode", "gsplat")
    if resolve_engine(run) == "ray":
        require("encode", "ray")


def factory_of(run: RunConfig) -> FitterFactory:
    """Return what makes the fitter that a run asks for."""
    return make_gsplat_fitter if run.renderer == "gsplat" else make_fitter


def make_fitter(config: FitConfig, encoding: str, threads: int, device: str) -> Fitter:
    """Make the fitter of this package."""
    from ..fitting.fitter import Fitter  # compiles; only now is it sure to be needed

    return Fitter(config, encoding, threads, device)


def make_gsplat_fitter(config: FitConfig, encoding: str, threads: int, device: str) -> Fitter:
    """Make the fitter whose renderer is gsplat."""
    from ..fitting.gsplat import GsplatFitter

    return GsplatFitter(config, encoding, threads, device)


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
        place=claim.place,
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


def _admit(run: RunConfig, found: Survey) -> RunState | None:
    """Return the state that this run is to go on from, None where it begins afresh."""
    state = inspect_place(found.place, overwrite=run.overwrite)
    if state is None:
        return None
    if run.overwrite:
        # An interrupted --overwrite goes on when it is called again; it does not begin over and over.
        goes_on = state.replaced and not found.place.is_complete()
        return state if goes_on and state.fingerprint == found.fingerprint else None
    if state.fingerprint != found.fingerprint and not holds_work(found.place):
        return None
    check_same(found.place.name, state.fingerprint, found.fingerprint)
    return state


class _Run:
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
        self._spec = worker_spec(config, found.source, claim)
        self._console = console
        self._fitter_factory = fitter_factory
        self._journal = self._spec.journal
        self._events = EventLog(found.place)
        self._engine = resolve_engine(config.run)
        self._meter = Meter(found.plan.images, self._engine)
        self._standing_file = StandingFile(found.place)
        self._display = Display("encode", found.plan.images, console)
        self._shards = FinishedShards(found.place)
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
        """Make the place ready; admitted again, since another run may have been at work until now."""
        run = self._config.run
        state = _admit(run, self._survey)
        if state is None:
            clear_dataset(self._place)
            state = new_state(self._survey.fingerprint, replaced=run.overwrite)
            save_state(self._place, state)
            self._shards = FinishedShards(self._place)
        self._place.sweep(self._spec.claim.token)
        return state

    def _sort_shards(self) -> list[ShardPlan]:
        """Take note of the shards that are done and return those that are to do."""
        todo: list[ShardPlan] = []
        for shard in self._survey.plan.shards:
            mark = self._shards.find(shard)
            if mark is not None and not (self._config.run.retry_failed and mark.failed):
                self._journal.remove(shard.name)
                continue
            todo.append(shard)
            if self._config.run.retry_failed:
                self._forget_failures(shard, mark)
        return todo

    def _forget_failures(self, shard: ShardPlan, mark: DoneMark | None) -> None:
        """Have only the failures of a shard fitted again: all else of it is in the journal then."""
        self._journal.forget_failures(shard)
        if mark is not None:
            reopen_shard(self._place, self._journal, shard, mark, self._shards.rows(mark), self._config)
            self._shards.forget(mark)

    # ------------------------------------------------------------ the work

    def _work(self) -> None:
        todo = self._sort_shards()
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

    def _note_workers(self, states: Sequence[WorkerState]) -> None:
        self._meter.workers = {state.name: state.describe() for state in states}
        self._show()

    def _show(self) -> None:
        standing = self._meter.standing()
        self._display.show(standing.done, standing.describe(), standing.workers)
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
            images=self._meter.sum.fresh,
            outcome=outcome,
            source=str(self._config.source.absolute()),
        )
        self._events.write("end", **asdict(record))
        with contextlib.suppress(OSError, GvitError):
            if self._spec.claim.still_ours():
                self._meter.workers = {}
                self._standing_file.write(self._meter.standing(), now=True)
                save_state(self._place, replace(state, runs=(*state.runs, record)))
