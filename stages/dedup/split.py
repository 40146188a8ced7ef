"""The held-out split: which kept documents are for evaluation alone."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.words import Bools

Draws = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Kept:
    """How many documents of a source, or of a shard of it, are kept, and the least and the greatest of their draws."""

    documents: int
    least: float
    greatest: float


def draws_of(ids: Iterable[str], seed: int) -> Draws:
    """A number in [0, 1) for each id that depends on it and `seed` alone."""
    return np.array([draw(id, seed) for id in ids], np.float64)


def draw(id: str, seed: int) -> float:
    """A number in [0, 1) that depends on `id` and `seed` alone."""
    digest = hashlib.blake2b(f"{seed}\0{id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def kept_of(draws: Draws) -> Kept:
    """Documents with these draws."""
    return Kept(len(draws), float(draws.min(initial=1.0)), float(draws.max(initial=0.0)))


def joined(parts: Iterable[Kept]) -> Kept:
    """Those of a source out of those of its shards."""
    listed = list(parts)
    least, greatest = min(each.least for each in listed), max(each.greatest for each in listed)
    return Kept(sum(each.documents for each in listed), least, greatest)


def held_out(draws: Draws, share: float, source: Kept) -> Bools:
    """Whether each of some documents of `source`, by their draws, is held out.

    A source of two or more documents has at least one in each split, unless nothing is to be held out:
    the one with the least draw is held out, the one with the greatest is not.
    """
    held: Bools = ((draws < share) | ((draws == source.least) & (share > 0))) & (draws != source.greatest)
    return held
