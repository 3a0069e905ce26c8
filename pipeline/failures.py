"""How many images may fail before it is not the images: an encode stops then, and completes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ..schemas.errors import GvitError

if TYPE_CHECKING:
    from .progress import Progress

__all__ = ["DEFAULT_COUNT", "DEFAULT_SHARE", "FailureLimit", "StoppedError"]

DEFAULT_COUNT, DEFAULT_SHARE = 32, 0.05


class StoppedError(GvitError):
    """The encode has stopped before its end, since images fail that need not be to blame."""


@dataclass(frozen=True, slots=True)
class FailureLimit:
    """Too many have failed where they are more than `count` and more than `share` (0..1) of those tried.

    Before all are tried, `first` of them are too few to tell a share by.
    """

    count: int = DEFAULT_COUNT
    share: float = DEFAULT_SHARE
    first: int = 0

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """Read `N` or `P%`; None is the default: more than 32 and more than 5 %.

        Raises:
            GvitError: It is neither.
        """
        if text is None:
            return cls()
        number = text.removesuffix("%")
        if not number.isdecimal() or not number.isascii() or (number != text and int(number) > 100):
            raise GvitError(f"max-failures must be a whole number, or a share as 5%, not {text!r}")
        if number == text:
            return cls(int(text), 0.0)
        return cls(0, int(number) / 100, DEFAULT_COUNT)

    def check(self, progress: Progress, name: str, *, ended: bool = False) -> None:
        """Check what became of the images that were tried so far.

        Raises:
            StoppedError: Too many have failed.
        """
        failed, tried = progress.failed, progress.images
        least = self.count if ended else max(self.count, self.first)
        if failed > least and failed > self.share * tried:
            raise StoppedError(
                f"{failed} of the {tried} images tried have failed (the last one: {progress.reason}), so it "
                f"may not be the images; {name} stays incomplete and what is done is kept: see to it, then "
                "run the same command again, which tries them again, or accept them with --max-failures 100%"
            )
