"""The driver of workers in other processes: hires them, hands out shards, and lets nothing be lost.

A worker has at most two tasks in hand. One that dies, or shows no progress for too long, is replaced by a
fresh one, and its death counts against the task that it was at; `Dispatch` knows what follows from that.
"""

from __future__ import annotations

import errno
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ...schemas.errors import GvitError
from ..plan import BlockPlan
from ..progress import Progress
from ..worker import quarantine
from .dispatch import MAX_DEATHS_IN_A_ROW, Dispatch, Task
from .remote_worker import Greeting, Order, Reply, WorkerState, log_path, read_worker, this_version

if TYPE_CHECKING:
    from ...schemas.manifest import DoneMark
    from ..config import RunConfig
    from ..plan import ShardPlan
    from ..progress import Reporter
    from ..worker import FitterFactory, WorkerSpec
    from .cluster import Layout

__all__ = ["POISON", "Driver", "Handle", "Job", "WorkerDied", "Workers"]

Handle: TypeAlias = Any
"""A worker, a call or an answer, as `Workers` has it: opaque here."""

POISON = "the worker crashed or hung on this image"
"""The error of an image that killed its workers, alone."""

START_SECONDS = 180.0
"""How long the first worker may take to start."""

_POLL_SECONDS = 0.25
_MAX_FAILED_STARTS = 3  # in a row
_IN_HAND = 2
_VISIBLE_SECONDS = 20.0  # a network file system may take its time to show a new file


_NO_BETTER_ELSEWHERE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENOENT}
)


def _is_of_one_machine(error: Exception | None) -> bool:
    """Tell whether another worker may do better than the one that ended with an error of its system."""
    return isinstance(error, OSError) and error.errno not in _NO_BETTER_ELSEWHERE


class WorkerDied(Exception):  # noqa: N818  (an event, no mistake)
    """A worker is gone, and with it the answer to a call; the text says why in a few words."""


class Workers(Protocol):
    """Where workers come from: processes, each with a `RemoteWorker`, that do their calls one by one."""

    def hire(self, order: Order) -> Handle:
        """Start a worker."""
        ...

    def call(self, worker: Handle, method: str, *arguments: object) -> Handle:
        """Let a worker call one of its methods, after those before."""
        ...

    def wait(self, calls: Sequence[Handle], seconds: float) -> bool:
        """Wait for so long, or until any of the calls has an answer; tell whether one has."""
        ...

    def answer(self, call: Handle) -> Handle:
        """Return the answer to a call that has one.

        Raises:
            WorkerDied: It has none, and never will.
        """
        ...

    def end(self, worker: Handle) -> None:
        """End a worker, dead or alive, whatever it is at."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be done, and who is told.

    `report` hears how far each shard is, `committed` of finished shards, `workers` of all workers now and
    then, `notice` of deaths and other news in a sentence.
    """

    spec: WorkerSpec
    run: RunConfig
    fitter_factory: FitterFactory
    report: Reporter
    committed: Callable[[DoneMark], None]
    workers: Callable[[Sequence[WorkerState]], None]
    notice: Callable[[str], None]


@dataclass(slots=True)
class _Hand:
    """One worker: its greeting until it is ready, then its tasks in the order in which it does them.

    `following` is the task that it is to have after those: it may decode ahead for it.
    """

    name: str
    worker: Handle
    greeting: Handle
    hired: float
    ready: bool = False
    tasks: deque[tuple[Handle, Task]] = field(default_factory=deque[tuple[Handle, Task]])
    following: Task | None = None
    state: WorkerState | None = None
    changed: float = 0.0

    @property
    def calls(self) -> list[Handle]:
        """What is awaited of it."""
        return [call for call, _ in self.tasks] if self.ready else [self.greeting]


class Driver:
    """Hires workers, hands out tasks, collects replies, replaces the dead."""

    def __init__(self, job: Job, workers: Workers, layout: Layout, shards: Sequence[ShardPlan]) -> None:
        spec = job.spec
        each = replace(job.run, workers=layout.cpus)
        self._spec = replace(
            spec,
            threads=layout.cpus,
            decoders=each.decoders(spec.device),
            batch=each.batch(spec.fit.size, spec.device),
        )
        self._job = job
        self._workers = workers
        self._layout = layout
        self._dispatch = Dispatch(shards)
        self._witness = shards[0].entries[0]
        self._hands: list[_Hand] = []
        self._hired = 0
        self._failed_starts = 0
        self._next_look = 0.0
        self._seen: dict[str, Progress] = {}  # what was told of each shard
        self._kept: Counter[str] = Counter()  # images of a shard that this run journaled before a death

    def work(self) -> None:
        """Go on until every shard is committed; no worker is left then, nor when it raises.

        Raises:
            GvitError: A worker cannot work where it is, workers keep dying, or the lease is lost.
            OSError: The destination cannot be written.
        """
        try:
            self._work()
        finally:
            for hand in self._hands:
                self._workers.end(hand.worker)

    def _work(self) -> None:
        while self._dispatch.unfinished:
            self._hire()
            self._hand_out()
            self._workers.wait([call for hand in self._hands for call in hand.calls], _POLL_SECONDS)
            for hand in list(self._hands):
                self._collect(hand)
            self._look()

    def _hire(self) -> None:
        wanted = min(self._layout.workers, self._dispatch.unfinished)
        while len(self._hands) < wanted:
            name = f"worker-{self._hired:03d}"
            self._hired += 1
            spec = replace(self._spec, attempt=f"{self._spec.claim.token}-{name}")
            order = Order(
                name=name,
                version=this_version(),
                spec=spec,
                fitter_factory=self._job.fitter_factory,
                witness=self._witness,
            )
            worker = self._workers.hire(order)
            self._hands.append(_Hand(name, worker, self._workers.call(worker, "greet"), time.monotonic()))

    def _hand_out(self) -> None:
        """Give each worker its next task; towards the end nobody holds one that another could begin."""
        for in_hand in range(1, _IN_HAND + 1):
            for hand in self._hands:
                enough = in_hand == 1 or self._plenty or hand.following is not None
                if hand.ready and len(hand.tasks) < in_hand and enough:
                    self._give(hand)

    @property
    def _plenty(self) -> bool:
        """Whether so many tasks wait that each worker will get another one in any case."""
        return self._dispatch.waiting > len(self._hands)

    def _give(self, hand: _Hand) -> None:
        task = self._next_task(hand)
        if task is None:
            return
        hand.following = self._dispatch.take() if self._plenty else None
        if task.part is None:
            following = None if hand.following is None else hand.following.shard
            call = self._workers.call(hand.worker, "encode", task.shard, following)
        else:
            call = self._workers.call(hand.worker, "try_part", task.shard, task.part)
        if not hand.tasks:
            hand.changed = time.monotonic()
        hand.tasks.append((call, task))

    def _next_task(self, hand: _Hand) -> Task | None:
        """Take what was set aside for this worker, or what waits, or what was set aside for a busy one."""
        if hand.following is None:
            task = self._dispatch.take()
            if task is not None:
                return task
        for holder in (hand, *self._hands):
            if holder.following is not None and (holder is hand or not hand.tasks):
                task, holder.following = holder.following, None
                return task
        return None

    # ------------------------------------------------------------ what comes back

    def _collect(self, hand: _Hand) -> None:
        """Take what one worker has ready, in the order of its tasks."""
        while hand.calls and self._workers.wait(hand.calls[:1], 0):
            try:
                answer = self._workers.answer(hand.calls[0])
            except WorkerDied as death:
                self._replace(hand, str(death))
                return
            if hand.ready and _is_of_one_machine(answer.error):
                self._replace(hand, f"{answer.error}")
                return
            if hand.ready:
                self._take_reply(hand, answer)
            else:
                self._welcome(hand, answer)

    def _welcome(self, hand: _Hand, greeting: Greeting) -> None:
        if greeting.problem is not None:
            raise GvitError(greeting.problem)
        place = self._spec.place
        deadline = time.monotonic() + _VISIBLE_SECONDS
        while (state := self._shown_by(hand)) is None or state.pid != greeting.pid:
            if time.monotonic() > deadline:
                raise GvitError(
                    f"what {greeting.host} writes to {place.name} does not appear here; {place.advice}"
                )
            time.sleep(_POLL_SECONDS)
        hand.ready, hand.state = True, state
        self._failed_starts = 0

    def _take_reply(self, hand: _Hand, reply: Reply) -> None:
        _, task = hand.tasks.popleft()
        hand.changed = time.monotonic()
        if reply.error is not None:
            raise reply.error
        self._dispatch.finished(task)
        if reply.mark is None:
            self._keep(task.shard, reply.progress.fresh)
        else:
            self._tell(task.shard.name, reply.progress)
            self._job.committed(reply.mark)

    # ------------------------------------------------------------ deaths

    def _replace(self, hand: _Hand, reason: str) -> None:
        """Let a worker go that died or hangs; the task that it was at is to blame, the next one is not."""
        self._workers.end(hand.worker)
        self._hands.remove(hand)
        log = log_path(self._spec.place, hand.name)
        if not hand.ready:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_FAILED_STARTS:
                raise GvitError(f"the workers do not start ({reason}); see {log} if it is there")
            return
        not_begun = [task for _, task in hand.tasks][1:]
        for task in reversed(not_begun if hand.following is None else [*not_begun, hand.following]):
            self._dispatch.put_back(task)
        if hand.tasks:
            task = hand.tasks[0][1]
            self._job.notice(f"{hand.name} died at {task.shard.name} ({reason}); another one takes over")
            self._blame(task)
        if self._dispatch.deaths_in_a_row >= MAX_DEATHS_IN_A_ROW:
            raise GvitError(
                f"{MAX_DEATHS_IN_A_ROW} workers died in a row, so it is not the images ({reason}); see {log}"
            )

    def _blame(self, task: Task) -> None:
        in_flight, journaled = self._open_block(task.shard)
        if task.part is None:
            seen = self._seen.get(task.shard.name, Progress())
            lost = max(0, seen.images - journaled)
            self._keep(task.shard, seen.fresh - lost - self._kept[task.shard.name])
        given_up = self._dispatch.died(task, in_flight)
        if given_up is not None:
            quarantine(self._spec, task.shard, given_up, POISON)
            self._keep(task.shard, len(given_up.entries))
            self._job.notice(f"{given_up.entries[0].source} is given up: {POISON}")

    def _open_block(self, shard: ShardPlan) -> tuple[BlockPlan | None, int]:
        """Return what is not journaled of the first block that has such, and the number that is of all."""
        journal = self._spec.journal
        in_flight, journaled = None, 0
        for block in shard.blocks():
            known = journal.read(shard.name, block.first, block.keys)
            done = set() if known is None else {outcome.key for outcome in known.outcomes}
            journaled += len(done)
            missing = tuple(entry for entry in block.entries if entry.key not in done)
            if missing and in_flight is None:
                in_flight = BlockPlan(block.first, missing)
        return in_flight, journaled

    # ------------------------------------------------------------ how far they are

    def _look(self) -> None:
        """See how far the workers are, tell it, and end those that have hung for too long."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + self._spec.place.request_seconds
        for hand in list(self._hands):
            state = self._shown_by(hand) if hand.ready else None
            if state is not None and state != hand.state:
                hand.state, hand.changed = state, now
                if hand.tasks and state.doing == "encoding" and state.shard == hand.tasks[0][1].shard.name:
                    self._tell(state.shard, state.progress)
            if hand.tasks and now - hand.changed > self._job.run.hang_seconds:
                self._replace(hand, f"no sign of life for {self._job.run.hang_seconds:g} s")
        self._job.workers([hand.state for hand in self._hands if hand.state is not None])
        waited = min((now - hand.hired for hand in self._hands), default=0.0)
        if waited > START_SECONDS and not any(hand.ready for hand in self._hands):
            raise GvitError(
                f"no worker has started within {START_SECONDS:g} s; "
                "is the cluster busy with something else? Look at: ray status"
            )

    def _shown_by(self, hand: _Hand) -> WorkerState | None:
        """What a worker shows of itself; None where it shows nothing, or the place cannot be read just now.

        A worker is not taken for hung because of the latter.
        """
        try:
            return read_worker(self._spec.place, hand.name)
        except GvitError:
            hand.changed = time.monotonic()
            return None

    def _keep(self, shard: ShardPlan, images: int) -> None:
        """Note so many more images as journaled by this run; the next attempt will report them as known."""
        self._kept[shard.name] += images
        self._tell(shard.name, Progress())

    def _tell(self, shard: str, progress: Progress) -> None:
        """Report how far the present attempt at a shard is, with what this run did in earlier ones."""
        now = replace(progress, fresh=progress.fresh + self._kept[shard])
        if now != self._seen.get(shard):
            self._seen[shard] = now
            self._job.report(shard, now)
