"""Where a histogram's bars begin: at round numbers, and at the threshold."""

import math

import numpy as np
import numpy.typing as npt

from stages.filter import Rule

Reals = npt.NDArray[np.float64]

BARS = 16
OUTSIDE = 0.01  # share of the values that lies beyond the first and the last edge, at each end
MANY = 40  # a count that goes further has bars that double in two steps


def cut_of(rule: Rule) -> float | None:
    """Where kept values begin, or end: the values below it are on one side of the threshold, all others on the other.

    A value equal to its threshold is kept.
    """
    if rule.at_most is not None:
        return float(np.nextafter(rule.at_most, math.inf))
    return rule.at_least


def edges_of(values: Reals, cut: float | None, is_count: bool) -> Reals:
    """Ascending edges of the bars of `values`, of which some may be missing; a sample of them will do.

    The first bar has what is below the first edge, the last one what isn't below the last.
    """
    known = values[np.isfinite(values)]
    low, high = np.quantile(known, [OUTSIDE, 1 - OUTSIDE]) if len(known) else (0.0, 1.0)
    edges = _doubling(high) if is_count and high > MANY else _even(low, high, is_count)
    return np.unique(np.asarray(edges if cut is None else np.append(edges, cut), np.float64))


def _doubling(high: float) -> Reals:
    """1, 2, 3, 4, 6, 8, 12 and so on, beyond `high`; beyond a thousand without 3, 6, 12."""
    powers = 2.0 ** np.arange(1, math.ceil(math.log2(high)) + 1)
    return np.concatenate([[1.0], powers, powers * 1.5] if high < 1000 else [[1.0], powers])


def _even(low: float, high: float, is_count: bool) -> Reals:
    step = _round_step((high - low) / BARS)
    if is_count:
        step = max(1.0, step)
    first, last = math.floor(low / step), math.ceil(high / step)
    return np.arange(first, last + 1, dtype=np.float64) * step


def _round_step(step: float) -> float:
    """The next of 1, 2 and 5 times a power of ten; 0.1 if all values are the same."""
    if step <= 0:
        return 0.1
    power = float(10.0 ** math.floor(math.log10(step)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
