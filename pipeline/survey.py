"""Before the work: the place, the source and the plan of a job, and whether the place can take it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..dataset.class_names import class_names_file
from ..images.accept import check_listing
from ..images.open import list_images, open_source
from ..schemas.errors import GvitError
from ..schemas.urls import as_url
from .config import EncodeConfig, RunConfig, fingerprint
from .place.open import open_place
from .place.run_state import RunState, check_same, holds_work, inspect_place
from .plan import Plan, make_plan

if TYPE_CHECKING:
    from ..images.sources.source import Listing, Source
    from .place.place import Place
    from .place.run_state import Fingerprint

__all__ = ["Survey", "admit", "survey"]


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
    source = open_source(config.source)
    listing = list_images(source, config.hints)
    check_listing(config.source, listing, config.accept)
    plan = make_plan(listing.entries, config.fit.seed, config.shard_size)
    found = Survey(place, source, listing, plan, fingerprint(config, plan, listing.classes))
    class_names_file(config.class_names, listing.classes)
    admit(config.run, found)
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
    if as_url(config.source) is not None:
        return
    source = Path(config.source).resolve()
    if source.is_dir() and place.folder.resolve().is_relative_to(source):
        raise GvitError(f"{place.name} lies in {config.source}; choose a folder outside of it")


def admit(run: RunConfig, found: Survey) -> RunState | None:
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
