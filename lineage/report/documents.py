"""The documents of a build, shard by shard, each with its fate: without their texts.

data/extract, data/filter or data/dedup, data/tokenize  ->  one table for each shard, by FATE_SCHEMA

A build of an older version may lack columns: what it lacks is null.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from stages.documents import UNREADABLE_SCHEMA, document_id, read_manifest, shard_name
from stages.params import Refusal

TRAIN, HELD_OUT, DROPPED, UNEXTRACTED, UNDECIDED = "train", "held out", "dropped", "not extracted", "undecided"

# Of what is read, by kind of shard.
_DOCUMENT = dict.fromkeys(("id", "origin", "license", "date", "language", "meta"), pl.String)
_SIGNAL = {"bytes": pl.Int64, "words": pl.Int64}
_DECISION = {
    "keep": pl.Boolean,
    "rule": pl.String,
    "value": pl.Float64,
    "threshold": pl.Float64,
    "duplicate_of": pl.String,
    "similarity": pl.Float64,
    "split": pl.String,
    "synthetic": pl.Boolean,
}
FATE_SCHEMA = pl.Schema(
    {
        "id": pl.String,
        "origin": pl.String,
        "license": pl.String,
        "date": pl.String,
        "language": pl.String,
        "title": pl.String,
        "url": pl.String,
        "bytes": pl.Int64,
        "words": pl.Int64,
        "fate": pl.String,  # one of the five above
        "rule": pl.String,
        "value": pl.Float64,
        "threshold": pl.Float64,
        "duplicate_of": pl.String,
        "similarity": pl.Float64,
        "tokens": pl.Int64,  # of a document to train on, with the separator
        "detail": pl.String,  # of input of which no document could be made
        "synthetic": pl.Boolean,  # whether a language model wrote it; null in what was decided without saying so
    }
)


def fates(data: Path, source: str, signals: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
    """The documents of each shard of `source`, in order, with the columns of FATE_SCHEMA and of `signals`.

    Raises:
        Refusal: if a file can't be read, or files of the same number are not about the same documents.
    """
    decided = next((data / stage / source for stage in ("dedup", "filter") if (data / stage / source).is_dir()), None)
    extra = {name: pl.Float64 for name in signals if name not in _SIGNAL}
    for number, path in _shards(data / "extract" / source, "documents"):
        beside = path.with_name(shard_name("signals", number))
        parts = [_columns(path, _DOCUMENT), _columns(beside, {**_SIGNAL, **extra}, rows=path)]
        parts.append(_columns(decided / shard_name("decisions", number) if decided else None, _DECISION, rows=path))
        table = pl.concat(parts, how="horizontal").with_columns(_meta("title"), _meta("url"), _fate())
        sidecar = data / "tokenize" / source / shard_name("documents", number)
        table = table.join(
            _columns(sidecar, {"id": pl.String, "tokens": pl.Int64}), on="id", how="left", maintain_order="left"
        )
        yield table.with_columns(detail=pl.lit(None, pl.String)).select(*FATE_SCHEMA, *extra)


def unreadable(data: Path, source: str) -> Iterator[pl.DataFrame]:
    """What was read of `source` and became no document, shard by shard, with the columns of FATE_SCHEMA."""
    for _, path in _shards(data / "extract" / source, "unreadable"):
        found = _columns(path, dict(UNREADABLE_SCHEMA))
        ids = pl.Series("id", [document_id(source, origin) for origin in found["origin"]], pl.String)
        absent = [name for name in FATE_SCHEMA if name not in {*UNREADABLE_SCHEMA, "id", "fate"}]
        nulls = [pl.lit(None, FATE_SCHEMA[name]).alias(name) for name in absent]
        yield found.with_columns(ids, *nulls, fate=pl.lit(UNEXTRACTED)).select(*FATE_SCHEMA)


def quotas(sizes: Mapping[str, int], most: int) -> dict[str, int]:
    """How many of each source's documents make a sample of `most`: small sources whole, the large ones alike.

    The sum is at most `most`, unless there are more sources than that: each gives one at least.
    """
    given: dict[str, int] = {}
    for place, (name, size) in enumerate(sorted(sizes.items(), key=lambda item: item[1])):
        fair = (most - sum(given.values())) // (len(sizes) - place)
        given[name] = min(size, max(fair, 1))
    return {name: given[name] for name in sizes}


def sample(tables: Sequence[pl.DataFrame], most: int) -> pl.DataFrame:
    """Of the documents in `tables`, the `most` with the smallest ids, in their order: ids are digests, so any may be.

    The same documents are chosen in every build that has them.
    """
    table = pl.concat(tables) if tables else pl.DataFrame(schema=FATE_SCHEMA)
    if len(table) <= most:
        return table
    chosen = table["id"].sort().head(most).implode()
    return table.filter(pl.col("id").is_in(chosen))


def _shards(folder: Path, kind: str) -> Iterator[tuple[int, Path]]:
    """The number and path of each shard of `kind` in `folder`; none if it isn't built."""
    if not folder.is_dir():
        return
    for entry in read_manifest(folder)["shards"]:
        name, _, number = Path(entry["path"]).stem.rpartition("-")
        if name == kind and entry["path"].endswith(".parquet"):
            yield int(number), folder / entry["path"]


def _columns(path: Path | None, schema: Mapping[str, pl.DataType | type], rows: Path | None = None) -> pl.DataFrame:
    """The columns of `schema` in the file `path`, null where it lacks one.

    If there is no file: as many nulls as `rows` has rows, or an empty table.
    """
    try:
        if path is not None and path.is_file():
            present = pl.read_parquet_schema(path)
            table = pl.read_parquet(path, columns=[name for name in schema if name in present])
            if rows is not None and len(table) != (expected := _rows(rows)):
                raise Refusal(
                    f"{path} has {len(table)} rows for {expected} documents; run `dvc repro` to make it again"
                )
        else:
            table = pl.DataFrame({"": pl.repeat(None, _rows(rows) if rows else 0, eager=True)})
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise Refusal(f"{path} can't be read ({reason}); `dvc repro` or `dvc pull` brings it back") from None
    filled = [pl.lit(None).alias(name) for name in schema if name not in table.columns]
    return table.with_columns(filled).select(pl.col(name).cast(dtype) for name, dtype in schema.items())


def _rows(path: Path) -> int:
    return int(pl.scan_parquet(path).select(pl.len()).collect().item())


def _meta(key: str) -> pl.Expr:
    """What the JSON in `meta` has under `key`; null if there is no such text."""
    return pl.col("meta").str.json_path_match(f"$.{key}").alias(key)


def _fate() -> pl.Expr:
    return (
        pl.when(pl.col("split") == "train").then(pl.lit(TRAIN))
        .when(pl.col("split") == "held_out").then(pl.lit(HELD_OUT))
        .when(~pl.col("keep")).then(pl.lit(DROPPED))
        .otherwise(pl.lit(UNDECIDED))
        .alias("fate")
    )  # fmt: skip
