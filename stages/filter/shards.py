"""The decisions on one shard."""

from collections import Counter
from pathlib import Path

import polars as pl

from stages.documents import read_shard, shard_name, write_shard
from stages.filter.decontamination import Wanted, drop_hit, hit_table, read_sets, wanted_of
from stages.filter.measured import SYNTHETIC, read_signals
from stages.filter.params import FilterParams
from stages.filter.rule import decide, rules, take_down
from stages.takedown import Takedown, taken_down


def filter_shard(
    shard: tuple[Path, Path], source: str, target: Path, params: FilterParams, takedown: Takedown
) -> Counter[str]:
    """Write the decisions on shard (documents, signals); count its documents by rule ("" for kept)."""
    asked = rules(params, f"sources.{source}.filter")
    decisions = take_down(decide(read_signals(*shard, asked), asked), taken_down(shard[0], takedown))
    decisions = decisions.with_columns(read_shard(shard[0], ["meta"]).select(SYNTHETIC))
    number = int(shard[0].stem.rpartition("-")[2])
    if params.decontamination is not None:
        hits = kept_hits(shard[0], decisions, wanted_of(read_sets(), params.decontamination.words))
        decisions = drop_hit(decisions, hits)
        write_shard(target / shard_name("hits", number), hits)
    write_shard(target / shard_name("decisions", number), decisions)
    return Counter(decisions["rule"].fill_null("").to_list())


def kept_hits(documents: Path, decisions: pl.DataFrame, wanted: Wanted) -> pl.DataFrame:
    """Which kept documents of a shard hold which items; nothing is read if there are no items."""
    if not wanted.hashes:
        return hit_table(pl.DataFrame({"id": [], "text": []}, {"id": pl.String, "text": pl.String}), wanted)
    return hit_table(read_shard(documents, ["id", "text"]).filter(decisions["keep"]), wanted)
