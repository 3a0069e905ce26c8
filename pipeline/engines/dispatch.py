"""Who does what next: shards in their order, and what is done about those that kill their workers.

Plain bookkeeping without any I/O. A shard that has killed two workers is suspected to hold an image that does
so; then its block in flight is tried in parts, each half of the one before it that died, until the images
stand alone that kill a worker twice. Those are given up, and the shard goes on without them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..plan import BlockPlan

if TYPE_CHECKING:
    from ..plan import ShardPlan

__all__ = ["DEATHS_BEFORE_SUSPICION", "MAX_DEATHS_IN_A_ROW", "Dispatch", "Task"]

DEATHS_BEFORE_SUSPICION = 2
"""How often a shard, or an image that stands alone, may kill its worker; one death may be anybody's fault."""

MAX_DEATHS_IN_A_ROW = 24
"""Deaths without any success in between after which it is not the images: a poisoned block needs up to 12."""


@dataclass(frozen=True, slots=True)
class Task:
    """Encode a shard, or try only a part of one of its blocks."""

    shard: ShardPlan
    part: BlockPlan | None = None


class Dispatch:
    """Tasks that wait, and what is known of deaths. The parts of one shard are tried one at a time."""

    def __init__(self, shards: Iterable[ShardPlan]) -> None:
        self._waiting = deque(Task(shard) for shard in shards)
        self._out = 0
        self._deaths: Counter[tuple[str, str]] = Counter()  # (shard, key or nothing)
        self._suspects: dict[str, list[BlockPlan]] = {}
        self.deaths_in_a_row = 0

    @property
    def waiting(self) -> int:
        """Tasks that nobody has."""
        return len(self._waiting)

    @property
    def unfinished(self) -> int:
        """Tasks that wait or are under way."""
        return len(self._waiting) + self._out

    def take(self) -> Task | None:
        """Hand out the next task, None where none waits."""
        if not self._waiting:
            return None
        self._out += 1
        return self._waiting.popleft()

    def put_back(self, task: Task) -> None:
        """Take a task back that was not begun."""
        self._out -= 1
        self._waiting.appendleft(task)

    def finished(self, task: Task) -> None:
        """Count a task as done."""
        self._out -= 1
        self.deaths_in_a_row = 0
        if task.part is not None:
            self._go_on(task.shard)

    def died(self, task: Task, in_flight: BlockPlan | None) -> BlockPlan | None:
        """Count a death, and return the part (of one image) that is given up for it, if any.

        Args:
            task: During which a worker died.
            in_flight: Entries that are not journaled of the shard's first block that has such, None where
                all are. Looked at only when a shard becomes suspect.
        """
        self._out -= 1
        self.deaths_in_a_row += 1
        if task.part is not None:
            return self._part_died(task.shard, task.part)
        name = task.shard.name
        self._deaths[name, ""] += 1
        if self._deaths[name, ""] >= DEATHS_BEFORE_SUSPICION and in_flight is not None:
            self._suspects[name] = _halves(in_flight)
        self._go_on(task.shard)
        return None

    def _part_died(self, shard: ShardPlan, part: BlockPlan) -> BlockPlan | None:
        parts = self._suspects[shard.name]
        if len(part.entries) != 1:
            parts.extend(_halves(part))
            self._go_on(shard)
            return None
        image = shard.name, part.entries[0].key
        self._deaths[image] += 1
        given_up = self._deaths[image] >= DEATHS_BEFORE_SUSPICION
        if not given_up:
            parts.append(part)
        self._go_on(shard)
        return part if given_up else None

    def _go_on(self, shard: ShardPlan) -> None:
        """Let the next part of a shard be tried, or the whole of it where no part is left."""
        parts = self._suspects.get(shard.name)
        if parts:
            self._waiting.appendleft(Task(shard, parts.pop()))
            return
        if self._suspects.pop(shard.name, None) is not None:
            del self._deaths[shard.name, ""]  # the next suspect in it begins anew
        self._waiting.appendleft(Task(shard))


def _halves(part: BlockPlan) -> list[BlockPlan]:
    """Cut a part in two, the first half last: parts are taken from the end. One image stays as it is."""
    if len(part.entries) == 1:
        return [part]
    middle = len(part.entries) // 2
    return [BlockPlan(part.first, part.entries[middle:]), BlockPlan(part.first, part.entries[:middle])]
