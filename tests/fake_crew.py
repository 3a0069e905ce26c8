"""Fitters that kill, and a crew of workers in this process whose deaths are exceptions."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import replace

import numpy as np

import fake_encode as fake
from gvit.pipeline.engines.driver import WorkerDied
from gvit.pipeline.engines.remote_worker import RemoteWorker, read_worker
from gvit.pipeline.place.folder import Folder

DEADLY, GREEDY, STUCK = 11, 22, 33
"""An image that is this gray all over kills its worker, wants too much memory, or is never finished."""


class DeathError(Exception):
    pass


def die():
    raise DeathError


class HostileFitter(fake.FakeFitter):
    """The fake fitter, but some images end it: `die` says how."""

    die = staticmethod(die)
    hang_seconds = 1e6

    def fit(self, targets, keys):
        grays = {int(target[0, 0, 0]) for target in targets if (target == target[0, 0, 0]).all()}
        if DEADLY in grays:
            self.die()
        if GREEDY in grays:
            raise MemoryError
        if STUCK in grays:
            time.sleep(self.hang_seconds)
        return super().fit(targets, keys)


def add_poison(root, name, gray):
    fake.save_image(root / name, np.full((8, 8, 3), gray))


class LocalCrew:
    """Workers that live here: a call is done when it is awaited; whatever it raises was a death."""

    def __init__(self, change=lambda order: order):
        self.change = change
        self.workers = []
        self.most_in_hand = 0

    def hire(self, order):
        worker = RemoteWorker(self.change(replace(order, own_log=False)))
        worker.calls, worker.alive = [], True
        self.workers.append(worker)
        return worker

    def call(self, worker, method, *arguments):
        call = (worker, method, arguments, [])
        worker.calls.append(call)
        self.most_in_hand = max(self.most_in_hand, len(worker.calls))
        return call

    def wait(self, calls, seconds):
        for worker, method, arguments, answer in calls:
            if not answer:
                try:
                    answer.append(getattr(worker, method)(*arguments))
                except Exception as error:
                    answer.append(WorkerDied(type(error).__name__))
            return True
        return False

    def answer(self, call):
        call[0].calls.remove(call)
        (answer,) = call[3]
        if isinstance(answer, WorkerDied):
            raise answer
        return answer

    def end(self, worker):
        worker.alive = False
        worker.close()


# ---------------------------------------------------------------- real ones


def slow(seconds):
    class SlowFitter(fake.FakeFitter):
        pass

    SlowFitter.seconds = seconds
    return SlowFitter


def worker_pids(destination):
    """Process ids of the workers that show themselves."""
    names = [path.stem for path in destination.glob(".gvit/workers/worker-*.json")]
    return [state.pid for name in names if (state := read_worker(Folder(destination), name))]


def kill_workers(destination, kills, seed, finished):
    """Kill random workers at random moments until `finished`; return how many died of it."""
    chance = random.Random(seed)
    died = set()
    while len(died) < kills and not finished.is_set():
        time.sleep(chance.uniform(0.05, 0.6))
        alive = [pid for pid in worker_pids(destination) if pid not in died]
        if alive:
            pid = chance.choice(alive)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            died.add(pid)
    return len(died)
