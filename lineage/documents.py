"""Where the documents of a build stand, and what its files tell of them.

a build's files (lineage.checkout), a question  ->  Place: source, shard, row  ->  the row of each stage

extract, filter and dedup have the same documents in the same rows of the shards of the same number, so one scan
for an id or an origin is enough; the rest are single rows. Ids are sorted by nothing, hence the scan; it reads
that one column.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import polars as pl

from stages.documents import read_manifest, shard_paths
from stages.params import Refusal

EXTRACT, FILTER, DEDUP, TOKENIZE = "data/extract", "data/filter", "data/dedup", "data/tokenize"


@dataclass(frozen=True)
class Place:
    """A document: row `row` of shard `shard` of `source`, in extract as in filter and dedup."""

    id: str
    source: str
    origin: str
    shard: int
    row: int


@dataclass(frozen=True)
class Shard:
    """A shard of a source, and where its first row is among those of all shards that are scanned."""

    source: str
    number: int
    path: Path
    rows: int


def sources(build: Path, stage: str = EXTRACT) -> list[str]:
    """The sources that `stage` of the build in folder `build` has, by name."""
    parent = build / stage
    return sorted(path.name for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def shards(build: Path, stage: str, kind: str) -> list[Shard]:
    """Every shard of `kind` that `stage` wrote, source by source.

    Raises:
        Refusal: if one is missing or truncated.
    """
    return [
        Shard(source, number, path, rows)
        for source in sources(build, stage)
        for number, (path, rows) in enumerate(_listed(build / stage / source, kind))
    ]


def find(build: Path, matches: pl.Expr) -> list[Place]:
    """The documents that `matches` (of the columns of documents) is true of. Only the columns it asks for are read.

    Raises:
        Refusal: if the build has no such column.
    """
    listed = shards(build, EXTRACT, "documents")
    found = scan(listed, matches, ["id", "origin"])
    return [Place(row["id"], shard.source, row["origin"], shard.number, number) for shard, number, row in found]


def scan(
    listed: Sequence[Shard], matches: pl.Expr, columns: Sequence[str | pl.Expr]
) -> Iterator[tuple[Shard, int, dict[str, Any]]]:
    """The shard, the number of the row in it, and `columns` of each row of the shards that `matches` is true of.

    Raises:
        Refusal: if a shard has no such column.
    """
    if not listed:
        return
    firsts = [0, *accumulate(shard.rows for shard in listed)]
    by_path = {str(shard.path): (shard, first) for shard, first in zip(listed, firsts, strict=False)}
    lazy = pl.scan_parquet([shard.path for shard in listed], include_file_paths=".path", row_index_name=".row")
    try:
        found = lazy.filter(matches).select(".path", ".row", *columns).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise Refusal(
            f"{_place(listed[0].path)} of that build can't be asked for this ({str(error).splitlines()[0]})"
        ) from None
    for row in found.iter_rows(named=True):
        shard, first = by_path[row.pop(".path")]
        yield shard, int(row.pop(".row")) - first, row


def by_ids(build: Path, ids: Iterable[str]) -> dict[str, Place]:
    """The documents with these ids, by id; those that the build hasn't are left out."""
    wanted = sorted(set(ids))
    return {place.id: place for place in find(build, pl.col("id").is_in(wanted))} if wanted else {}


def row_of(build: Path, stage: str, kind: str, place: Place, columns: Sequence[str] = ()) -> dict[str, Any] | None:
    """The row of `place` in the shards of `kind` that `stage` wrote; None if the build has no such stage.

    Only `columns`, if any are named; one that the build hasn't is left out.

    Raises:
        Refusal: if the shards aren't aligned.
    """
    folder = build / stage / place.source
    if not folder.is_dir():
        return None
    path = shard_paths(folder, kind)[place.shard]
    lazy = pl.scan_parquet(path)
    if columns:
        known = lazy.collect_schema().names()
        lazy = lazy.select(name for name in columns if name in known)
    rows = lazy.slice(place.row, 1).collect().to_dicts()
    if not rows or rows[0].get("id", place.id) != place.id:
        raise Refusal(f"{_place(path)} has another document in row {place.row} than {EXTRACT}/{place.source}")
    return rows[0]


def synthetic(decisions: Sequence[Path]) -> pl.Expr:
    """Whether a language model wrote a document of these shards; false in those of a build that doesn't say."""
    known = bool(decisions) and "synthetic" in pl.read_parquet_schema(decisions[0])
    return (pl.col("synthetic") if known else pl.repeat(False, pl.len())).alias("synthetic")


def _listed(folder: Path, kind: str) -> list[tuple[Path, int]]:
    rows = {entry["path"]: entry.get("rows", 0) for entry in read_manifest(folder)["shards"]}
    return [(path, rows[path.name]) for path in shard_paths(folder, kind)]


def _place(path: Path) -> str:
    """The path within the project, of a file laid out somewhere else."""
    return "/".join(path.parts[-4:])
