"""Documents and decisions as files: schemas, ids, shards, manifests.

A folder of a data stage holds numbered shards and a manifest:

    documents-00000.parquet  signals-00000.parquet  …  manifest.json

Shards of the same number are aligned: row i of the decisions is about row i of the documents.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from stages.params import Refusal, source_names

MANIFEST = "manifest.json"
ROW_GROUP = 8192  # rows of a shard that are written, and can be read, together

DOCUMENT_SCHEMA = pl.Schema(
    {
        "id": pl.String,  # 32 hex digits, see document_id
        "text": pl.String,
        "source": pl.String,
        "origin": pl.String,  # file, member of the archive, record: where the text was read
        "license": pl.String,
        "date": pl.String,  # ISO 8601, as precise as is known; null if it isn't
        "language": pl.String,  # ISO 639 code of the most likely language; null if not measured
        "meta": pl.String,  # JSON object of what else the format tells: title, url, …
    }
)

# What became of a document in one stage. `value` broke `threshold` if it is dropped by a rule of filter;
# the rest is dedup's.
DECISION_SCHEMA = pl.Schema(
    {
        "id": pl.String(),
        "origin": pl.String(),
        "keep": pl.Boolean(),
        "rule": pl.String(),  # null if kept
        "value": pl.Float64(),
        "threshold": pl.Float64(),
        "duplicate_of": pl.String(),  # the document that is kept in its place
        "similarity": pl.Float64(),  # to that one: Jaccard, estimated
        "duplicates": pl.Int64(),  # of a kept document: how many are dropped for it; null if none
        "cuts": pl.List(pl.Int64),  # what is left out of its text: [begin, end, begin, end, …), in characters
        "split": pl.String(),  # "train" or "held_out" once dedup has decided, else null
        "synthetic": pl.Boolean(),  # whether a language model wrote it
    }
)

# Input of which no document could be made: by file, member and record, with the reason.
UNREADABLE_SCHEMA = pl.Schema({"origin": pl.String, "rule": pl.String, "detail": pl.String})


def document_id(source: str, origin: str) -> str:
    """The 128-bit name (32 hex digits) of the document that `source` holds at `origin`, for ever the same."""
    return hashlib.blake2b(f"{source}\0{origin}".encode(errors="surrogatepass"), digest_size=16).hexdigest()


def shard_name(kind: str, number: int, suffix: str = "parquet") -> str:
    """The file name of a shard: `documents-00017.parquet`."""
    return f"{kind}-{number:05d}.{suffix}"


def shard_paths(folder: Path, kind: str) -> list[Path]:
    """The shards of `kind` that the manifest of `folder` lists, in order.

    Raises:
        Refusal: if the folder has no manifest, or a listed shard is missing or has another size.
    """
    paths = []
    for entry in read_manifest(folder)["shards"]:
        path = folder / entry["path"]
        if entry["path"].rpartition("-")[0] != kind:
            continue
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            raise Refusal(f"{path} is missing or truncated; remove {folder} and run `dvc repro` to make it again")
        paths.append(path)
    return paths


def read_shard(path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """The table in `path`, or only `columns` of it.

    Raises:
        Refusal: if the file isn't readable Parquet or lacks a column.
    """
    try:
        return pl.read_parquet(path, columns=columns)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, error) from error


def read_blocks(path: Path, columns: list[str], rows: int = ROW_GROUP) -> Iterator[pl.DataFrame]:
    """`columns` of the table in `path`, a row group at a time, so that memory isn't bound to the shard's size.

    Raises:
        Refusal: if the file isn't readable Parquet or lacks a column.
    """
    for begin in range(0, len(read_shard(path, columns[:1])), rows):
        try:
            yield pl.scan_parquet(path).select(columns).slice(begin, rows).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> Refusal:
    """What is said of a shard that can't be read."""
    reason = str(error).splitlines()[0]
    return Refusal(f"{path} can't be read ({reason}); remove its folder and run `dvc repro` to make it again")


def write_shard(path: Path, table: pl.DataFrame) -> None:
    """Write `table` as Parquet (zstd), whole or not at all; equal tables make equal bytes."""
    partial = path.with_name(f".{path.name}.partial")
    table.write_parquet(partial, compression="zstd", compression_level=3, row_group_size=ROW_GROUP, statistics=False)
    publish(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON with sorted keys, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    publish(partial, path)


def publish(partial: Path, path: Path) -> None:
    """Give a complete file its name: bytes to disk first, then the rename, so that a name means whole."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def write_manifest(folder: Path, counts: dict[str, Any]) -> None:
    """List every shard of `folder` with rows, bytes and sha256, beside the stage's `counts`.

    The manifest is written last: a folder without one is not finished.
    """
    shards = [
        describe(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.name != MANIFEST
    ]
    write_json(folder / MANIFEST, {"counts": counts, "shards": shards})


def describe(path: Path) -> dict[str, Any]:
    """Path, bytes, sha256 of a file, and rows if it is Parquet."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    described = {"path": path.name, "bytes": path.stat().st_size, "sha256": digest}
    if path.suffix == ".parquet":
        with contextlib.suppress(pl.exceptions.PolarsError):  # a downloaded file may be broken; extract says so
            described["rows"] = int(pl.scan_parquet(path).select(pl.len()).collect().item())
    return described


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder: {"counts": …, "shards": […]}.

    Raises:
        Refusal: if there is none, or it isn't JSON.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refusal(f"{path} is missing: {folder} is not finished; run `dvc repro` to make it") from None
    except ValueError as error:
        raise Refusal(f"{path} is not JSON ({error}); remove {folder} and run `dvc repro` to make it again") from None
    return manifest


def source_folders(parent: Path) -> dict[str, Path]:
    """The folder in `parent` of each source of params.yaml, in their order.

    Raises:
        Refusal: if one is missing, or there is a folder of a source that isn't (any more) in
            params.yaml, which DVC would count among the inputs.
    """
    names = source_names()
    strangers = sorted(path.name for path in parent.iterdir() if path.is_dir() and path.name not in names)
    if strangers:
        raise Refusal(
            f"{parent / strangers[0]} belongs to no source of params.yaml; "
            f"remove the folder (a source was taken out) or put the source back"
        )
    return {name: parent / name for name in names}


def fresh_folder(folder: Path) -> Path:
    """`folder`, made, and without the remains of a run that was killed."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    return folder


def kept_documents(documents: Path, decisions: Path, columns: list[str], split: str) -> Iterator[pl.DataFrame]:
    """Shard by shard, `columns` of the documents that dedup kept in `split`, in order.

    `documents` is a source's folder of extract, `decisions` the same source's of dedup.
    """
    pairs = zip(shard_paths(documents, "documents"), shard_paths(decisions, "decisions"), strict=True)
    for document_shard, decision_shard in pairs:
        yield kept_of_shard(document_shard, decision_shard, columns, split)


def kept_of_shard(documents: Path, decisions: Path, columns: list[str], split: str) -> pl.DataFrame:
    """`columns` of the documents of one shard that its `decisions` (of dedup) keep in `split`, in order.

    What was cut from a text is not in it: all that read texts with decisions do so here.

    Raises:
        Refusal: if the shards aren't aligned.
    """
    asked = ["keep", "split", *(["cuts"] if "text" in columns else [])]
    table, decided = read_shard(documents, columns), read_shard(decisions, asked)
    if len(table) != len(decided):
        raise Refusal(f"{decisions} has {len(decided)} rows for {len(table)} documents; run `dvc repro`")
    wanted = decided["keep"] & (decided["split"] == split)
    kept = table.filter(wanted)
    if "text" not in columns:
        return kept
    return kept.with_columns(text=without_cuts(kept["text"], decided["cuts"].filter(wanted)))


def without_cuts(texts: pl.Series, cuts: pl.Series) -> pl.Series:
    """The texts without what is cut from each: begins and ends in turn, in order; null: nothing."""
    places = cuts.is_not_null().arg_true()
    return texts.scatter(places, [left_of(texts[place], cuts[place].to_list()) for place in places])


def left_of(text: str, cuts: list[int]) -> str:
    """`text` without its spans [cuts[0], cuts[1]), [cuts[2], cuts[3]), …, which are in order."""
    return "".join(text[begin:end] for begin, end in zip([0, *cuts[1::2]], [*cuts[::2], len(text)], strict=True))
