"""Decode images in processes that may crash, hang or run out of memory without harm to anyone else."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import TYPE_CHECKING

from ..schemas.errors import GvitError
from ..schemas.limits import Range, check_limit
from .allowance import Allowance
from .decode import Crop, Decoded
from .decode_worker import OUT_OF_MEMORY, DecodeFailure, WorkerSettings, main

if TYPE_CHECKING:
    from .color import Color
    from .references import Reference

__all__ = ["MEMORY_LIMIT_BYTES", "DecodeFailure", "DecodePool", "Outcome", "Prefetch"]

MEMORY_LIMIT_BYTES = 2 * 2**30
"""What a process may allocate to decode an image."""

# Or glibc hands the buffers of an image back to the system and the next image faults them in again (20 %).
_KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20)}

Outcome = Decoded | DecodeFailure

_START_TIMEOUT_S = 120.0  # importing numpy from a cold network file system takes its time
_MAX_FAILED_STARTS = 3  # in a row
_TICK_S = 1.0  # between two looks at those that work
_TASKS_AHEAD = 2  # at each worker, so that it need not wait for this process to look up from its own work


class DecodePool:
    """A few processes that decode images, each of them one image at a time.

    An image whose process crashes, takes too long or needs too much memory is tried once more, alone in a
    fresh process: it may have been the machine. Then it becomes a `DecodeFailure`; the other images are not
    touched. No process outlives the pool or its owner.

    One thread owns all worker processes: Linux ends a child that asked to die with its parent as soon as the
    *thread* that started it ends, so this thread lives as long as they do.

    Args:
        workers: Number of processes, at least 1.
        size: S, the side of the decoded square in pixels.
        crop: As of `decode_image`.
        color: Likewise.
        timeout_s: What reading and decoding one image may take: processor seconds while it computes, and
            seconds that it waits for its file. Time in which the machine was suspended, or gave this process
            or the decoder no processor, does not count.
        memory_limit_bytes: What one process may allocate beyond what it starts with (address space; Linux).
        decoder: "module:function" to be called in place of `decode_image`.

    Raises:
        GvitError: A number is out of range.
    """

    def __init__(
        self,
        workers: int,
        size: int,
        crop: Crop = "none",
        color: Color = "srgb",
        *,
        timeout_s: float = 60.0,
        memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
        decoder: str = "gvit.images.decode:decode_image",
    ) -> None:
        numbers = {"workers": workers, "size": size, "timeout": timeout_s, "memory": memory_limit_bytes}
        for name, number in numbers.items():
            check_limit(name, number, Range(0, above=True))
        self._settings = WorkerSettings(size, crop, color, memory_limit_bytes, decoder, os.getpid())
        self._timeout_s = timeout_s
        self._tick_s = min(_TICK_S, timeout_s / 4)
        self._tasks: deque[_Task] = deque()
        self._suspects: deque[_Task] = deque()  # to be tried once more, each alone
        self._lock = threading.Lock()  # guards _tasks against _stopped
        self._stopped: Exception | None = None
        self._wake_receiver, self._wake_sender = Pipe(duplex=False)
        self._failed_starts = 0
        self._workers: list[_Worker] = []
        self._thread = threading.Thread(target=self._run, args=(workers,), name="decode-pool", daemon=True)
        self._thread.start()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes now; batches that are not finished raise on access. May be called twice."""
        self._stop(RuntimeError("the decode pool is closed"))
        self._thread.join()

    def prefetch(self, images: Sequence[Reference]) -> Prefetch:
        """Begin to decode images in the background, after whatever was asked for before.

        Raises:
            GvitError: The worker processes do not start.
            RuntimeError: The pool is closed.
        """
        batch = Prefetch(len(images))
        with self._lock:
            if self._stopped is not None:
                raise self._stopped
            self._tasks.extend(_Task(batch, i, image) for i, image in enumerate(images))
            self._wake_sender.send_bytes(b"")
        return batch

    # ---------------------------------------- from here on, all but _stop runs in the pool's own thread

    def _run(self, workers: int) -> None:
        try:
            self._workers = [_Worker(self._settings, self._timeout_s) for _ in range(workers)]
            while self._stopped is None:
                self._hand_out()
                self._collect()
                self._end_overdue()
        except Exception as error:  # reaches whoever waits for a batch
            self._stop(error)
        finally:
            self._abandon()

    def _stop(self, reason: Exception) -> None:
        with self._lock:
            if self._stopped is None:
                self._stopped = reason
                self._wake_sender.send_bytes(b"")

    def _hand_out(self) -> None:
        for _ in range(_TASKS_AHEAD):  # first one task for each worker, then a second one
            for worker in list(self._workers):
                if not worker.started or worker.alone:
                    continue
                if self._suspects and worker.fresh:
                    worker.alone = self._hand_to(worker, self._suspects)
                elif self._tasks and len(worker.tasks) < _TASKS_AHEAD:
                    self._hand_to(worker, self._tasks)

    def _hand_to(self, worker: _Worker, tasks: deque[_Task]) -> bool:
        task = tasks.popleft()
        try:
            worker.give(task)
        except OSError:  # it died before this task, so the task is not to blame
            tasks.appendleft(task)
            self._replace(worker)
            return False
        return True

    def _collect(self) -> None:
        """Sleep until something happens, and take what has come."""
        connections = [worker.connection for worker in self._workers]
        timeout = None if all(worker.idle for worker in self._workers) else self._tick_s
        ready = wait([self._wake_receiver, *connections], timeout)
        if self._wake_receiver in ready:
            self._wake_receiver.recv_bytes()
        for worker in [worker for worker in self._workers if worker.connection in ready]:
            self._receive(worker)

    def _receive(self, worker: _Worker) -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._bury(worker, DecodeFailure("the decoder crashed", "crash"))
            return
        if message == OUT_OF_MEMORY:  # by what it still held, or would hold against the next image
            self._bury(worker, message)
        elif isinstance(message, (Decoded, DecodeFailure)):
            worker.finish(message)
        else:
            worker.start()
            self._failed_starts = 0

    def _end_overdue(self) -> None:
        for worker in list(self._workers):
            if worker.is_overdue(2 * self._tick_s):
                self._bury(worker, DecodeFailure(f"decoding took longer than {self._timeout_s:g} s", "time"))

    def _bury(self, worker: _Worker, failure: DecodeFailure) -> None:
        if worker.alone:
            worker.finish(failure)
        elif worker.tasks:
            self._suspects.append(worker.tasks.popleft())
        elif not worker.started:
            self._failed_starts += 1
            if self._failed_starts == _MAX_FAILED_STARTS:
                raise GvitError(
                    "the decode processes do not start; the reason stands above on standard error"
                )
        self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        worker.kill()
        self._tasks.extendleft(reversed(worker.tasks))
        self._workers[self._workers.index(worker)] = _Worker(self._settings, self._timeout_s)

    def _abandon(self) -> None:
        for worker in self._workers:
            worker.kill()
        reason = self._stopped or RuntimeError("the decode pool ended")
        waiting = (self._tasks, self._suspects, *(worker.tasks for worker in self._workers))
        for task in itertools.chain(*waiting):
            task.batch.fail(reason)
        self._tasks.clear()
        with self._lock:  # whoever stopped the pool may be about to wake it
            self._wake_receiver.close()
            self._wake_sender.close()


class Prefetch:
    """A batch that is being decoded; iterating waits for one outcome after the other, in order."""

    def __init__(self, count: int) -> None:
        self._outcomes: list[Outcome | None] = [None] * count
        self._error: Exception | None = None
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._outcomes)

    def __iter__(self) -> Iterator[Outcome]:
        return (self._wait_for(index) for index in range(len(self)))

    def result(self) -> list[Outcome]:
        """Wait for the whole batch.

        Raises:
            GvitError: The worker processes do not start.
            RuntimeError: The pool was closed before the batch was finished.
        """
        return list(self)

    def deliver(self, index: int, outcome: Outcome) -> None:
        """Hand in one outcome (the pool's side)."""
        with self._changed:
            self._outcomes[index] = outcome
            self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """Say that no more outcomes will come (the pool's side)."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _wait_for(self, index: int) -> Outcome:
        with self._changed:
            while (outcome := self._outcomes[index]) is None:
                if self._error is not None:
                    raise self._error
                self._changed.wait()
            return outcome


@dataclass(frozen=True, slots=True)
class _Task:
    batch: Prefetch
    index: int
    image: Reference


class _Worker:
    """Our side of one process, which works on the first of `tasks`; it answers them in order."""

    def __init__(self, settings: WorkerSettings, timeout_s: float) -> None:
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        with theirs:
            self._process = _start(theirs)
        self._timeout_s = timeout_s
        self.tasks: deque[_Task] = deque()
        self.started = False
        self.fresh = True  # nothing has been given to it yet
        self.alone = False  # with a suspect: it is given nothing else until that is done
        self._allowance = Allowance(_START_TIMEOUT_S, self._process.pid)
        with contextlib.suppress(OSError):  # dead already: the next read says so
            self.connection.send(settings)

    @property
    def idle(self) -> bool:
        return self.started and not self.tasks

    def is_overdue(self, most: float) -> bool:
        """Whether it has used up what it may take, of a look at least every `most` seconds."""
        return not self.idle and self._allowance.is_used_up(most)

    def start(self) -> None:
        self.started = True

    def give(self, task: _Task) -> None:
        self.connection.send(task.image)
        self.tasks.append(task)
        self.fresh = False
        if len(self.tasks) == 1:
            self._allowance = Allowance(self._timeout_s, self._process.pid)

    def finish(self, outcome: Outcome) -> None:
        task = self.tasks.popleft()
        self.alone = False
        task.batch.deliver(task.index, outcome)
        self._allowance = Allowance(self._timeout_s, self._process.pid)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.connection.close()


def _start(stdin: socket.socket) -> subprocess.Popen[bytes]:
    # One thread each: the pool is the parallelism. The same path, so that the same modules are found.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),  # noqa: PTH100
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        **_KEEP_FREED_MEMORY,
    }
    return subprocess.Popen(  # noqa: S603  (this interpreter and a module of ours)
        [sys.executable, "-P", "-c", f"from {main.__module__} import main; main()"],
        stdin=stdin.fileno(),
        stdout=subprocess.DEVNULL,
        env=environment,
        process_group=0,  # Ctrl-C is for this process; it ends its workers itself
    )
