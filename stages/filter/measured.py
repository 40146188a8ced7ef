"""What the rules ask for, read: of a shard's documents and signals, only the columns that some rule needs."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from stages.documents import read_shard
from stages.filter.rule import Rule, columns_of
from stages.params import PARAMS_FILE, Refusal

# Of documents: whether a language model wrote them, as download says in their meta.
SYNTHETIC = pl.col("meta").str.json_path_match("$.synthetic").eq("true").fill_null(False).alias("synthetic")

# Signals that extract measures only if it is told to, and by which of its parameters.
ASKED_FOR = {"quality_score": "quality"}


def read_signals(documents: Path, signals: Path, rules: list[Rule], beside: Sequence[str] = ()) -> pl.DataFrame:
    """What `rules` ask of the documents in a shard, with their ids and origins. The texts stay on disk.

    `beside` are more signals to read.

    Raises:
        Refusal: if the two shards aren't about the same documents, or a signal wasn't measured.
    """
    of_documents, of_signals = columns_of(rules)
    of_signals = sorted({*of_signals, *beside})
    refuse_unmeasured(signals, of_signals, rules)
    described = read_shard(documents, ["id", "origin", *(name for name in of_documents if name != "origin")])
    measured = read_shard(signals, ["id", *of_signals])
    if not measured["id"].equals(described["id"]):
        raise Refusal(f"{signals} is not about the documents in {documents}; remove the folder and run `dvc repro`")
    return pl.concat([described, measured.drop("id")], how="horizontal")


def refuse_unmeasured(signals: Path, wanted: list[str], rules: list[Rule]) -> None:
    """Refuse a rule whose signal the shard hasn't; what is no Parquet is refused where it is read."""
    try:
        known = pl.read_parquet_schema(signals)
    except (pl.exceptions.PolarsError, OSError):
        return
    for name in wanted:
        if name not in known:
            source = signals.parent.name
            asks = next((f"sources.{source}.filter.{rule.name}" for rule in rules if name in rule.columns), "this")
            remedy = f"set sources.{source}.extract.{ASKED_FOR[name]}" if name in ASKED_FOR else "run `dvc repro`"
            raise Refusal(f"{PARAMS_FILE}: {asks} asks for {name}, which {signals} doesn't have; {remedy}")
