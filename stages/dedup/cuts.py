"""Lines or paragraphs that occur too often in a source: which of them are cut, and what is left.

    spans of the documents that are kept so far  ->  sorted on disk  ->  those after the first of their kind  ->  cuts

Occurrences are counted in the order of shards, documents and places, in the documents that are no duplicates. In memory
are 8 bytes for each span that is cut, of one source at a time.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from stages.dedup.params import SpanCuts
from stages.dedup.runs import RANGE, Run, read_range, read_rows, write_keys
from stages.dedup.verdicts import VERDICT_SCHEMA, survivors, verdict_path
from stages.documents import read_shard, shard_paths, write_shard
from stages.process import map_shards
from stages.words import Hashes, Ints

RULE = "spans.min_characters_left"


def cut_spans(source: str, runs: Sequence[Run], folder: Path, fingerprints: Path, cuts: SpanCuts) -> None:
    """Add what is cut in the documents of one source to the verdicts on them."""
    paths = shard_paths(fingerprints / source, "spans")
    own = folder / "spans" / source
    own.mkdir(parents=True)
    spans = sum(len(read_shard(path, ["row"])) for path in paths)
    ranges = -(-spans // RANGE) or 1
    writing = partial(write_span_run, folder=folder, target=own, ranges=ranges)
    written = map_shards(writing, list(zip(runs, paths, strict=True)), f"dedup: spans of {source}")
    too_many = np.concatenate(
        [after(*read_range(written, own, 0, part, ranges), cuts.max_copies) for part in range(ranges)]
    )
    too_many.sort()
    firsts = np.cumsum([0, *(run.candidates for run in written)])
    for run, path, first in zip(written, paths, firsts, strict=False):
        places = too_many[np.searchsorted(too_many, first) : np.searchsorted(too_many, first + run.candidates)] - first
        cut = read_shard(path, ["row", "before", "begin", "end", "last"])[read_rows(run, own)[places]]
        verdicts = verdict_path(folder, run.shard)
        characters = read_shard(run.shard.fingerprints, ["characters"])["characters"]
        write_shard(verdicts, with_cuts(read_shard(verdicts), joined(cut), characters, cuts))


def write_span_run(work: tuple[Run, Path], folder: Path, target: Path, ranges: int) -> Run:
    """Write the run of the spans that stand in the documents of a shard which are kept so far."""
    run, path = work
    spans = read_shard(path, ["row", "hash"])
    rows = np.flatnonzero(np.isin(spans["row"].to_numpy(), survivors(run, folder)))
    return write_keys(run.shard, target, rows, spans["hash"].to_numpy()[rows][np.newaxis], ranges)


def after(keys: Hashes, numbers: Ints, copies: int) -> Ints:
    """The numbers of those that come after the first `copies` with the same of the sorted `keys`."""
    new = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    places = np.arange(len(keys))
    rank = places - np.maximum.accumulate(np.where(new, places, 0)) if len(keys) else places
    return numbers[rank >= copies]


def joined(spans: pl.DataFrame) -> pl.DataFrame:
    """`spans` as `cuts` of each row, begins and ends in turn, and how many `characters` they have together."""
    apart = (pl.col("row") != pl.col("row").shift()) | (pl.col("begin") > pl.col("end").shift())
    whole = spans.with_columns(part=apart.fill_null(True).cum_sum()).group_by("row", "part", maintain_order=True)
    last = pl.col("last").last()
    parts = whole.agg(
        begin=pl.when(last).then(pl.col("before").first()).otherwise(pl.col("begin").first()), end=pl.col("end").last()
    )
    return parts.group_by("row", maintain_order=True).agg(
        cuts=pl.concat_list("begin", "end").explode(), characters=(pl.col("end") - pl.col("begin")).sum()
    )


def with_cuts(verdicts: pl.DataFrame, cut: pl.DataFrame, characters: pl.Series, cuts: SpanCuts) -> pl.DataFrame:
    """`verdicts` with `cut` (of joined) in them; what is left with too little, of these `characters`, is dropped."""
    left = characters.gather(cut["row"]).cast(pl.Float64) - cut["characters"]
    short = left < cuts.min_characters_left
    ours = cut.select("row", "cuts").with_columns(
        keep=pl.when(short).then(False),
        rule=pl.when(short).then(pl.lit(RULE)),
        value=pl.when(short).then(left),
        threshold=pl.when(short).then(pl.lit(float(cuts.min_characters_left))),
    )
    both = verdicts.join(ours, on="row", how="full", coalesce=True, suffix="_here", maintain_order="left_right")
    return both.select(
        pl.coalesce(f"{name}_here", name).alias(name) if f"{name}_here" in both.columns else pl.col(name)
        for name in VERDICT_SCHEMA
    ).cast(VERDICT_SCHEMA)
