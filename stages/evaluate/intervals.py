"""How sure a score is: 95% intervals, by a bootstrap over documents.

Held-out documents are drawn again and again from those that were scored, and each draw has its own score.
Between the quantiles of these lies the interval (Efron & Tibshirani 1993, chapter 13). Of the n documents of a
source, n - 1 are drawn with replacement and weighted by n / (n - 1), so that the spread is right for few documents,
too, and for the sum over sources (Rao, Wu & Yue 1992, Survey Methodology 18, 209-217). It says how much other
documents of the same sources would change the score, not how much another training would.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
DRAWS_AT_ONCE = 100  # bounds the memory: 80 MB for 100,000 documents
LEVEL = 0.95

Interval = dict[str, float]  # low, high


def draws(source: str, bits: Sequence[float], sizes: Sequence[int]) -> NDArray[np.float64]:
    """Bits and bytes of DRAWS draws from the documents of `source`, float64, shape (2, DRAWS).

    The name of the source is the seed. A single document is in every draw.

    Args:
        source: the name of the documents' source.
        bits: what each document cost.
        sizes: bytes of each document.
    """
    values = np.array([bits, sizes], dtype=np.float64)
    count = values.shape[1]
    if count == 1:
        return np.repeat(values, DRAWS, axis=1)
    random, chances = np.random.default_rng(list(source.encode())), np.full(count, 1 / count)
    blocks = (random.multinomial(count - 1, chances, DRAWS_AT_ONCE) for _ in range(DRAWS // DRAWS_AT_ONCE))
    drawn: NDArray[np.float64] = np.concatenate([values @ block.T for block in blocks], axis=1)
    drawn *= count / (count - 1)
    return drawn


def interval(drawn: NDArray[np.float64]) -> Interval | None:
    """The interval of bits per byte over draws (shape (2, DRAWS)); None if all draws are alike: of one document."""
    if (drawn == drawn[:, :1]).all():
        return None
    low, high = np.quantile(drawn[0] / drawn[1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"low": round(float(low), 4), "high": round(float(high), 4)}


def intervals(scores: Mapping[str, tuple[Sequence[float], Sequence[int]]]) -> dict[str, object]:
    """The interval of bits per byte in all, and of each source, from bits and bytes of its documents."""
    drawn = {source: draws(source, bits, sizes) for source, (bits, sizes) in scores.items()}
    return {
        "all": interval(np.sum(list(drawn.values()), axis=0)),
        "sources": {source: interval(each) for source, each in drawn.items()},
    }
