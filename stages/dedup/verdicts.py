"""What becomes of each shard's members of groups, and the decisions on all documents of it.

groups, and what is kept of them  ->  verdicts of each shard  ->  filter's decisions with dedup's in them
"""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from stages.dedup.checks import PAIRS, Check, parts
from stages.dedup.groups import Chosen, Groups, Members
from stages.dedup.runs import Run, Shard, read_draws, read_rows, read_signatures
from stages.dedup.split import Kept, held_out, kept_of
from stages.documents import DECISION_SCHEMA, read_shard, shard_name, write_shard
from stages.minhash import similarities
from stages.words import Bools, Ints

# What dedup says of a document, by its row; a column is null where it has nothing to say.
VERDICT_SCHEMA = pl.Schema(
    {
        "row": pl.UInt32(),
        "keep": pl.Boolean(),
        "rule": pl.String(),
        "value": pl.Float64(),
        "threshold": pl.Float64(),
        "duplicate_of": pl.String(),
        "similarity": pl.Float64(),
        "duplicates": pl.Int64(),
        "cuts": pl.List(pl.Int64),
    }
)


def write_verdicts(groups: Groups, chosen: Chosen, check: Check, folder: Path) -> None:
    """Write a table of VERDICT_SCHEMA into `folder` for each run."""
    signed = folder / "chosen.npy"
    write_chosen(signed, chosen, check)
    for members in groups.members():
        write_shard(verdict_path(folder, members.run.shard), verdicts(members, chosen, signed))


def verdict_path(folder: Path, shard: Shard) -> Path:
    """Where the verdicts on a shard's members are written."""
    return folder / shard_name("verdicts", shard.place)


def write_chosen(path: Path, chosen: Chosen, check: Check) -> None:
    """Write the signature of what each group keeps, read in the order of the runs, so that they can be had in any."""
    order = np.argsort(chosen.numbers)
    shape = (len(order), check.made.hashes)
    np.lib.format.open_memmap(path, "w+", np.uint16, shape)
    for part in parts(len(order), PAIRS):
        into = np.lib.format.open_memmap(path, "r+")  # opened anew, so that not all of it stays in memory
        into[order[part]] = check.signatures(chosen.numbers[order[part]])


def verdicts(members: Members, chosen: Chosen, signed: Path) -> pl.DataFrame:
    """One row by VERDICT_SCHEMA for each of `members`; the file `signed` has the signature of what each group keeps."""
    groups = members.groups
    dropped = chosen.numbers[groups] != members.numbers
    exact = (members.digests == chosen.digests[groups]).all(axis=1)
    similarity = np.ones(len(groups))
    near = np.flatnonzero(dropped & ~exact)
    if len(near):
        own = read_signatures(members.run.shard.signatures)[members.rows[near]]
        similarity[near] = similarities(own, read_signatures(signed)[groups[near]])
    table = pl.DataFrame(
        {
            "row": members.rows,
            "keep": ~dropped,
            "rule": pl.Series(np.where(exact, "exact_duplicate", "near_duplicate").tolist(), dtype=pl.String),
            "duplicate_of": pl.Series(chosen.ids[groups].astype(str).tolist(), dtype=pl.String),
            "similarity": similarity,
            "duplicates": chosen.sizes[groups] - 1,
        }
    )
    absent = [pl.when(~pl.col("keep")).then(pl.col(name)) for name in ("rule", "duplicate_of", "similarity")]
    nothing = [pl.lit(None).alias(name) for name in ("value", "threshold", "cuts")]
    table = table.with_columns(*absent, *nothing, duplicates=pl.when("keep").then("duplicates"))
    return table.select(pl.col(name).cast(dtype) for name, dtype in VERDICT_SCHEMA.items())


# ---- the ledger --------------------------------------------------------------------------------------------


def decided(shard: Shard, folder: Path) -> pl.DataFrame:
    """filter's decisions on a shard with dedup's on those that it kept, and the row of each; without the split."""
    verdicts = read_shard(verdict_path(folder, shard))
    filtered = read_shard(shard.decisions).drop("split").with_row_index("row")
    both = filtered.join(verdicts, on="row", how="left", validate="1:1", maintain_order="left", suffix="_here")
    return both.select(
        pl.coalesce(f"{name}_here", name).alias(name) if f"{name}_here" in both.columns else pl.col(name)
        for name in ("row", *DECISION_SCHEMA)
        if name != "split"
    )


def survivors(run: Run, folder: Path) -> Ints:
    """The rows of the candidates of a run that no verdict drops."""
    return read_rows(run, folder)[surviving(run, folder)]


def surviving(run: Run, folder: Path) -> Bools:
    """Whether each candidate of a run is one that no verdict drops."""
    verdicts = read_shard(verdict_path(folder, run.shard), ["row", "keep"])
    dropped = verdicts["row"].filter(verdicts["keep"].eq_missing(False)).to_numpy()
    return ~np.isin(read_rows(run, folder), dropped)


def kept_of_run(run: Run, folder: Path) -> Kept:
    """What is kept of a run."""
    return kept_of(read_draws(run, folder)[surviving(run, folder)])


def write_decisions(work: tuple[Run, Kept], folder: Path, share: float, parent: Path) -> Counter[str]:
    """Write the decisions on a run's shard into its source's folder in `parent`; count its candidates by rule or split.

    `share` of the source's kept documents is held out.
    """
    run, source = work
    shard, rows = run.shard, read_rows(run, folder)
    split = np.full(run.candidates, "train", object)
    split[held_out(read_draws(run, folder), share, source)] = "held_out"
    splits = pl.DataFrame({"row": rows, "split": split.tolist()}, {"row": pl.UInt32, "split": pl.String})
    table = decided(shard, folder).join(splits, on="row", how="left", maintain_order="left")
    table = table.with_columns(pl.when("keep").then("split").alias("split"))
    write_shard(parent / shard.source / shard_name("decisions", shard.number), table.select(DECISION_SCHEMA.names()))
    return Counter(table[rows].select(pl.coalesce("rule", "split")).to_series().to_list())
