"""What names say of splits, as the Hugging Face hub reads them: whole words, in any case.

The words are those of https://huggingface.co/docs/hub/datasets-file-names-and-splits.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

__all__ = ["DEFAULT_SPLIT", "is_split_word", "split_named_by_file", "split_of_folder"]

DEFAULT_SPLIT = "train"
"""The split of images that lie in no split folder."""

_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words}


def is_split_word(name: str) -> bool:
    """Tell whether a name is the name of a split and nothing else."""
    return name.lower() in _SPLIT_OF_WORD


def split_of_folder(name: str) -> str | None:
    """Return the split that a folder's name speaks of, as `train_set` does; None where it is none or two."""
    found = set(_splits_in(name))
    return found.pop() if len(found) == 1 else None


def split_named_by_file(path: str) -> str | None:
    """Return the split of a file of many images: of the first word of its name, or of a folder, that is one.

    `train-000.tar`, `imagenet1k-validation-00.tar`, `data/test-00000-of-00001.parquet` and `val/0000.tar` say
    what they hold; of everything else it is not known.
    """
    parts = PurePosixPath(path).parts
    for part in (parts[-1].rpartition(".")[0], *reversed(parts[:-1])):
        found = _splits_in(part)
        if found:
            return found[0]
    return None


def _splits_in(name: str) -> list[str]:
    return [_SPLIT_OF_WORD[word] for word in re.findall("[a-z]+", name.lower()) if word in _SPLIT_OF_WORD]
