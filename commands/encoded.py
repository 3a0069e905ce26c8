"""What an encode, or the estimate of one, says when it is done."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from .output import say

if TYPE_CHECKING:
    from ..pipeline.dry_run import Estimate
    from ..pipeline.run import EncodeSummary

__all__ = ["tell_estimate", "tell_failures", "tell_profiles", "words_of"]

CLASSES_SHOWN = 20


def tell_failures(summary: EncodeSummary) -> None:
    """Name the first images that failed, and why."""
    for source, reason in summary.failures:
        say(f"failed: {source}: {reason}", err=True)
    if summary.failed > len(summary.failures):
        more = summary.failed - len(summary.failures)
        say(f"... and {more} more; the .parquet files hold every reason", err=True)


def tell_profiles(summary: EncodeSummary) -> None:
    """Say how many images had a colour profile that changed them, or could not be used."""
    from ..schemas.text import plural

    if summary.converted:
        say(
            f"converted to sRGB by the colour profiles in them: {plural(summary.converted, 'image')}",
            err=True,
        )
    if summary.profiles_ignored:
        damaged = "colour profiles that are damaged or not for such pixels were ignored"
        say(f"{damaged}: those of {plural(summary.profiles_ignored, 'image')}", err=True)


def words_of(summary: EncodeSummary) -> str:
    """Return what an encode came to, in a line."""
    from ..pictures.progress import three_digits
    from ..schemas.text import plural

    quality = "" if summary.psnr_mean is None else f", mean PSNR {summary.psnr_mean:.2f} dB"
    what = f"{summary.destination}: {plural(summary.images, 'image')}, {summary.failed} failed{quality}"
    if not summary.images_per_second:
        return f"{what} (already complete; {summary.seconds:.1f} s)"
    steps = "" if summary.steps_mean is None else f", {summary.steps_mean:g} steps an image"
    pace = f"{summary.seconds:.1f} s, {three_digits(summary.images_per_second)} images/s{steps} in this run"
    return f"{what} ({pace})"


def tell_estimate(found: Estimate) -> None:
    """Print what an encode would do."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..pictures.progress import plain_bytes, plain_duration
    from ..schemas.text import plural, printable

    def shown(name: str) -> Text:
        return Text(printable(name))

    say(found.understood)
    for title, counts in (("split", found.splits), ("class", found.classes)):
        table = Table(title, "images")
        for name, count in islice(counts.items(), CLASSES_SHOWN):
            table.add_row(shown(name), str(count))
        if len(counts) > CLASSES_SHOWN:
            table.add_row(f"... {len(counts)} in all", str(sum(counts.values())))
        if counts:
            Console().print(table)
    time = (
        "unknown: no probed image can be fitted" if found.seconds is None else plain_duration(found.seconds)
    )
    quality = "" if found.psnr is None else f", about {found.psnr:.1f} dB"
    size = f"about {plain_bytes(found.bytes)}"
    say(f"{plural(found.images, 'image')} in {plural(found.shards, 'shard')}, {size}{quality}")
    if found.done:
        say(f"{found.done} of them are done already in DST, {found.images - found.done} remain")
    if found.deletes:
        say(f"--overwrite would delete {found.deletes} files of DST, {plain_bytes(found.deletes_bytes)}")
    say(f"about {time} on this machine alone for all of them; nothing was written")
