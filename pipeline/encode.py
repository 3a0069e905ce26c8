"""The whole job: survey the source, plan, take the lease, let the engine work, write manifest and card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from ..images.understood import understood
from ..pictures.progress import say_on
from .install import check_install, factory_of
from .place.lease import Lease
from .run import EncodeSummary, Run
from .survey import survey

if TYPE_CHECKING:
    from .config import EncodeConfig
    from .worker import FitterFactory

__all__ = ["encode"]


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
    say_on(console, understood(found.listing))
    try:
        found.place.prepare()
        with Lease(found.place) as lease:
            return Run(config, found, lease.claim, console, fitter_factory).run()
    except OSError as error:
        explained = found.place.explain(error)
        if explained is None:
            raise
        raise explained from error
