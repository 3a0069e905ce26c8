"""Random numbers that are a pure function of what they are for, not of when or where they are drawn.

Every random choice of training is keyed by (seed, epoch, sample, stream). So it is the same on any number of
ranks, in any batch, on any device, and after any resume: there is no generator whose state could be lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Epoch", "epoch_keys", "hashes", "uniform"]

Epoch: TypeAlias = int | Mapping[str, Tensor]
"""An epoch by its number, or by the keys of its streams: those may differ without another compiled graph."""

# SplitMix64 (Steele, Lea and Flood 2014): a counter times the golden ratio, then a bijective finaliser.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_INVERSE = 0xF1DE83E19937733D - (1 << 64)  # of it, modulo 2^64
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_FLOAT_BITS = 24  # a float32 holds that many exactly


def _shift_right(words: Tensor, bits: int) -> Tensor:
    """Shift as if the words had no sign, which torch does not offer for 64 bits."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _mix(words: Tensor) -> Tensor:
    words = (words ^ _shift_right(words, 30)) * _FIRST
    words = (words ^ _shift_right(words, 27)) * _SECOND
    return words ^ _shift_right(words, 31)


def _key(seed: int, epoch: int, stream: str | int) -> int:
    digest = hashlib.blake2b(f"{seed}/{epoch}/{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def epoch_keys(seed: int, epoch: int, streams: Iterable[str], device: torch.device) -> dict[str, Tensor]:
    """Return the keys of streams in an epoch, int64 scalars, that ``hashes`` takes in place of its number."""
    return {stream: torch.tensor(_key(seed, epoch, stream), device=device) for stream in streams}


def hashes(seed: int, epoch: Epoch, samples: Tensor, stream: str | int, count: int = 1) -> Tensor:
    """Return random 64-bit words, equally likely, by (seed, epoch, sample, stream) and their number.

    Different samples never share the word of the same number, so sorting by it is a shuffle without ties.

    Args:
        seed: any integer.
        epoch: any integer, or the keys of its streams.
        samples: int64 ``[B]``, the index of each sample in the dataset.
        stream: names the choice, so that two choices about one sample are independent.
        count: words per sample.

    Returns:
        int64 ``[B, count]`` on the device of ``samples``, of all 2^64 values.
    """
    key = _key(seed, epoch, stream) if isinstance(epoch, int) else epoch[str(stream)]
    state = _mix(samples.long() ^ key)
    # state + number * _GOLDEN, in a form whose numbers torch's compiler does not multiply beyond 64 bits
    numbers = torch.arange(1, count + 1, device=samples.device)
    return _mix((state[:, None] * _INVERSE + numbers) * _GOLDEN)


def uniform(seed: int, epoch: Epoch, samples: Tensor, stream: str | int, count: int = 1) -> Tensor:
    """Return numbers uniform in ``[0, 1)``, float32 ``[B, count]``; arguments as for ``hashes``."""
    words = _shift_right(hashes(seed, epoch, samples, stream, count), 64 - _FLOAT_BITS)
    return words.float() * 2.0**-_FLOAT_BITS
