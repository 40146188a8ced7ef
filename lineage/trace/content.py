"""The documents that some steps were trained on, with their sources, licences and shares of the tokens.

a plan, steps  ->  how often each window was drawn  ->  shard by shard, the documents in these windows

A document is in a step if any of its tokens, the separator after it included, goes in or is asked for in a window of
that step. Its share is counted in target tokens: each of them belongs to one document.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from lineage.documents import DEDUP, EXTRACT, TOKENIZE, synthetic
from lineage.steps import Plan, Times, drawn, target_tokens, times_seen
from lineage.training import TokenShard, stream_of
from stages.documents import kept_of_shard, read_shard, shard_name
from stages.params import Refusal

TOP = 10
STEPS = re.compile(r"(\d+):(\d+)")
CHECKPOINT = re.compile(r"(?:step-)?(\d+)")
BASE = ("base", "models/base")


@dataclass(frozen=True)
class Share:
    """What documents of one source and licence were in some steps."""

    source: str
    license: str | None
    synthetic: bool  # whether a language model wrote them
    documents: int
    tokens: int  # target tokens


@dataclass(frozen=True)
class Portion:
    """What one document was in some steps."""

    id: str
    source: str
    origin: str
    license: str | None
    synthetic: bool
    tokens: int  # target tokens
    samples: int  # in which any of its tokens was seen


@dataclass(frozen=True)
class Content:
    """What the steps `first` to `last`, both included, were trained on."""

    first: int
    last: int
    tokens: int  # target tokens of all samples
    shares: list[Share]  # the largest first
    top: list[Portion]


@dataclass(frozen=True)
class Part:
    """The documents of one token shard that were seen: row (of the sidecar), license, synthetic, tokens, samples."""

    source: str
    number: int
    table: pl.DataFrame


def steps_asked(plan: Plan, step: int | None, steps: str | None, checkpoint: str | None) -> tuple[int, int]:
    """The first and the last of the steps that are asked for, by number, as FIRST:LAST, or as all of a checkpoint.

    Raises:
        Refusal: if there are no such steps, or no such checkpoint.
    """
    if checkpoint is not None:
        return 1, checkpoint_asked(plan, checkpoint)
    first = last = step or 0
    if steps is not None:
        found = STEPS.fullmatch(steps)
        if not found:
            raise Refusal(f"--steps {steps} is not a range; write FIRST:LAST, such as 1:100")
        first, last = int(found[1]), int(found[2])
    if not 1 <= first <= last <= plan.steps:
        raise Refusal(f"there are no steps {first} to {last}: the training has the steps 1 to {plan.steps}")
    return first, last


def checkpoint_asked(plan: Plan, name: str) -> int:
    """The step after which the checkpoint `name` was published."""
    found = CHECKPOINT.fullmatch(name)
    step = plan.steps if name in BASE else int(found[1]) if found else 0
    if step not in (*plan.checkpoints, plan.steps):
        known = ", ".join(plan.name(each) for each in plan.checkpoints)
        raise Refusal(f"there is no checkpoint {name}; there are {known + ', ' if known else ''}models/base")
    return step


def content_of(folder: Path, plan: Plan, first: int, last: int) -> Content:
    """What the steps `first` to `last` were trained on; of the documents only the TOP with most tokens."""
    documents: Counter[tuple[str, str | None, bool]] = Counter()
    tokens: Counter[tuple[str, str | None, bool]] = Counter()
    best = pl.DataFrame()
    for part in parts(folder, plan, first, last):
        grouped = part.table.group_by("license", "synthetic").agg(pl.len(), pl.col("tokens").sum())
        for license_, is_synthetic, count, sum_ in grouped.iter_rows():
            documents[part.source, license_, is_synthetic] += count
            tokens[part.source, license_, is_synthetic] += sum_
        best = highest(best, part)
    shares = [Share(*key, documents[key], tokens[key]) for key in documents]
    shares.sort(key=lambda share: (-share.tokens, share.source, share.license or ""))
    return Content(first, last, sum(tokens.values()), shares, portions(folder, best))


def parts(folder: Path, plan: Plan, first: int, last: int) -> Iterator[Part]:
    """The documents seen in the steps `first` to `last`, a token shard at a time. Those without any are left out."""
    for source, times in drawn(plan.order, *plan.samples_of(first, last)).items():
        for shard in stream_of(folder, source):
            windows = plan.windows_of(source, shard.begin, shard.end)
            if times.sums[windows.stop] > times.sums[windows.start]:
                yield Part(source, shard.number, seen_in(folder, plan, times, source, shard))


def seen_in(folder: Path, plan: Plan, times: Times, source: str, shard: TokenShard) -> pl.DataFrame:
    """The documents of one token shard that are seen in windows drawn so many `times`."""
    sidecar = read_shard(folder / TOKENIZE / source / shard_name("documents", shard.number), ["first_token", "tokens"])
    begins = sidecar["first_token"].to_numpy() + shard.begin
    ends = begins + sidecar["tokens"].to_numpy()
    samples = times_seen(plan, times, begins, ends)
    table = pl.DataFrame(
        {
            "row": np.arange(len(sidecar)),
            **described(folder, source, shard.number, ["license"], len(sidecar)).to_dict(),
            "tokens": target_tokens(plan, times, begins, ends),
            "samples": samples,
        }
    )
    return table.filter(pl.col("samples") > 0)


def described(folder: Path, source: str, number: int, columns: list[str], rows: int) -> pl.DataFrame:
    """`columns` of the documents of a token shard: the training documents of the shard with its number, in order.

    And whether a language model wrote them: `synthetic`.

    Raises:
        Refusal: if they aren't as many as the token shard has.
    """
    documents = folder / EXTRACT / source / shard_name("documents", number)
    decisions = folder / DEDUP / source / shard_name("decisions", number)
    table = kept_of_shard(documents, decisions, columns, "train")
    if len(table) != rows:
        raise Refusal(
            f"{TOKENIZE}/{source} shard {number} has {rows} documents, {DEDUP} keeps {len(table)} to train on: "
            f"the stages are out of step; run `dvc repro`"
        )
    is_trained = pl.col("keep") & (pl.col("split") == "train")
    written = pl.scan_parquet(decisions).select("keep", "split", synthetic([decisions])).filter(is_trained)
    return table.with_columns(written.collect()["synthetic"])


def highest(best: pl.DataFrame, part: Part) -> pl.DataFrame:
    """The TOP documents of `best` and `part`."""
    own = part.table.top_k(TOP, by="tokens").with_columns(source=pl.lit(part.source), number=pl.lit(part.number))
    return pl.concat([best, own]).top_k(TOP, by="tokens") if len(best) else own


def portions(folder: Path, best: pl.DataFrame) -> list[Portion]:
    """The documents in `best` with their ids and origins, the largest first."""
    groups = best.group_by("source", "number") if len(best) else ()
    found = [
        Portion(**row)
        for (source, number), own in groups
        for row in named(folder, Part(str(source), int(str(number)), own)).iter_rows(named=True)
    ]
    return sorted(found, key=lambda portion: (-portion.tokens, portion.id))


def named(folder: Path, part: Part) -> pl.DataFrame:
    """The documents of `part` with the columns of Portion."""
    sidecar = read_shard(folder / TOKENIZE / part.source / shard_name("documents", part.number), ["id"])
    table = described(folder, part.source, part.number, ["id", "origin"], len(sidecar))
    if not table["id"].equals(sidecar["id"]):
        raise Refusal(f"{TOKENIZE}/{part.source} shard {part.number} has other documents than {DEDUP}: run `dvc repro`")
    own = table[part.table["row"]]
    return pl.DataFrame(
        {
            "id": own["id"],
            "source": pl.repeat(part.source, len(own), eager=True),
            "origin": own["origin"],
            "license": part.table["license"],
            "synthetic": part.table["synthetic"],
            "tokens": part.table["tokens"],
            "samples": part.table["samples"],
        }
    )
