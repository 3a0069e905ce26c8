"""What the paths of a folder's images mean: which folders only contain, which are splits, which classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .split_names import DEFAULT_SPLIT, is_split_word, split_of_folder

__all__ = ["Layout", "understand"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How to read the paths of images.

    Attributes:
        container: Folders that all images lie in and that mean nothing, as `Data/CLS-LOC/`; or "".
        splits: Folder below it to split; without any, all images are of one split.
        beside: Folders beside the splits, whose images are left out, to their number.
    """

    container: str
    splits: Mapping[str, str]
    beside: Mapping[str, int]

    def is_beside(self, source: str) -> bool:
        """Tell whether an image lies beside the splits."""
        return self._parts(source)[0] in self.beside

    def split_of(self, source: str) -> str:
        """Return the split of an image."""
        return self.splits.get(self._parts(source)[0], DEFAULT_SPLIT)

    def class_of(self, source: str) -> str | None:
        """Return the class of an image: the first folder below its split; None where it lies in none."""
        parts = self._parts(source)
        depth = 1 if self.splits else 0
        return parts[depth] if len(parts) > depth + 1 else None

    def _parts(self, source: str) -> list[str]:
        return source[len(self.container) :].split("/", 2)


def understand(sources: Sequence[str]) -> Layout:
    """Find the layout of a folder from the relative paths of its images."""
    container = _container(sources)
    tops = Counter(top for top, slash, _ in (s[len(container) :].partition("/") for s in sources) if slash)
    named = {top: split_of_folder(top) for top in tops}
    splits = {top: split for top, split in named.items() if split is not None}
    words = {splits[top] for top in splits if is_split_word(top)}
    if len(splits) == len(tops) and (words or len(set(splits.values())) > 1):
        return Layout(container, splits, {})
    if DEFAULT_SPLIT in words and len(words) > 1:
        return Layout(container, splits, {top: tops[top] for top in sorted(tops.keys() - splits.keys())})
    return Layout(container, {}, {})


def _container(sources: Sequence[str]) -> str:
    """Go down while one folder, which is no split, holds all images, and none of them directly."""
    container = ""
    while True:
        below = [source[len(container) :] for source in sources]
        tops = {source.partition("/")[0] for source in below if "/" in source}
        if len(tops) != 1:
            return container
        (top,) = tops
        if split_of_folder(top) or any(source.count("/") < 2 for source in below):
            return container
        container += f"{top}/"
