"""Groups of duplicates out of links, and which document of each group is kept.

    pairs of candidates  ->  the first candidate of each one's group  ->  the one to keep, of groups of two and more

A forest of trees (Galler and Fischer 1964, CACM 7:5) in one array, in which whole arrays of pairs are united at a time.
A root is the least number of its tree, so the groups don't depend on the order of the pairs. What is held in memory is
5 bytes for each candidate (9, from 2^31 on) and some 90 for each group of two and more.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from stages.dedup.params import DedupParams
from stages.dedup.runs import Run, halves, read_links, read_rows
from stages.documents import read_shard
from stages.minhash import FINGERPRINT_SCHEMA
from stages.words import Bools, Hashes, Ints

Ids = npt.NDArray[np.bytes_]
Column = npt.NDArray[Any]  # of integers or of bytes
Forest = npt.NDArray[np.signedinteger[Any]]
SLICE = 1 << 20  # candidates looked at at once
ID_BYTES = "S32"  # see document_id


def grown(candidates: int, links: Sequence[Path], holds: Callable[[Ints, Ints], Bools]) -> Forest:
    """For each candidate the least one of its group: of all that are connected to it by links that hold.

    The first file of `links` is of equal digests, which always hold. Pairs that are connected already aren't asked of.
    """
    forest: Forest = np.arange(candidates, dtype=np.int32 if candidates < 1 << 31 else np.int64)
    for kind, path in enumerate(links):
        for pairs in read_links(path):
            left, right = pairs["left"], pairs["right"]
            if kind:
                asked = np.flatnonzero(roots(forest, left) != roots(forest, right))
                asked = asked[holds(left[asked], right[asked])]
                left, right = left[asked], right[asked]
            unite(forest, left, right)
    for begin in range(0, candidates, SLICE):
        roots(forest, np.arange(begin, min(begin + SLICE, candidates)))
    return forest


def unite(forest: Forest, left: Ints, right: Ints) -> None:
    """Make one tree of the trees of `left[i]` and `right[i]`, for each i."""
    while len(left):
        left, right = roots(forest, left), roots(forest, right)
        apart = left != right
        left, right = left[apart], right[apart]
        np.minimum.at(forest, np.maximum(left, right), np.minimum(left, right).astype(forest.dtype))


def roots(forest: Forest, candidates: Ints) -> Ints:
    """The roots of the trees that `candidates` are in, to which they are moved up."""
    while True:
        parents = forest[candidates]
        above = forest[parents]
        forest[candidates] = above
        if (parents == above).all():
            return above.astype(np.int64)


@dataclass(frozen=True)
class Members:
    """The candidates of one shard that are in groups of two and more: equally long columns."""

    run: Run
    numbers: Ints
    rows: Ints  # in the shard's fingerprints
    groups: Ints  # places among the roots of all groups
    ids: Ids
    characters: Ints
    digests: Hashes  # shape (members, 2)


class Groups:
    """The groups of two and more, by their roots in a forest."""

    def __init__(self, forest: Forest, runs: Sequence[Run], folder: Path):
        self._forest, self._runs, self._folder = forest, runs, folder
        self._grouped = np.zeros(len(forest), bool)
        for begin in range(0, len(forest), SLICE):
            parents = forest[begin : begin + SLICE]
            children = np.flatnonzero(parents != np.arange(begin, begin + len(parents)))
            self._grouped[begin + children] = self._grouped[parents[children]] = True
        slices = range(0, len(forest), SLICE)
        self.roots = np.concatenate([np.zeros(0, np.int64), *(self._roots_from(begin) for begin in slices)])

    def _roots_from(self, begin: int) -> Ints:
        places = begin + np.flatnonzero(self._grouped[begin : begin + SLICE])
        found: Ints = places[self._forest[places] == places]
        return found

    def members(self) -> Iterator[Members]:
        """The members of groups, run by run."""
        first = 0
        for run in self._runs:
            places = np.flatnonzero(self._grouped[first : first + run.candidates])
            yield self._members_at(run, first, places)
            first += run.candidates

    def _members_at(self, run: Run, first: int, places: Ints) -> Members:
        rows = read_rows(run, self._folder)[places]
        columns = ["id", "characters", "digest"]
        read = (
            read_shard(run.shard.fingerprints, columns)[rows] if len(rows) else pl.DataFrame(schema=FINGERPRINT_SCHEMA)
        )
        groups = np.searchsorted(self.roots, self._forest[first + places])
        ids, characters, digests = (read[name] for name in columns)
        return Members(
            run, first + places, rows, groups, np.array(ids.to_list(), ID_BYTES), characters.to_numpy(), halves(digests)
        )


@dataclass(frozen=True)
class Chosen:
    """Which member of each group is kept: equally long columns."""

    numbers: Ints
    ids: Ids
    digests: Hashes  # shape (groups, 2)
    sizes: Ints  # members of the group


def choose(groups: Groups, params: DedupParams) -> Chosen:
    """The member of each group that comes first by `params.keep`, and in the end by its id."""
    count = len(groups.roots)
    kept = Chosen(
        np.full(count, -1), np.zeros(count, ID_BYTES), np.zeros((count, 2), np.uint64), np.zeros(count, np.int64)
    )
    best: list[Column] = []
    for members in groups.members():
        keys = order_of(members, params)
        best = best or [np.zeros(count, key.dtype) for key in keys]
        first = first_of_groups(members.groups, keys)
        own = members.groups[first]
        better = (kept.numbers[own] < 0) | precedes([key[first] for key in keys], [key[own] for key in best])
        first, own = first[better], own[better]
        for ours, theirs in zip(best, keys, strict=True):
            ours[own] = theirs[first]
        kept.numbers[own], kept.ids[own] = members.numbers[first], members.ids[first]
        kept.digests[own] = members.digests[first]
        np.add.at(kept.sizes, members.groups, 1)
    return kept


def order_of(members: Members, params: DedupParams) -> list[Column]:
    """What the members of one run are ordered by, the first to be kept having the least."""
    source, priority = members.run.shard.source, params.priority
    rank = priority.index(source) if source in priority else len(priority)
    columns: dict[str, Column] = {
        "priority": np.full(len(members.numbers), rank), "length": -members.characters, "id": members.ids,
    }  # fmt: skip
    return [columns[name] for name in (*params.keep, "id")]


def first_of_groups(groups: Ints, keys: Sequence[Column]) -> Ints:
    """The place of the first member of each group that occurs in `groups`, by `keys`."""
    order = np.lexsort([*reversed(keys), groups])
    ordered = groups[order]
    first: Ints = order[np.append(True, ordered[1:] != ordered[:-1])[: len(order)]]
    return first


def precedes(ours: Sequence[Column], theirs: Sequence[Column]) -> Bools:
    """Whether our keys come before theirs, row by row: the first column in which they differ decides."""
    before, tied = np.zeros(len(ours[0]), bool), np.ones(len(ours[0]), bool)
    for one, other in zip(ours, theirs, strict=True):
        before |= tied & (one < other)
        tied &= one == other
    return before
