"""What each rule drops of a source, counted shard by shard.

signals of extract, the rules of params.yaml  ->  Tally of each rule

Only the columns that a rule asks for are read, one shard at a time, so the memory depends on a shard and not on the
corpus. Every rule is asked of every document that isn't taken down: a document may break several.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from lineage.documents import EXTRACT, TOKENIZE
from lineage.rules.bins import Reals, cut_of, edges_of
from stages.documents import read_manifest, shard_paths
from stages.extract.signals import SIGNAL_SCHEMA
from stages.filter import Rule
from stages.filter.measured import SYNTHETIC, read_signals
from stages.takedown import Takedown, taken_down

SAMPLES = 10
SEEN_FIRST = 2000  # documents of the first shard, by which the edges of the bars are chosen
SNIPPET = 80  # characters

SAMPLE_SCHEMA = pl.Schema(
    {
        "distance": pl.Float64,
        "id": pl.String,
        "origin": pl.String,
        "value": pl.Float64,
        "said": pl.String,  # the language or the licence, if that is asked
        "shard": pl.Int64,
    }
)

Shard = tuple[Path, Path]  # documents, signals


@dataclass(frozen=True)
class Volume:
    """Documents, and the bytes of their text."""

    documents: int = 0
    bytes: int = 0

    def __add__(self, other: "Volume") -> "Volume":
        return Volume(self.documents + other.documents, self.bytes + other.bytes)

    def __sub__(self, other: "Volume") -> "Volume":
        return Volume(self.documents - other.documents, self.bytes - other.bytes)


NOTHING = Volume()


@dataclass
class Tally:
    """What one rule drops."""

    rule: Rule
    edges: Reals  # of the bars; none if it doesn't bound a number
    bars: np.ndarray  # documents of each bar: one more than edges
    broken: Volume = NOTHING
    alone: Volume = NOTHING  # of these no other rule is broken
    unmeasured: int = 0
    said: Counter[str | None] = field(default_factory=Counter)  # documents by language or licence, if that is asked
    dropped: pl.DataFrame = field(default_factory=SAMPLE_SCHEMA.to_frame)  # nearest to the threshold
    kept: pl.DataFrame = field(default_factory=SAMPLE_SCHEMA.to_frame)


@dataclass(frozen=True)
class Census:
    """All rules of a source."""

    source: str
    read: Volume
    kept: Volume  # by all rules
    taken_down: Volume
    tallies: list[Tally]
    tokens_per_byte: float | None  # None if the source isn't tokenized


def shards_of(root: Path, source: str) -> list[Shard]:
    """The shards of a source that is extracted.

    Raises:
        Refusal: if it isn't.
    """
    folder = root / EXTRACT / source
    return list(zip(shard_paths(folder, "documents"), shard_paths(folder, "signals"), strict=True))


def tables(shards: Sequence[Shard], asked: list[Rule], takedown: Takedown) -> Iterator[tuple[pl.DataFrame, Volume]]:
    """What the rules ask of each shard's documents, and how much of it is taken down, of which they aren't asked."""
    for documents, signals in shards:
        table = read_signals(documents, signals, asked, beside=["bytes"])
        hit = taken_down(documents, takedown)
        gone = table.filter(hit) if hit is not None else table.clear()
        yield table.filter(~hit) if hit is not None else table, volume(gone)


def volume(table: pl.DataFrame) -> Volume:
    """The documents of `table`, and their bytes."""
    return Volume(len(table), int(table["bytes"].sum()))


def volume_of(sizes: np.ndarray, which: np.ndarray) -> Volume:
    """Those documents of `sizes`, in bytes, that are meant."""
    return Volume(int(np.count_nonzero(which)), int(sizes[which].sum()))


def tokens_per_byte(root: Path, source: str) -> float | None:
    """What a byte of the source's text came to, as far as it was tokenized; None if it wasn't."""
    folder = root / TOKENIZE / source
    counts = read_manifest(folder)["counts"] if folder.is_dir() else {}
    return counts["tokens"] / counts["bytes"] if counts.get("bytes") else None


def take(root: Path, source: str, asked: list[Rule], takedown: Takedown) -> Census:
    """The census of `source`, as it is extracted in the project at `root`."""
    shards = shards_of(root, source)
    first = pl.concat([table.head(SEEN_FIRST) for table, _ in tables(shards[:1], asked, takedown)])
    tallies = [empty(rule, first) for rule in asked]
    read = kept = gone = NOTHING
    for number, (table, down) in enumerate(tables(shards, asked, takedown)):
        broken = np.column_stack([np.zeros((len(table), 0), bool), *_broken(table, asked)])
        for place, tally in enumerate(tallies):
            count(tally, table, broken, place, number)
        read, gone = read + volume(table) + down, gone + down
        kept += volume(table.filter(broken.sum(axis=1) == 0))
    return Census(source, read, kept, gone, tallies, tokens_per_byte(root, source))


def empty(rule: Rule, first: pl.DataFrame) -> Tally:
    """The tally of a rule, with bars that fit the documents in `first`."""
    if rule.one_of is not None:
        return Tally(rule, np.zeros(0), np.zeros(1, np.int64))
    values = first.select(value=rule.value)["value"].to_numpy()
    is_count = rule.listed is not None or SIGNAL_SCHEMA.get(rule.signal) == pl.Int64
    edges = edges_of(values, cut_of(rule), is_count)
    return Tally(rule, edges, np.zeros(len(edges) + 1, np.int64))


def count(tally: Tally, table: pl.DataFrame, broken: np.ndarray, place: int, shard: int) -> None:
    """Add the documents of `table` to `tally`; `broken` (documents, rules) has its rule at `place`."""
    mine = broken[:, place]
    sizes = table["bytes"].to_numpy()
    tally.broken += volume_of(sizes, mine)
    tally.alone += volume_of(sizes, mine & (broken.sum(axis=1) == 1))
    rule = tally.rule
    values = table.select(value=rule.value)["value"]
    if rule.one_of is not None:
        tally.said.update(table[rule.signal].to_list())
    else:
        tally.unmeasured += values.null_count()
        where = np.searchsorted(tally.edges, values.drop_nulls().to_numpy(), side="right")
        tally.bars += np.bincount(where, minlength=len(tally.bars))
    near = _samples(table, rule, values, shard)
    tally.dropped = nearest([tally.dropped, near.filter(mine)])
    tally.kept = nearest([tally.kept, near.filter(~mine & _is_asked(rule, values))])


def nearest(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The samples nearest to the threshold; of equally near ones those of the smallest ids, which are in no order."""
    return pl.concat(parts).bottom_k(SAMPLES, by=["distance", "id"]).sort("distance", "id")


def with_texts(shards: Sequence[Shard], samples: pl.DataFrame) -> list[dict[str, object]]:
    """`samples` with how their texts begin, and whether a language model wrote them, in their order."""
    begins: dict[str, tuple[str, bool]] = {}
    for number in samples["shard"].unique().sort():
        ids = samples.filter(pl.col("shard") == number)["id"].to_list()
        lazy = pl.scan_parquet(shards[number][0]).filter(pl.col("id").is_in(ids))
        found = lazy.select("id", pl.col("text").str.head(SNIPPET), SYNTHETIC).collect(engine="streaming")
        begins |= {name: (text, written) for name, text, written in found.iter_rows()}
    return [
        {"id": row["id"], "origin": row["origin"], "value": row["said"] or row["value"], "text": begins[row["id"]][0],
         "synthetic": begins[row["id"]][1]}
        for row in samples.to_dicts()
    ]  # fmt: skip


def _broken(table: pl.DataFrame, asked: list[Rule]) -> list[np.ndarray]:
    answers = table.select(rule.broken.alias(rule.name) for rule in asked)
    return [answers[rule.name].to_numpy() for rule in asked]


def _samples(table: pl.DataFrame, rule: Rule, values: pl.Series, shard: int) -> pl.DataFrame:
    threshold = rule.threshold
    said = pl.col(rule.signal) if rule.one_of is not None else pl.lit(None, pl.String)
    return table.select(
        distance=(values - threshold).abs() if threshold is not None else pl.lit(0.0),
        id="id", origin="origin", value=values, said=said, shard=pl.lit(shard, pl.Int64),
    ).cast(SAMPLE_SCHEMA)  # fmt: skip


def _is_asked(rule: Rule, values: pl.Series) -> np.ndarray:
    """Which documents have a value on the kept side: all of a list's, and what was measured."""
    return np.ones(len(values), bool) if rule.one_of is not None else values.is_not_null().to_numpy()
