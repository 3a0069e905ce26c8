"""Where the driver of an encode finds and leaves a dataset: a folder, or a place behind a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ...dataset.commit import atomic_write, sweep_temporaries
from ...dataset.remote.remote import open_remote
from ...dataset.remote.urls import as_url
from ...schemas.encoding import get_encoding
from ..finished import complete, done_mark, tally_of
from ..retry import reopen_shard
from .destination import (
    DATASET_JSON,
    clear_dataset,
    holds_work,
    inspect_destination,
    make_private_folder,
)
from .lease import Lease
from .private_files import PRIVATE
from .run_state import RunState, dump_run_state
from .url_target import UrlTarget

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ...schemas.manifest import DoneMark, Manifest
    from ..config import EncodeConfig
    from ..journal import Journal
    from ..plan import ShardPlan
    from ..progress import Tally
    from .url_lease import UrlLease

__all__ = ["FolderTarget", "Target", "open_target"]


class Target(Protocol):
    """What the driver needs of the place that a dataset goes to."""

    def inspect(self, *, overwrite: bool) -> RunState | None:
        """Look what is there, and change nothing: as `inspect_destination`."""
        ...

    def is_complete(self) -> bool:
        """Tell whether there is what promises that nothing is missing."""
        ...

    def holds_work(self) -> bool:
        """Tell whether any finished block or shard would be lost with the dataset."""
        ...

    def lease(self) -> Lease | UrlLease:
        """Make ready for work, and return the lease that is to be taken."""
        ...

    def clear(self) -> None:
        """Delete the dataset that is there, but not what tells that it was one."""
        ...

    def sweep(self) -> None:
        """Remove what killed runs left on their way."""
        ...

    def save(self, state: RunState) -> None:
        """Note what the dataset is made of."""
        ...

    def withdraw(self) -> None:
        """Take back the promise that nothing is missing."""
        ...

    def done_mark(self, shard: ShardPlan) -> DoneMark | None:
        """Return the done mark of a shard, None where it is not done or its files are not all there."""
        ...

    def tally(self, mark: DoneMark) -> Tally:
        """Sum up what became of the images of a finished shard."""
        ...

    def reopen(self, journal: Journal, shard: ShardPlan, mark: DoneMark, config: EncodeConfig) -> None:
        """Write the blocks of a finished shard into the journal, without its failures."""
        ...

    def complete(
        self, config: EncodeConfig, classes: Sequence[str], marks: Sequence[DoneMark]
    ) -> tuple[Manifest, tuple[tuple[str, str], ...]]:
        """Write all that makes a dataset of finished shards; return the manifest and the first failures."""
        ...


class FolderTarget:
    """A folder on a disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def inspect(self, *, overwrite: bool) -> RunState | None:
        """Look what is there, and change nothing."""
        return inspect_destination(self._folder, overwrite=overwrite)

    def is_complete(self) -> bool:
        """Tell whether there is a manifest."""
        return (self._folder / DATASET_JSON).exists()

    def holds_work(self) -> bool:
        """Tell whether any finished block or shard would be lost with the dataset."""
        return holds_work(self._folder)

    def lease(self) -> Lease:
        """Create the folder where it is missing, and return the lease that is to be taken."""
        return Lease(make_private_folder(self._folder))

    def clear(self) -> None:
        """Delete the files of the dataset and nothing else."""
        clear_dataset(self._folder)

    def sweep(self) -> None:
        """Remove the temporaries of killed runs."""
        sweep_temporaries(self._folder)
        sweep_temporaries(self._folder / PRIVATE)

    def save(self, state: RunState) -> None:
        """Note what the dataset is made of."""
        atomic_write(self._folder / PRIVATE / "run.json", dump_run_state(state))

    def withdraw(self) -> None:
        """Remove the manifest."""
        (self._folder / DATASET_JSON).unlink(missing_ok=True)

    def done_mark(self, shard: ShardPlan) -> DoneMark | None:
        """Return the done mark of a shard that is done."""
        return done_mark(self._folder, shard)

    def tally(self, mark: DoneMark) -> Tally:
        """Sum up what became of the images of a finished shard."""
        return tally_of(self._folder, mark)

    def reopen(self, journal: Journal, shard: ShardPlan, mark: DoneMark, config: EncodeConfig) -> None:
        """Write the blocks of a finished shard into the journal, without its failures."""
        reopen_shard(
            journal,
            shard,
            mark,
            destination=self._folder,
            encoding=get_encoding(config.encoding),
            num_gaussians=config.fit.num_gaussians,
        )

    def complete(
        self, config: EncodeConfig, classes: Sequence[str], marks: Sequence[DoneMark]
    ) -> tuple[Manifest, tuple[tuple[str, str], ...]]:
        """Write card, arrays, checksums and manifest."""
        return complete(config, classes, marks)


def open_target(destination: Path) -> Target:
    """Return the place that a destination names: a folder, or a path made of a URL.

    Raises:
        GvitError: No dataset can be written to such a URL, or its package is missing.
    """
    url = as_url(destination)
    return FolderTarget(destination) if url is None else UrlTarget(destination, open_remote(url))
