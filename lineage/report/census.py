"""The documents of a build, counted: by fate and rule, by licence, by domain; and a sample of them.

fates of every shard  ->  Census of each source
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from lineage.report.documents import DROPPED, HELD_OUT, TRAIN, UNDECIDED, UNEXTRACTED, fates, quotas, sample, unreadable
from stages.documents import read_manifest
from stages.filter import FilterParams, Rule, rules
from stages.params import Refusal, parse_params

MOST_DOCUMENTS = 12_000  # in the sample of a build: what the search page can hold in about 3 MB
MOST_SIGNALS = 3  # histograms of a source
FATES = (UNEXTRACTED, DROPPED, UNDECIDED, HELD_OUT, TRAIN)
_COUNTS = ("fate", "rule", "license")


@dataclass(frozen=True)
class Count:
    """How much of a source is of one kind: a rule's, a licence's, a domain's. What isn't known is None."""

    name: str
    documents: int
    tokens: float | None
    is_estimate: bool = False  # of tokens, from the bytes


@dataclass(frozen=True)
class Spread:
    """The values of a signal in a source's documents, and where a rule cuts them off."""

    signal: str
    threshold: float | None
    is_least: bool  # whether the threshold is the least that is kept, not the most
    kept: list[float]
    dropped: list[float]  # by this rule or another


@dataclass(frozen=True)
class Census:
    """One source, counted. Tokens of what was never tokenized are estimated from its bytes."""

    source: str
    fates: tuple[Count, ...]  # in the order of FATES, those that there are
    rules: tuple[Count, ...]  # that dropped documents, or kept them from being made: most first
    licenses: tuple[Count, ...]  # of the documents to train on
    domains: tuple[Count, ...]
    spreads: tuple[Spread, ...]
    sampled: pl.DataFrame  # FATE_SCHEMA

    @property
    def documents(self) -> int:
        """All that was read."""
        return sum(count.documents for count in self.fates)

    @property
    def is_synthetic(self) -> bool:
        """Whether a language model wrote documents of it."""
        return bool(self.sampled["synthetic"].any())

    def of(self, fate: str) -> Count:
        """What met `fate`."""
        return next((count for count in self.fates if count.name == fate), Count(fate, 0, 0))


def take(folder: Path, params: Mapping[str, Any]) -> list[Census]:
    """The census of each source of `params` that is extracted in `folder`, in their order.

    Raises:
        Refusal: if a file can't be read.
    """
    data = folder / "data"
    sources = params.get("sources") or {}
    names = [name for name in sources if (data / "extract" / name).is_dir()]
    sizes = {name: int(read_manifest(data / "extract" / name)["counts"]["read"]) for name in names}
    most = quotas(sizes, MOST_DOCUMENTS) if sizes else {}
    return [_census(data, name, rules_of(sources[name]), most[name]) for name in names]


def rules_of(source: Any) -> list[Rule]:
    """The rules that a source's section of params.yaml asks; none if this version can't read it."""
    section = source.get("filter") if isinstance(source, Mapping) else None
    try:
        return rules(parse_params(FilterParams, section, "filter"))
    except Refusal:
        return []


def _census(data: Path, source: str, asked: Sequence[Rule], most: int) -> Census:
    shown = _main_rules(data / "filter" / source, asked)
    parts: list[pl.DataFrame] = []
    domains: list[pl.DataFrame] = []
    chosen: list[pl.DataFrame] = []
    for table in _tables(data, source, [rule.signal for rule in shown]):
        parts.append(_grouped(table, *_COUNTS))
        urls = table.filter(pl.col("fate") == TRAIN).with_columns(domain=_domain())
        domains.append(_grouped(urls.filter(pl.col("domain").is_not_null()), "domain"))
        chosen = [sample([*chosen, table], most)]
    counts, hosts = (_added(tables) for tables in (parts, domains))
    per_byte = _tokens_per_byte(data / "tokenize" / source)
    sampled = chosen[0]
    return Census(
        source,
        fates=tuple(sorted(_counts(counts, "fate", per_byte), key=lambda count: FATES.index(count.name))),
        rules=tuple(_counts(counts.filter(pl.col("rule").is_not_null()), "rule", per_byte)),
        licenses=tuple(_counts(counts.filter(pl.col("fate") == TRAIN), "license", per_byte)),
        domains=tuple(_counts(hosts, "domain", per_byte)),
        spreads=tuple(_spread(sampled, rule) for rule in shown),
        sampled=sampled,
    )


def _tables(data: Path, source: str, signals: Sequence[str]) -> Iterator[pl.DataFrame]:
    yield from fates(data, source, signals)
    for table in unreadable(data, source):
        yield table.with_columns(pl.lit(None, pl.Float64).alias(name) for name in signals if name not in table.columns)


def _main_rules(folder: Path, asked: Sequence[Rule]) -> list[Rule]:
    """The rules to draw: of the length first, then those that dropped most, one of each signal."""
    dropped = read_manifest(folder)["counts"]["dropped"] if folder.is_dir() else {}
    measured = [rule for rule in asked if rule.is_bound]
    measured.sort(key=lambda rule: (rule.signal != "words", -dropped.get(rule.name, 0)))
    by_signal = {rule.signal: rule for rule in reversed(measured)}  # the first of each signal stays
    words = by_signal.pop("words", Rule("", "words"))
    others = [rule for rule in measured if by_signal.get(rule.signal) is rule and dropped.get(rule.name)]
    return [words, *others[: MOST_SIGNALS - 1]]


def _spread(sampled: pl.DataFrame, rule: Rule) -> Spread:
    values = sampled.filter(pl.col(rule.signal).is_not_null()).select(pl.col(rule.signal).cast(pl.Float64), "fate")
    is_dropped = values["fate"] == DROPPED
    kept, dropped = (values.filter(mask)[rule.signal].to_list() for mask in (~is_dropped, is_dropped))
    return Spread(rule.signal, rule.threshold, rule.at_least is not None, kept, dropped)


def _grouped(table: pl.DataFrame, *keys: str) -> pl.DataFrame:
    unknown = pl.col("bytes").filter(pl.col("tokens").is_null())
    return table.group_by(keys).agg(
        documents=pl.len().cast(pl.Int64),
        tokens=pl.col("tokens").sum(),
        untokenized_bytes=unknown.sum(),
        unmeasured=unknown.is_null().sum().cast(pl.Int64),  # neither tokens nor bytes
    )


def _added(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    table = pl.concat(tables)
    numbers = ("documents", "tokens", "untokenized_bytes", "unmeasured")
    keys = [name for name in table.columns if name not in numbers]
    return table.group_by(keys).agg(pl.col(name).sum() for name in numbers)


def _counts(table: pl.DataFrame, key: str, per_byte: float | None) -> list[Count]:
    """The counts by `key`, most documents first."""
    added = _added([table.select(key, "documents", "tokens", "untokenized_bytes", "unmeasured")])
    return [_count(row, key, per_byte) for row in added.sort(["documents", key], descending=[True, False]).to_dicts()]


def _count(row: Mapping[str, Any], key: str, per_byte: float | None) -> Count:
    name = "unknown" if row[key] is None else row[key]
    if row["unmeasured"] or (row["untokenized_bytes"] and per_byte is None):
        return Count(name, row["documents"], None)
    estimate = row["untokenized_bytes"] * (per_byte or 0)
    return Count(name, row["documents"], row["tokens"] + estimate, is_estimate=bool(estimate))


def _tokens_per_byte(folder: Path) -> float | None:
    """What a byte of the source's text came to, as far as it was tokenized; None if it wasn't."""
    counts = read_manifest(folder)["counts"] if folder.is_dir() else {}
    return counts["tokens"] / counts["bytes"] if counts.get("bytes") else None


def _domain() -> pl.Expr:
    """The host of a URL, in small letters, without `www.`; null if it has none."""
    host = pl.col("url").str.extract(r"^[a-zA-Z][a-zA-Z0-9+.-]*://(?:[^/?#@]*@)?([^/?#:@]+)", 1)
    return host.str.to_lowercase().str.strip_prefix("www.")
