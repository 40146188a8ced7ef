"""Which links hold: how similar the two documents of each pair are, by their whole signatures or by their texts.

A band of few hashes brings almost all similar pairs together, and many that aren't; what all hashes say of a pair, and
its true Jaccard similarity, if that is asked for, decides. Only what belongs to the pairs at hand is read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.dedup.params import DedupParams
from stages.dedup.runs import Run, read_rows, read_signatures
from stages.documents import read_blocks, shard_paths
from stages.minhash import FingerprintParams, Shingles, Signatures, shingles, similarities
from stages.words import Bools, Ints

DOCUMENTS = Path("data/extract")
PAIRS = 1 << 17  # whose signatures are in memory together: 60 MB
TEXTS = 1 << 13  # pairs whose shingles are


@dataclass(frozen=True)
class Check:
    """What the pairs of candidates of these runs have to pass."""

    runs: Sequence[Run]
    folder: Path
    params: DedupParams
    made: FingerprintParams

    def holds(self, left: Ints, right: Ints) -> Bools:
        """Whether each pair of `left` and `right` is similar enough to be linked."""
        held = np.ones(len(left), bool)
        if self.params.min_similarity is not None:
            for part in parts(len(left), PAIRS):
                shares = similarities(self.signatures(left[part]), self.signatures(right[part]))
                held[part] = shares >= self.params.min_similarity
        if self.params.verify is not None:
            places = np.flatnonzero(held)
            for part in parts(len(places), TEXTS):
                own = places[part]
                held[own] = self.jaccard(left[own], right[own]) >= self.params.verify
        return held

    def signatures(self, numbers: Ints) -> Signatures:
        """The signatures of the candidates with these numbers."""
        found = np.empty((len(numbers), self.made.hashes), np.uint16)
        for run, places, rows in self._by_run(numbers):
            found[places] = read_signatures(run.shard.signatures)[rows]
        return found

    def jaccard(self, left: Ints, right: Ints) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        """The Jaccard similarity of the shingles of each pair; 0 where one has none."""
        sets: dict[int, Shingles] = {}
        for run, places, rows in self._by_run(wanted := np.unique(np.concatenate([left, right]))):
            own = dict(zip(rows.tolist(), wanted[places].tolist(), strict=True))
            sets |= {own[row]: each for row, each in self._shingles(run, rows)}
        pairs = [(sets[one], sets[other]) for one, other in zip(left.tolist(), right.tolist(), strict=True)]
        common = np.array([len(np.intersect1d(one, other, assume_unique=True)) for one, other in pairs])
        return common / np.maximum([len(one) + len(other) for one, other in pairs] - common, 1)

    def _by_run(self, numbers: Ints) -> Iterator[tuple[Run, Ints, Ints]]:
        """Each run that has some of these candidates: their places in `numbers`, and their rows, which ascend."""
        order = np.argsort(numbers, kind="stable")
        firsts = np.cumsum([0, *(run.candidates for run in self.runs)])
        bounds = np.searchsorted(numbers[order], firsts)
        for run, first, begin, end in zip(self.runs, firsts, bounds, bounds[1:], strict=False):
            if end > begin:
                places = order[begin:end]
                yield run, places, read_rows(run, self.folder)[numbers[places] - first]

    def _shingles(self, run: Run, rows: Ints) -> Iterator[tuple[int, Shingles]]:
        """The shingles, each once and sorted, of the documents in these rows, which ascend, of a run's shard."""
        first = 0
        for block in read_blocks(shard_paths(DOCUMENTS / run.shard.source, "documents")[run.shard.number], ["text"]):
            own = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + len(block))]
            hashes, bounds = shingles(block["text"].gather(own - first).to_list(), self.made.ngram)
            for row, begin, end in zip(own.tolist(), bounds, bounds[1:], strict=False):
                yield row, np.unique(hashes[begin:end])
            first += len(block)


def parts(count: int, size: int) -> Iterator[slice]:
    """Slices of `size`, of `count` things in all."""
    return (slice(begin, begin + size) for begin in range(0, count, size))
