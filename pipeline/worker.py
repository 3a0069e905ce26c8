"""The worker: fits and commits whole shards. A plain class that any engine can put where the cores are."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..fitting.config import FitConfig
from ..images.decode import Crop, Decoded
from ..images.decode_pool import MEMORY_LIMIT_BYTES, DecodeFailure, DecodePool, Prefetch
from ..schemas.checksums import EXTRA_SUFFIX
from ..schemas.encoding import ENCODINGS
from ..schemas.errors import GvitError
from ..schemas.extra_rows import extra_parquet
from ..schemas.rows import MAX_PSNR, Row
from ..schemas.shards import BlockArrays
from .failures import StoppedError
from .journal import BlockResult, Journal, Outcome
from .progress import Progress, Reporter
from .seen import Seen, write_seen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..fitting.fitter import FitResult, Fitter
    from ..images.color import Color
    from ..images.sources.extras import Extras
    from ..images.sources.images import Entry
    from ..images.sources.source import Source
    from ..schemas.manifest import DoneMark
    from .place.lease import Claim
    from .place.place import Place
    from .plan import BlockPlan, ShardPlan

__all__ = ["FitterFactory", "ShardEncoder", "WorkerSpec", "quarantine", "write_extra"]


_OUT_OF_MEMORY = "OutOfMemoryError"  # of torch, which a CPU need not have
_AHEAD = 2  # batches that are decoded while one is fitted

FitterFactory = Callable[[FitConfig, str, int, str], "Fitter"]
"""(config, encoding, threads, device) -> a fitter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """All that a worker needs to know, in plain values that can be sent to another process.

    `batch` images are fitted at once on `device` ("cpu" or "cuda") with so many `threads`; `decoders`
    processes decode; `claim` stands for the lease; `attempt` (letters, digits, - and _) names the temporary
    files of this worker, so that it differs from that of any other that may still be alive; `extras` knows
    what is kept of images beyond their rows.
    """

    place: Place
    source: Source
    fit: FitConfig
    crop: Crop
    color: Color
    encoding: str
    batch: int
    device: str
    threads: int
    decoders: int
    claim: Claim
    attempt: str
    extras: Extras | None = None

    @property
    def journal(self) -> Journal:
        """The journal of the dataset."""
        return Journal(self.place)

    def absolute(self) -> WorkerSpec:
        """Return a spec that means the same in another working directory."""
        place = self.place.absolute()
        return replace(
            self, place=place, source=self.source.absolute(), claim=replace(self.claim, place=place)
        )


Batch: TypeAlias = "tuple[Entry, ...]"
"""Entries that are decoded and fitted together; all of one block."""


class ShardEncoder:
    """Encodes shards one at a time; a `with` body bounds the life of its decoding processes.

    While one batch is fitted the next two are decoded, so that neither side waits for the other to look up.
    """

    def __init__(self, spec: WorkerSpec, fitter_factory: FitterFactory) -> None:
        self._spec = spec
        self._journal = spec.journal
        self._fitter = fitter_factory(spec.fit, spec.encoding, spec.threads, spec.device)
        self._pool = DecodePool(
            workers=spec.decoders,
            size=spec.fit.size,
            crop=spec.crop,
            color=spec.color,
            memory_limit_bytes=MEMORY_LIMIT_BYTES + spec.source.reading_bytes,
        )
        self._ahead: deque[tuple[Batch, Prefetch]] = deque()
        self._began = False

    def __enter__(self) -> ShardEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def encode(self, shard: ShardPlan, report: Reporter, following: ShardPlan | None = None) -> DoneMark:
        """Fit what the journal does not hold yet of a shard, and commit the shard.

        Args:
            shard: What to encode.
            report: Told after each batch, and of what the journal held.
            following: The shard after this one, so that its first batch is decoded meanwhile.

        Raises:
            GvitError: The lease is lost.
            OSError: The destination cannot be written.
        """
        self._spec.source.prepare(chain(shard.entries, following.entries if following else ()))
        results: list[BlockResult] = []
        blocks = shard.blocks()
        add = _adding_up(shard, report)
        for i, block in enumerate(blocks):
            later = self._pending(shard, blocks[i + 1 :])
            if following is not None:
                later = chain(later, self._pending(following, following.blocks()))
            results.append(self._block(shard, block, block.entries, add, later))
        mark = self._commit(shard, results)
        self._journal.remove(shard.name)
        return mark

    def encode_part(self, shard: ShardPlan, part: BlockPlan, report: Reporter) -> None:
        """Fit and journal only these entries of one block of a shard, and commit nothing.

        Raises:
            GvitError: The lease is lost.
            OSError: The destination cannot be written.
        """
        block, add = shard.block_of(part), _adding_up(shard, report)
        self._block(shard, block, part.entries, add, iter(()))

    def _block(
        self,
        shard: ShardPlan,
        block: BlockPlan,
        entries: Sequence[Entry],
        add: Callable[[Progress], None],
        later: Iterator[Batch],
    ) -> BlockResult:
        """Return what is known of a block from the journal, and of these entries of it in any case."""
        known = self._journal.read(shard.name, block.first, block.keys)
        parts = [] if known is None else [known]
        for part in parts:
            add(_progress(part))
        batches = self._batches(entries, known)
        if batches and not self._began:  # a short first batch: whoever looks sees soon that images come out
            self._began = True
            head, tail = batches[0][: self._spec.threads], batches[0][self._spec.threads :]
            batches = [part for part in (head, tail, *batches[1:]) if part]
        following = [*batches, *islice(later, _AHEAD)] if batches else []
        for i, batch in enumerate(batches):
            upcoming = following[i + 1 : i + 1 + _AHEAD]
            decoded = self._decoded(batch, upcoming)
            part, cost, fitted = self._fit(batch, decoded)
            parts.append(part)
            fresh = replace(_progress(part), fresh=len(part.outcomes), cost_sum=cost, fitted=fitted)
            add(fresh + _profiles(decoded))
        result = _merge(block.keys, parts)
        if batches:
            self._spec.claim.require()  # or it may be another dataset's journal by now
            self._journal.write(shard.name, block.first, result)
        return result

    def _batches(self, entries: Sequence[Entry], known: BlockResult | None) -> list[Batch]:
        done = set() if known is None else {outcome.key for outcome in known.outcomes}
        todo = [entry for entry in entries if entry.key not in done]
        step = self._spec.batch
        return [tuple(todo[at : at + step]) for at in range(0, len(todo), step)]

    def _pending(self, shard: ShardPlan, blocks: Sequence[BlockPlan]) -> Iterator[Batch]:
        for block in blocks:
            known = self._journal.read(shard.name, block.first, block.keys)
            yield from self._batches(block.entries, known)

    def _decoded(self, batch: Batch, upcoming: Sequence[Batch]) -> list[Decoded | DecodeFailure]:
        """Wait for a batch to be decoded, while those after it begin."""
        known = dict(self._ahead)
        self._ahead.clear()
        for each in (batch, *upcoming):
            self._ahead.append((each, known[each] if each in known else self._prefetch(each)))
        outcomes = self._ahead.popleft()[1].result()
        unread = [i for i, outcome in enumerate(outcomes) if _is_unread(outcome)]
        if unread:  # a disk that was away for a moment is no property of an image
            self._require_source()
            again = self._prefetch(tuple(batch[i] for i in unread)).result()
            for i, outcome in zip(unread, again, strict=True):
                outcomes[i] = outcome
            self._require_source()
        return outcomes

    def _require_source(self) -> None:
        source, name = self._spec.source, self._spec.place.name
        if not source.is_there():
            raise StoppedError(
                f"{source.root} is gone, or empty; {name} stays incomplete and what is done is kept: "
                "mount it again, then run the same command again"
            )

    def _prefetch(self, batch: Batch) -> Prefetch:
        return self._pool.prefetch([self._spec.source.reference(entry) for entry in batch])

    def _fit(
        self, batch: Batch, decoded: Sequence[Decoded | DecodeFailure]
    ) -> tuple[BlockResult, float, int]:
        """Fit those images of a batch that could be decoded; also returns the cost and how many there are."""
        pairs = list(zip(batch, decoded, strict=True))
        images = [(entry, image) for entry, image in pairs if isinstance(image, Decoded)]
        fitted: dict[str, Outcome] = {}
        stored, cost = _no_sets(self._spec), 0.0
        if images:
            pixels, keys = np.stack([image.pixels for _, image in images]), [e.key for e, _ in images]
            parts = self._fits(pixels, keys)
            cost = sum(float(part.cost.sum()) for part in parts)
            stored = np.concatenate([part.stored[[e is None for e in part.errors]] for part in parts])
            results = (found for part in parts for found in zip(part.psnr, part.errors, strict=True))
            fitted = {
                entry.key: _fitted(entry, image, float(psnr), error)
                for (entry, image), (psnr, error) in zip(images, results, strict=True)
            }
        outcomes = (
            fitted[entry.key] if isinstance(image, Decoded) else _undecoded(entry, image)
            for entry, image in pairs
        )
        return BlockResult(tuple(outcomes), stored), cost, len(images)

    def _fits(self, pixels: NDArray[np.uint8], keys: list[str]) -> list[FitResult]:
        """Fit a batch; in halves where a GPU has too little memory for the whole, which changes no byte."""
        try:
            return [self._fitter.fit(pixels, keys)]
        except RuntimeError as error:
            if type(error).__name__ != _OUT_OF_MEMORY:
                raise
            if len(keys) == 1:
                raise GvitError(
                    "the GPU has too little free memory to fit even one image; end what else uses it"
                ) from error
        middle = len(keys) // 2
        return [*self._fits(pixels[:middle], keys[:middle]), *self._fits(pixels[middle:], keys[middle:])]

    def _commit(self, shard: ShardPlan, results: Sequence[BlockResult]) -> DoneMark:
        entries = {entry.key: entry for entry in shard.entries}
        stored = [
            BlockArrays(block.first, result.gaussians, _labels(result, entries))
            for block, result in zip(shard.blocks(), results, strict=True)
            if len(result.gaussians)
        ]
        spec, outcomes = self._spec, [outcome for result in results for outcome in result.outcomes]
        if spec.extras is not None:
            write_extra(spec.place, shard, spec.extras)
        mark = spec.place.commit(
            shard.name,
            stored,
            _rows(shard, outcomes),
            split=shard.split,
            attempt=spec.attempt,
            still_ours=spec.claim.still_ours,
        )
        seen = Seen(tuple(o.bytes for o in outcomes), tuple(o.mtime_ns for o in outcomes))
        write_seen(spec.place, shard.name, seen)
        return mark


def write_extra(place: Place, shard: ShardPlan, extras: Extras) -> None:
    """Write what is known of the images of a shard beyond their rows.

    Raises:
        GvitError: It cannot be read.
        OSError: The destination cannot be written.
    """
    entries = list(shard.entries)
    data = extra_parquet([entry.key for entry in entries], extras.of(entries), extras.columns)
    place.write(f"{shard.name}.{EXTRA_SUFFIX}", data)


def _adding_up(shard: ShardPlan, report: Reporter) -> Callable[[Progress], None]:
    """Return what is told of parts of a shard, and reports all of them so far."""
    total = Progress()

    def add(part: Progress) -> None:
        nonlocal total
        total += part
        report(shard.name, total)

    return add


def quarantine(spec: WorkerSpec, shard: ShardPlan, part: BlockPlan, reason: str) -> None:
    """Journal the entries of a part of a block as failed, so that no worker touches them again.

    Raises:
        GvitError: The lease is lost.
        OSError: The destination cannot be written.
    """
    journal, block = spec.journal, shard.block_of(part)
    known = journal.read(shard.name, block.first, block.keys)
    failed = tuple(_undecoded(entry, DecodeFailure(reason, "worker")) for entry in part.entries)
    parts = [] if known is None else [known]
    spec.claim.require()
    result = _merge(block.keys, [*parts, BlockResult(failed, _no_sets(spec))])
    journal.write(shard.name, block.first, result)


def _no_sets(spec: WorkerSpec) -> NDArray[Any]:
    encoding = ENCODINGS[spec.encoding]
    return np.empty((0, spec.fit.num_gaussians, encoding.columns), encoding.dtype)


def _fitted(entry: Entry, image: Decoded, psnr: float, error: str | None) -> Outcome:
    kept = min(psnr, MAX_PSNR) if error is None else None
    length, time = image.stat or (None, None)
    said = None if error is None else f"fit: {error}"
    return Outcome(entry.key, image.width, image.height, kept, said, image.sha256, length, time)


def _undecoded(entry: Entry, failure: DecodeFailure) -> Outcome:
    return Outcome(entry.key, None, None, None, failure.error, None)


def _is_unread(outcome: Decoded | DecodeFailure) -> bool:
    return isinstance(outcome, DecodeFailure) and outcome.kind == "read"


def _profiles(decoded: Sequence[Decoded | DecodeFailure]) -> Progress:
    counts = Counter(image.profile for image in decoded if isinstance(image, Decoded))
    return Progress(converted=counts["converted"], ignored=counts["ignored"])


def _progress(result: BlockResult) -> Progress:
    psnrs = [outcome.psnr for outcome in result.outcomes if outcome.psnr is not None]
    reasons = [outcome.error for outcome in result.outcomes if outcome.error is not None]
    return Progress(len(psnrs), len(reasons), sum(psnrs), reason=reasons[-1] if reasons else "")


def _merge(keys: Sequence[str], parts: Sequence[BlockResult]) -> BlockResult:
    """Put parts of a block together in the order of `keys`: its bytes do not tell how it came about."""
    outcomes = {outcome.key: outcome for part in parts for outcome in part.outcomes}
    stored = {key: values for part in parts for key, values in part.stored().items()}
    rows = [stored[key] for key in keys if key in stored]
    gaussians = np.stack(rows) if rows else parts[0].gaussians[:0]
    return BlockResult(tuple(outcomes[key] for key in keys if key in outcomes), gaussians)


def _labels(result: BlockResult, entries: dict[str, Entry]) -> NDArray[np.int64]:
    return np.array([entries[o.key].label for o in result.outcomes if o.error is None], np.int64)


def _rows(shard: ShardPlan, outcomes: Sequence[Outcome]) -> list[Row]:
    """Make the rows of a shard: one per entry, in plan order, the stored ones numbered."""
    rows: list[Row] = []
    stored = 0
    for entry, outcome in zip(shard.entries, outcomes, strict=True):
        ok = outcome.error is None
        rows.append(
            Row(
                key=entry.key,
                split=entry.split,
                label=entry.label,
                class_name=entry.class_name,
                source=entry.source,
                width=outcome.width,
                height=outcome.height,
                psnr=outcome.psnr,
                status="ok" if ok else "failed",
                error=outcome.error,
                shard=shard.name,
                row=stored if ok else None,
                source_sha256=outcome.source_sha256,
            )
        )
        stored += ok
    return rows
