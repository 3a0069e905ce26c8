"""A training run from start to end: data, model, resume, epochs, checkpoints, pictures."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from rich.console import Console

from ...dataset.commit import atomic_write
from ...dataset.export import check_unused
from ...dataset.reader import open_dataset
from ...pictures.progress import Display, say_on
from ...schemas.errors import GvitError
from ...schemas.gaussians import min_scale
from ...schemas.text import plural
from ..data.check import check_sets
from ..data.loader import stored_bytes
from ..data.overlap import write_trained_on
from ..data.split import TrainingData, open_training_data
from ..guidance.guides import DirectGuide, build_guide
from ..guidance.source_images import Sources, open_sources
from ..model.classifier import build_model, describe_model
from ..model.evaluate import Scores
from ..model.tokens import measure_statistics
from ..ranks import joined_ranks
from ..settings import dump, plain
from .about import About
from .checkpoint import Checkpoint, CheckpointFolder
from .guided_sets import TunedSets, has_written, refined_by, remember_written, tuning_of, write_tuned
from .initial import CONFIG_NAME, begin_from, with_added_epochs
from .interruption import Interrupted, StopRequest, stoppable
from .metrics import MetricLog, Standing, read_metrics, tensorboard_installed
from .report import LARGEST_CONFUSION, draw_confusion, draw_curves
from .resume import checkpoint_to_resume, describe_data
from .trainer import DivergedError, Trainer

if TYPE_CHECKING:
    from ..config import TrainConfig
    from ..guidance.source_images import FindPixels
    from ..model.classifier import SetClassifier
    from ..model.evaluate import Evaluation
    from ..ranks import Ranks

__all__ = ["Interrupted", "TrainSummary", "train"]

_WORTH_TELLING = 2.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary(Scores):
    """What a run ended with: its evaluation after the last epoch, and how fast it trained."""

    epochs: int
    steps: int
    samples_per_second: float


def train(config: TrainConfig, *, console: Console | None = None) -> TrainSummary:
    """Train a model, or go on with a run that was interrupted.

    Args:
        config: What to do.
        console: Where progress goes; None for standard error.

    Raises:
        GvitError: Data, config or folder do not allow it, the loss is no number any more, or guidance has
            led the sets too far from their images.
        Interrupted: Ctrl-C or SIGTERM; the run is saved, and the same call goes on with it.
    """
    console = Console(stderr=True) if console is None else console
    config = with_added_epochs(config)
    with joined_ranks(config.run.device) as ranks:
        data = open_training_data(config.data, config.seed)
        if ranks.leads:
            _say_parts(config, data, console)
        last = checkpoint_to_resume(config, data)
        if config.data.check:
            _check_data(data, ranks, console)
        tuned = config.guidance.write_tuned
        ended = last is not None and last[0].about.epoch >= config.epochs
        written = tuned is not None and ended and has_written(config.run.out, tuned)
        if tuned is not None and not written:
            check_unused(tuned)
        ranks.wait()  # nobody may write before all have looked
        guidance = config.guidance
        sources = open_sources(data.train.manifest, images=guidance.images, masks=guidance.masks)
        if sources.pixels is not None and ranks.leads:
            say_on(console, f"reading {len(data.train)} images of {config.guidance.images}")
        trainer = build_trainer(config, data, ranks, sources, begun=last is not None)
        run = _Run(config, data, trainer, ranks, console if ranks.leads else None)
        if last is not None:
            run.go_on(*last)
        summary = run.run()
        if written and ranks.leads:
            say_on(console, f"{tuned} holds the sets of this run already")
        elif tuned is not None and sources.pixels is not None and ranks.leads:
            _write_tuned(tuned, trainer, data, sources.pixels)
            remember_written(config.run.out, tuned)
        return summary


def _say_parts(config: TrainConfig, data: TrainingData, console: Console) -> None:
    """Say what the score will be of, where it is not the split "val", and what is left aside."""
    splits = data.train.manifest.splits
    if config.data.val_shards is None and (config.data.val_fraction is not None or "val" not in splits):
        say_on(console, f"evaluating on {len(data.val)} images of {len(data.val) + len(data.train)} held out")
    if splits.get("test"):
        say_on(console, f"left aside: the split test, {splits['test']} images; score it with gvit evaluate")


def _check_data(data: TrainingData, ranks: Ranks, console: Console) -> None:
    """Look at all sets before anything is learned from them, and say how long it took where it was long."""
    seconds = check_sets(data.train, data.val, rank=ranks.rank, world_size=ranks.world)
    if ranks.leads and seconds > _WORTH_TELLING:
        size = sum(map(stored_bytes, (data.train, data.val))) / 1e9
        say_on(
            console, f"checked {size:.1f} GB of sets in {seconds:.0f} s; --set data.check=false leaves it out"
        )


def _write_tuned(out: Path, trainer: Trainer, data: TrainingData, find: FindPixels) -> None:
    """Write the training sets as "direct" has moved them, or all sets as the refiner moves any."""
    guide = trainer.guide
    if isinstance(guide, DirectGuide):
        written, moved = data.train, guide.at_last
    else:
        model = cast("SetClassifier", trainer.evaluated)
        written, moved = open_dataset(trainer.config.data.shards), refined_by(model, trainer.ranks.device)
    sets = TunedSets(
        dataset=written,
        moved=moved,
        find=find,
        tuning=tuning_of(trainer.config, data, written),
        threads=torch.get_num_threads(),
    )
    write_tuned(sets, out)


def build_trainer(
    config: TrainConfig,
    data: TrainingData,
    ranks: Ranks,
    sources: Sources | None = None,
    *,
    begun: bool = False,
) -> Trainer:
    """Build a model with the weights that a run begins with, what guides its sets, and their trainer.

    Of a run that has `begun` the weights come later, with its state.

    Raises:
        GvitError: Data and config do not go together.
    """
    guidance = config.guidance
    model = build_model(
        config.model,
        len(data.classes),
        measure_statistics(data.train),
        seed=config.seed,
        refiner=guidance.refiner if guidance.mode == "refine" else None,
        min_scale=min_scale(data.train.manifest.size),
    ).to(ranks.device)
    init = None if config.init is None or begun else begin_from(model, config.init, data.classes)
    place: dict[str, Any] = {"seed": config.seed, "run": config.run.out, "ranks": ranks}
    guide = build_guide(guidance, data.train, model, sources or Sources(), **place)
    return Trainer(config, data, model, ranks, guide, init)


class _Run:
    """A trainer in its folder."""

    def __init__(
        self, config: TrainConfig, data: TrainingData, trainer: Trainer, ranks: Ranks, console: Console | None
    ) -> None:
        self._config = config
        self._data = data
        self._trainer = trainer
        self._ranks = ranks
        self._folder = CheckpointFolder(config.run.out, config.run.keep)
        self._standing = Standing(config.epochs, trainer.total_steps)
        self._display = Display("train", trainer.total_steps, console)
        self._samples, self._seconds, self._since = 0, 0.0, 0.0  # of training, and when it went on
        self._best: float | None = None
        self._evaluation: Evaluation | None = None
        self._saved_at = time.monotonic()
        self._log: MetricLog | None = None
        self._stop = StopRequest()

    def go_on(self, checkpoint: Checkpoint, damaged: Sequence[Path] = ()) -> None:
        """Go back to a checkpoint; say which ones after it are damaged.

        Raises:
            GvitError: It is of another model.
        """
        state = checkpoint.state
        try:
            self._trainer.restore(checkpoint.model, checkpoint.ema, state["trainer"])
            self._best, self._standing.val_top1 = (_share(state[name]) for name in ("best", "val_top1"))
        except Exception as error:  # torch raises nearly anything on a state that is not its own
            raise GvitError(
                f"the checkpoints in {self._config.run.out} are of another model, or damaged: "
                "choose another --out"
            ) from error
        self._trainer.init = checkpoint.about.init
        for path in damaged:
            self._display.say(f"the checkpoint {path} is damaged: an older one is taken")
        if not checkpoint.checked:
            self._display.say("the checkpoint has no checksums, as gvit 0.1 wrote it: it is taken for sound")
        self._display.say(f"going on from step {checkpoint.step} of {self._trainer.total_steps}")

    def run(self) -> TrainSummary:
        """Train until the end, or until something stops it."""
        trainer = self._trainer
        if self._ranks.leads:
            with self._writing():
                self._open_folder()
        self._introduce()
        try:
            with stoppable() as self._stop, self._display:
                while not trainer.finished:
                    self._since = time.perf_counter()
                    trainer.train_epoch(self._after_step)
                    self._after_epoch()
                evaluation = self._evaluation or trainer.evaluate()
        except DivergedError as error:
            raise self._explain(error) from error
        finally:
            if self._log is not None:
                with self._writing():
                    self._log.close()
        with self._writing():
            return self._conclude(evaluation)

    @contextlib.contextmanager
    def _writing(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise GvitError(f"cannot save in {self._config.run.out}: {error.strerror or error}") from error

    def _open_folder(self) -> None:
        run = self._config.run
        run.out.mkdir(parents=True, exist_ok=True)
        atomic_write(run.out / CONFIG_NAME, dump(plain(self._config)).encode())
        write_trained_on(run.out, self._data.train)
        self._log = MetricLog(
            run.out,
            resumed_at=self._trainer.step,
            epochs_done=self._trainer.epoch,
            tensorboard=run.tensorboard,
        )

    def _introduce(self) -> None:
        config, trainer = self._config, self._trainer
        weights = sum(parameter.numel() for parameter in trainer.model.parameters())
        train, val = self._data.train, self._data.val
        device = f"{self._ranks.world} x {self._ranks.device.type}"
        self._display.say(
            f"a Vision Transformer, {describe_model(config.model)}, {weights / 1e6:.1f} M weights, "
            f"on {device}: {len(train)} sets to train "
            f"on, {len(val)} to evaluate on, of {train.manifest.gaussians} Gaussians and "
            f"{len(self._data.classes)} classes; {plural(config.epochs, 'epoch')} of "
            f"{plural(trainer.steps_per_epoch, 'step')}; "
            f"see {config.run.out}"
        )
        if trainer.init is not None:
            head = (
                "with its head" if trainer.init.head else "but for the head, which is new: the classes differ"
            )
            self._display.say(f"the weights are those of {trainer.init.source}, {head}")
        for restart in config.schedule.restarts[-1:]:
            self._display.say(f"epochs from {restart.epoch + 1} on were added, from a rate of {restart.lr:g}")
        if self._data.overlap.sources:
            self._display.say(self._data.overlap.describe())
        if config.run.tensorboard and not tensorboard_installed():
            self._display.say("TensorBoard is not installed, metrics go to metrics.jsonl only")

    def _after_step(self) -> None:
        trainer, standing = self._trainer, self._standing
        standing.advance(trainer.epoch, trainer.step)
        standing.rate = trainer.rate_of(trainer.step - 1)
        in_epoch = trainer.samples_seen // self._config.batch_size
        to_log = in_epoch % trainer.log_every == 0 or in_epoch == trainer.steps_per_epoch
        if to_log:
            self._log_interval()
        # Several ranks can only agree where all of them wait for each other anyway.
        if self._ranks.world == 1 or to_log:
            self._stop_or_save()
        self._display.show(trainer.step, self._standing.facts())

    def _log_interval(self) -> None:
        trainer, standing = self._trainer, self._standing
        interval = trainer.take_interval()
        spent = time.perf_counter() - self._since
        self._samples, self._seconds = self._samples + interval.samples, self._seconds + spent
        self._since, pace = self._since + spent, interval.samples / max(spent, 1e-9)
        standing.loss, standing.top1, standing.samples_per_second = interval.loss, interval.top1, pace
        self._write(
            {
                "kind": "train",
                "step": trainer.step,
                "epoch": trainer.epoch + 1,
                "loss": interval.loss,
                "top1": interval.top1,
                "lr": standing.rate,
                "samples_per_second": round(pace, 1),
            }
        )

    def _write(self, point: dict[str, Any]) -> None:
        if self._log is not None:
            with self._writing():
                self._log.write(point)

    def _stop_or_save(self) -> None:
        overdue = time.monotonic() - self._saved_at >= 60.0 * self._config.run.checkpoint_minutes
        if self._ranks.any(self._stop.requested):
            self._save(best=False)
            raise Interrupted(self._trainer.step, terminated=self._stop.terminated)
        if self._ranks.any(overdue):
            self._save(best=False)

    def _after_epoch(self) -> None:
        trainer, every = self._trainer, self._config.run.evaluate_every
        moved = trainer.take_movement()
        if moved is not None:
            self._standing.psnr_loss = moved.psnr_loss
            self._write({"kind": "guidance", "step": trainer.step, "epoch": trainer.epoch, **asdict(moved)})
        best = False
        if trainer.finished or trainer.epoch % every == 0:
            evaluation = self._evaluation = trainer.evaluate()
            best = self._best is None or evaluation.top1 > self._best
            self._best = evaluation.top1 if best else self._best
            self._standing.val_top1 = evaluation.top1
            self._write(
                {"kind": "evaluation", "step": trainer.step, "epoch": trainer.epoch, **evaluation.scores}
            )
        self._save(best=best)
        self._display.show(trainer.step, self._standing.facts())

    def _save(self, *, best: bool) -> None:
        """Save, unless a loss was no number: what was saved before is better then."""
        trainer = self._trainer
        trainer.check_health()
        self._saved_at = time.monotonic()
        state = trainer.state()
        if self._ranks.leads:
            self._write_checkpoint(state, best=best)
        self._ranks.wait()  # a checkpoint must not see sets that others move on meanwhile

    def _write_checkpoint(self, progress: dict[str, Any], *, best: bool) -> None:
        trainer, guidance = self._trainer, self._config.guidance
        about = About(
            step=trainer.step,
            model=self._config.model,
            augment=self._config.augment,
            refiner=guidance.refiner if guidance.mode == "refine" else None,
            data=describe_data(self._data),
            epoch=trainer.epoch,
            init=trainer.init,
            restarts=list(self._config.schedule.restarts) or None,
            evaluation=None if self._evaluation is None else Scores(**self._evaluation.scores),
        )
        state = {"trainer": progress, "best": self._best, "val_top1": self._standing.val_top1}
        weights = trainer.model.state_dict()
        ema = None if trainer.ema is None else trainer.ema.module.state_dict()
        with self._writing():
            self._folder.save(Checkpoint(about, weights, ema, state), best=best)

    def _explain(self, error: DivergedError) -> GvitError:
        last = self._folder.last
        kept = f"the last good checkpoint is {last}" if last is not None else "no checkpoint had been saved"
        return GvitError(f"{error}; {kept}: try {error.advice}")

    def _conclude(self, evaluation: Evaluation) -> TrainSummary:
        out = self._config.run.out
        if self._ranks.leads:
            draw_curves(read_metrics(out), out / "curves.png")
            if len(self._data.classes) <= LARGEST_CONFUSION:
                draw_confusion(evaluation.confusion.numpy(), self._data.classes, out / "confusion.png")
        return TrainSummary(
            **evaluation.scores,
            epochs=self._trainer.epoch,
            steps=self._trainer.step,
            samples_per_second=round(self._samples / max(self._seconds, 1e-9), 1),
        )


def _share(value: Any) -> float | None:  # noqa: ANN401
    return None if value is None else float(value)
