"""The inline engine: one worker in this process, shard after shard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ..worker import FitterFactory, ShardEncoder, WorkerSpec

if TYPE_CHECKING:
    from ...schemas.manifest import DoneMark
    from ..plan import ShardPlan
    from ..progress import Reporter

__all__ = ["run_inline"]


def run_inline(
    spec: WorkerSpec,
    shards: Sequence[ShardPlan],
    report: Reporter,
    *,
    fitter_factory: FitterFactory,
    committed: Callable[[DoneMark], None],
) -> None:
    """Encode the shards in their order; `report` hears how far each is, `committed` of those that are done.

    Raises:
        GvitError: The lease is lost.
        OSError: The destination cannot be written.
    """
    if not shards:
        return
    with ShardEncoder(spec, fitter_factory) as encoder:
        for shard, following in pairwise([*shards, None]):
            if shard is not None:
                committed(encoder.encode(shard, report, following))
