"""Documents that came in, left, or are dropped for another reason, between two builds.

the ledgers of dedup (which hold filter's decisions, too), the sidecars of tokenize  ->  Moved
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from lineage.diff.results import read_json
from lineage.documents import DEDUP, EXTRACT, FILTER, TOKENIZE, synthetic
from lineage.history import Build
from lineage.objects import Objects
from stages.documents import MANIFEST, shard_paths
from stages.params import Refusal

ABSENT = "not there"
TRAINED, HELD_OUT = "trained on", "held out"
SAMPLES = 3  # of each way that documents went
_COLUMNS = ("id", "origin", "keep", "rule", "value", "threshold", "duplicate_of", "similarity", "split")


@dataclass(frozen=True)
class Sample:
    """A document whose fate changed."""

    id: str
    origin: str
    synthetic: bool  # whether a language model wrote it
    why: str  # the numbers behind the new fate, or behind the old one if it is gone


@dataclass(frozen=True)
class Moved:
    """Documents of a source that went from one fate to another, and their tokens in either build."""

    source: str
    old: str  # trained on, held out, the rule that dropped them, or not there
    new: str
    documents: int
    old_tokens: int
    new_tokens: int
    samples: tuple[Sample, ...]


def counts(shelf: Objects, build: Build, source: str) -> dict[str, int]:
    """What became of the documents of `source` in `build`, in numbers, in the order of the stages.

    Raises:
        Missing: if a manifest isn't here.
    """
    found: dict[str, int] = {}
    for stage in (EXTRACT, FILTER, DEDUP, TOKENIZE):
        path, within = (DEDUP, f"{source}/{MANIFEST}") if stage == DEDUP else (f"{stage}/{source}", MANIFEST)
        found |= _counts(stage, read_json(shelf, build, path, within).get("counts", {}))
    return found


def _counts(stage: str, of: dict[str, Any]) -> dict[str, int]:
    found = {"documents read": of["read"]} if stage == EXTRACT and "read" in of else {}
    found |= dict(of.get("dropped", {}))
    if stage == DEDUP:
        found |= {HELD_OUT: of["held_out"], TRAINED: of["train"]} if "train" in of else {}
    return found | ({"tokens": of["tokens"]} if "tokens" in of else {})


def moved(shelf: Objects, old: tuple[Build, str] | None, new: tuple[Build, str] | None) -> list[Moved]:
    """How the documents of a source went, most first: `old` and `new` are builds, and its name in each.

    Raises:
        Missing: if a file isn't here.
        Refusal: if a ledger has other columns than today's.
    """
    first, second = (_side(shelf, *side) if side else None for side in (old, new))
    if first and second:
        first, second = _without_equal_shards(first, second)
    before, after = _ledger(first), _ledger(second)
    key = "id" if old and new and old[1] == new[1] else "origin"
    both = before.join(after, on=key, how="full", suffix="_new", coalesce=True)
    for name in ("fate", "fate_new"):
        both = both.with_columns(pl.col(name).fill_null(ABSENT))
    # Tokens are asked for last, of the documents that moved: most of all don't.
    table = _with_tokens(both.filter(pl.col("fate") != pl.col("fate_new")).collect(), first, "id", "tokens")
    table = _with_tokens(table, second, "id" if key == "id" else "id_new", "tokens_new")
    named = new or old
    assert named
    ways = table.group_by("fate", "fate_new", maintain_order=True)
    found = [_moved(named[1], key, str(fate), str(fate_new), part) for (fate, fate_new), part in ways]
    return sorted(found, key=lambda each: (-each.documents, each.old, each.new))


def _moved(source: str, key: str, old: str, new: str, part: pl.DataFrame) -> Moved:
    before, after = (int(part[name].fill_null(0).sum()) for name in ("tokens", "tokens_new"))
    samples = tuple(_sample(row, key) for row in part.sort(key).head(SAMPLES).iter_rows(named=True))
    return Moved(source, old, new, len(part), before, after, samples)


def _sample(row: dict[str, Any], key: str) -> Sample:
    other = "_new" if row["fate_new"] != ABSENT else ""
    id, origin = (row[name] if name == key else row[f"{name}_new"] or row[name] for name in ("id", "origin"))
    written = bool(row["synthetic"] or row["synthetic_new"])
    return Sample(id, origin, written, _why({name: row[f"{name}{other}"] for name in _REASONS}))


_REASONS = ("rule", "value", "threshold", "duplicate_of", "similarity")


def _why(row: dict[str, Any]) -> str:
    if row["duplicate_of"]:
        return f"{row['rule']} of {row['duplicate_of']}, similarity {row['similarity']:.2f}"
    if row["value"] is not None and row["threshold"] is not None:
        return f"{row['rule']}: {row['value']:g}, threshold {row['threshold']:g}"
    return row["rule"] or ""


@dataclass(frozen=True)
class _Side:
    """The ledger's shards of a source in a build, and the sidecars of its tokens."""

    decisions: list[Path]
    sidecars: list[Path]


def _side(shelf: Objects, build: Build, source: str) -> _Side | None:
    if DEDUP not in build.outs:
        raise Refusal(f"{build.title} has no {DEDUP}: what became of each document isn't known")
    folder = shelf.folder(build, DEDUP) / DEDUP / source
    if not folder.is_dir():
        return None
    tokens = f"{TOKENIZE}/{source}"
    sidecars = shard_paths(shelf.folder(build, tokens) / tokens, "documents") if tokens in build.outs else []
    return _Side(shard_paths(folder, "decisions"), sidecars)


def _without_equal_shards(old: _Side, new: _Side) -> Iterator[_Side]:
    """Both without the shards of decisions that they share: links into the cache, to the same object."""
    objects = [{path.resolve(): path for path in side.decisions} for side in (old, new)]
    shared = set(objects[0]) & set(objects[1])
    for side, own in zip((old, new), objects, strict=True):
        yield _Side([path for place, path in own.items() if place not in shared], side.sidecars)


def _ledger(side: _Side | None) -> pl.LazyFrame:
    """id, origin, fate, the numbers behind it, and whether it is synthetic."""
    schema = dict.fromkeys(("id", "origin", "fate", "rule", "duplicate_of"), pl.String)
    floats = dict.fromkeys(("value", "threshold", "similarity"), pl.Float64)
    if side is None or not side.decisions:
        return pl.LazyFrame(schema={**schema, **floats, "synthetic": pl.Boolean})
    decisions = pl.scan_parquet(side.decisions)
    if lacking := set(_COLUMNS) - set(decisions.collect_schema().names()):
        where = "/".join(side.decisions[0].parts[-4:-1])
        raise Refusal(f"{where} of that build has no {', '.join(sorted(lacking))}: documents can't be compared")
    fate = pl.when("keep").then(
        pl.when(pl.col("split") == "held_out").then(pl.lit(HELD_OUT)).otherwise(pl.lit(TRAINED))
    )
    named = (name for name in schema if name != "fate")
    return decisions.select(*named, *floats, synthetic(side.decisions), fate=fate.otherwise("rule"))


def _with_tokens(table: pl.DataFrame, side: _Side | None, id: str, name: str) -> pl.DataFrame:
    """`table` with a column `name`: how many tokens the documents in its column `id` have on this `side`."""
    if side is None or not side.sidecars:
        return table.with_columns(pl.lit(None, pl.Int64).alias(name))
    sidecars = pl.scan_parquet(side.sidecars).select(pl.col("id").alias(id), pl.col("tokens").alias(name))
    found = sidecars.join(table.lazy().select(id), on=id, how="semi").collect()
    return table.join(found, on=id, how="left", maintain_order="left")
