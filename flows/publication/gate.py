"""Whether a candidate may take the place of the current version: two evaluations, compared score by score.

    evaluation of the candidate, of the current version  ->  a row for each score, and the reasons to refuse it

Bits per byte of documents that both evaluated are compared document by document, by a paired bootstrap (Koehn 2004,
"Statistical significance tests for machine translation evaluation"), with the draws of stages/evaluate/intervals.py.
Where the held-out documents differ, and for scores of tasks, the two intervals give that of the difference (Zou &
Donner 2008, Statistics in Medicine 27, section 2: the square roots of summed squares of the half-widths).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages.params import Refusal

# Of a score, relative: what is surely worse by less is let through. It is half of what `pedigree verify` allows between
# two machines that build the same thing, so that a new version isn't refused for having been built elsewhere.
TOLERANCE = 0.01
PAIRED_SHARE = 0.5  # of the held-out bytes of either: with fewer in common, they say too little about the rest
DRAWS = 2000
DRAWS_AT_ONCE = 100
LEVEL = 0.95
ALL = "all sources"


@dataclass(frozen=True)
class Score:
    """A measured value with its 95% interval; both ends are the value where there is none."""

    value: float
    low: float
    high: float
    is_lower_better: bool = True


@dataclass(frozen=True)
class Evaluation:
    """What is known of one version: its scores by name, and each held-out document (id, source, bytes, bits)."""

    scores: Mapping[str, Score]
    documents: pl.DataFrame


@dataclass(frozen=True)
class Row:
    """One score of both versions, and how much worse the candidate's is (negative: better), with the interval."""

    name: str
    current: float
    candidate: float
    worse_by: float
    low: float
    high: float
    how: str

    @property
    def is_worse(self) -> bool:
        """Whether the candidate is worse by more than TOLERANCE, and surely so."""
        return self.low > TOLERANCE * abs(self.current)


@dataclass(frozen=True)
class Comparison:
    """All scores of both versions, and what couldn't be compared."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the candidate is refused, in sentences; none if it may be published."""
        return tuple(
            f"{row.name} is worse: {row.candidate:.4f} instead of {row.current:.4f} ({row.how}; "
            f"worse by {row.low:.4f} to {row.high:.4f}, allowed is {TOLERANCE * abs(row.current):.4f})"
            for row in self.rows
            if row.is_worse
        )


def read_evaluation(metrics: Any, documents: pl.DataFrame) -> Evaluation:
    """The evaluation in metrics/evaluate.json and metrics/held_out.parquet.

    Raises:
        Refusal: if they aren't what `evaluate` writes.
    """
    try:
        bounds, sources = metrics["intervals"], metrics["sources"]
        scores = {ALL: _bits(metrics["bits_per_byte"]["model"], bounds["all"])}
        scores |= {name: _bits(sources[name]["model"], bounds["sources"].get(name)) for name in sources}
        for name, task in metrics.get("tasks", {}).items():
            is_lower_better = bool(task.get("lower_is_better", False))
            scores[f"task {name}"] = Score(task["value"], task["low"], task["high"], is_lower_better)
        return Evaluation(scores, documents.select("id", "source", "bytes", "bits"))
    except (KeyError, TypeError, AttributeError, pl.exceptions.PolarsError) as error:
        raise Refusal(f"metrics/evaluate.json or metrics/held_out.parquet is no evaluation ({error!r})") from None


def compare(candidate: Evaluation, current: Evaluation) -> Comparison:
    """Every score that both have, compared; and a note on each that only one has."""
    pairs = candidate.documents.join(current.documents, on=["id", "source", "bytes"], suffix="_current").sort("id")
    notes = []
    if pairs.is_empty():
        notes.append("no held-out document is in both evaluations: they are compared by their intervals alone")
    notes += [f"{name} is new" for name in candidate.scores if name not in current.scores]
    notes += [f"{name} is gone" for name in current.scores if name not in candidate.scores]
    common = [name for name in candidate.scores if name in current.scores]
    return Comparison(tuple(_row(name, candidate, current, pairs) for name in common), tuple(notes))


def as_markdown(comparison: Comparison) -> list[str]:
    """The lines of a table with a row for each score, and of the notes; none if nothing was compared."""
    if not comparison.rows:
        return [f"* {note}" for note in comparison.notes]
    head = ["| score | current | candidate | worse by | 95% interval | how | |", "|---|---|---|---|---|---|---|"]
    rows = [
        f"| {row.name} | {row.current:.4f} | {row.candidate:.4f} | {row.worse_by:+.4f} "
        f"| {row.low:+.4f} to {row.high:+.4f} | {row.how} | {'**worse**' if row.is_worse else ''} |"
        for row in comparison.rows
    ]
    return [*head, *rows, "", *(f"* {note}" for note in comparison.notes)]


def _row(name: str, candidate: Evaluation, current: Evaluation, pairs: pl.DataFrame) -> Row:
    mine, theirs = candidate.scores[name], current.scores[name]
    shared = pairs if name == ALL else pairs.filter(pl.col("source") == name)
    least = PAIRED_SHARE * max(_bytes(candidate.documents, name), _bytes(current.documents, name))
    if len(shared) > 1 and int(shared["bytes"].sum()) >= least:
        difference, low, high = _paired(shared)
        how = f"{len(shared)} documents, paired"
    else:
        difference, low, high = _unpaired(mine, theirs)
        how = "by the intervals of both"
    return Row(name, theirs.value, mine.value, round(difference, 4), round(low, 4), round(high, 4), how)


def _paired(pairs: pl.DataFrame) -> tuple[float, float, float]:
    """How many more bits per byte the candidate needs for documents that both evaluated, and the interval."""
    tables = [table.select(pl.col("bits") - pl.col("bits_current"), pl.col("bytes")) for _, table in _by_source(pairs)]
    total = np.sum([table.to_numpy().sum(axis=0) for table in tables], axis=0)
    drawn = np.sum([_draws(table.to_numpy(), number) for number, table in enumerate(tables)], axis=0)
    low, high = np.quantile(drawn[0] / drawn[1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(total[0] / total[1]), float(low), float(high)


def _unpaired(mine: Score, theirs: Score) -> tuple[float, float, float]:
    """How much worse `mine` is, and the interval out of those of both."""
    better, worse = (theirs, mine) if mine.is_lower_better else (mine, theirs)
    difference = worse.value - better.value
    return (
        difference,
        difference - math.hypot(worse.value - worse.low, better.high - better.value),
        difference + math.hypot(worse.high - worse.value, better.value - better.low),
    )


def _draws(rows: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Sums of the columns of `rows` (shape (documents, 2)) over DRAWS draws of documents, shape (2, DRAWS)."""
    count = len(rows)
    if count == 1:
        return np.repeat(rows.T, DRAWS, axis=1)
    random, chances = np.random.default_rng(seed), np.full(count, 1 / count)
    blocks = (random.multinomial(count - 1, chances, DRAWS_AT_ONCE) for _ in range(DRAWS // DRAWS_AT_ONCE))
    drawn: NDArray[np.float64] = np.concatenate([rows.T @ block.T for block in blocks], axis=1)
    drawn *= count / (count - 1)
    return drawn


def _by_source(table: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    for (source,), part in sorted(table.group_by("source", maintain_order=True)):
        yield str(source), part


def _bytes(documents: pl.DataFrame, name: str) -> int:
    table = documents if name == ALL else documents.filter(pl.col("source") == name)
    return int(table["bytes"].sum())


def _bits(value: float, bounds: Mapping[str, float] | None) -> Score:
    return Score(value, bounds["low"] if bounds else value, bounds["high"] if bounds else value)
