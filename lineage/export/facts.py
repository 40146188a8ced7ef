"""What the exports are made of, read once.

dvc.lock, manifests, metrics, documents and decisions, records  ->  Facts

Of an older build, its files come from the cache. What a build doesn't tell is None or empty, and an export says so.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from lineage.attestation import Record, records_of
from lineage.checkout import checked_out
from lineage.history import Build, build_at, text_at
from lineage.summary import Source as Counts
from lineage.summary import read_source
from stages.documents import read_manifest, shard_paths
from stages.params import Refusal

READ = ("data", "models/base", "metrics")
UNKNOWN = "unknown"
COMMON_CRAWL = "https://data.commoncrawl.org"
SECRET = re.compile(r"(?<=://)[^/\s@\"]+@")
TALLY_SCHEMA = pl.Schema(
    {
        "license": pl.String,  # null if the document has none
        "language": pl.String,
        "domain": pl.String,  # the host of its URL, without www.; null if it has no URL
        "trained": pl.Boolean,
        "documents": pl.Int64,
        "bytes": pl.Int64,  # UTF-8 bytes of text; null if they weren't measured
        "date": pl.String,  # the latest that one of them states
    }
)


@dataclass(frozen=True)
class File:
    """A file that a manifest lists, or of the model."""

    path: str  # in the project
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """One source, as this build had it."""

    name: str
    params: Mapping[str, Any]  # its sections as they were: download, extract, filter
    downloaded: tuple[File, ...]
    documents: tuple[File, ...]  # the shards of extract
    decisions: tuple[File, ...]  # those of dedup, aligned with them
    counts: Counts | None
    tally: pl.DataFrame  # TALLY_SCHEMA: its documents, grouped

    @property
    def packages(self) -> list[Mapping[str, Any]]:
        """The packages of an index that it was read from: name, version, and the sha256 if one was expected."""
        return list(self.params.get("download", {}).get("packages", ()))

    @property
    def is_synthetic(self) -> bool:
        """If a language model wrote it for this corpus."""
        return bool(self.params.get("download", {}).get("kind") == "synthetic")

    @property
    def urls(self) -> list[str]:
        """The addresses that it was read from, without credentials."""
        return addresses(self.params.get("download", {}))


@dataclass(frozen=True)
class Facts:
    """All that is known of one build."""

    build: Build
    commit: str | None  # that has this dvc.lock; None if none is known
    date: str | None  # of that commit, ISO 8601
    params: Mapping[str, Any]  # of the stages that ran, by their full names in params.yaml
    sources: tuple[Source, ...]
    pretrain: Mapping[str, Any]  # metrics/pretrain.json
    evaluate: Mapping[str, Any]  # metrics/evaluate.json
    config: Mapping[str, Any]  # models/base/config.json
    model: tuple[File, ...]
    requirements: str | None  # the text of requirements.lock
    records: Mapping[str, Record]  # by stage

    @cached_property
    def digest(self) -> str:
        """The sha256 of dvc.lock: the build's name for ever."""
        return hashlib.sha256(self.build.lock.encode()).hexdigest()

    @cached_property
    def tally(self) -> pl.DataFrame:
        """TALLY_SCHEMA with the column `source` before it."""
        tables = [source.tally.select(pl.lit(source.name).alias("source"), pl.all()) for source in self.sources]
        return pl.concat(tables) if tables else pl.DataFrame(schema={"source": pl.String, **TALLY_SCHEMA})

    @property
    def version(self) -> str | None:
        """The number of the published version that this is; None if it isn't asked for by such a name."""
        found = [name.rpartition("@v")[2] for name in self.build.names if "@v" in name]
        return found[0] if found else None


def read_facts(root: Path = Path(), revision: str | None = None) -> Facts:
    """The facts of the build in `root`, or of the one at `revision`.

    Raises:
        Refusal: if there is no such build, or one of its files is nowhere here; it says how to get it.
    """
    build = build_at(root, revision)
    if not build.stages:
        raise Refusal(f"dvc.lock of {build.title} has no stage: nothing is built yet; run `dvc repro`")
    committed = build if build.commit else _at_head(root, build)
    with checked_out(root, build, READ) as folder:
        return Facts(
            build,
            commit=committed.commit if committed else None,
            date=committed.date if committed else None,
            params={name: value for stage in build.stages.values() for name, value in stage.params.items()},
            sources=tuple(read_export_source(folder, build, name) for name in source_names_of(build)),
            pretrain=_json(folder / "metrics/pretrain.json"),
            evaluate=_json(folder / "metrics/evaluate.json"),
            config=_json(folder / "models/base/config.json"),
            model=tuple(_files(folder, "models/base")),
            requirements=text_at(root, build, "requirements.lock"),
            records=records_of(root, build),
        )


def source_names_of(build: Build) -> list[str]:
    """The sources that were extracted in `build`, in its order."""
    return [stage.name.partition("@")[2] for stage in build.stages.values() if stage.kind == "extract"]


def read_export_source(folder: Path, build: Build, name: str) -> Source:
    """Source `name` of `build`, whose outs lie in `folder`."""
    sections = ("download", "extract", "filter")
    params = {
        section: stage.params.get(f"sources.{name}.{section}") or {}
        for section in sections
        if (stage := build.stages.get(f"{section}@{name}"))
    }
    listed = {stage: _listed(folder, f"data/{stage}/{name}") for stage in ("download", "extract", "dedup")}
    return Source(
        name,
        params,
        downloaded=tuple(listed["download"]),
        documents=tuple(file for file in listed["extract"] if _kind(file) == "documents"),
        decisions=tuple(file for file in listed["dedup"] if _kind(file) == "decisions"),
        counts=read_source(folder / "data", name),
        tally=tally(folder / "data/extract" / name, folder / "data/dedup" / name),
    )


def tally(documents: Path, decisions: Path) -> pl.DataFrame:
    """The documents in the folder of a source, grouped as TALLY_SCHEMA has it.

    `decisions` is the same source's folder of dedup; without it, none was trained on.
    """
    if not documents.is_dir():
        return pl.DataFrame(schema=TALLY_SCHEMA)
    host = pl.col("meta").str.json_path_match("$.url").str.extract(r"^[A-Za-z][\w+.-]*://(?:[^/@]*@)?([^/:?#\s]+)", 1)
    columns = [_scan(documents, "documents").select("license", "language", "date", domain=_bare(host))]
    signals = _scan(documents, "signals")
    measured = "bytes" in signals.collect_schema().names()
    columns.append(
        signals.select(pl.col("bytes").cast(pl.Int64) if measured else pl.lit(None, pl.Int64).alias("bytes"))
    )
    if decisions.is_dir():
        decided = _scan(decisions, "decisions").select(trained=pl.col("keep") & (pl.col("split") == "train"))
        columns.append(decided.with_columns(pl.col("trained").fill_null(False)))
    table = pl.concat(columns, how="horizontal")
    if not decisions.is_dir():
        table = table.with_columns(trained=pl.lit(False))
    keys = ("license", "language", "domain", "trained")
    counted = {
        "documents": pl.len().cast(pl.Int64),
        "bytes": pl.col("bytes").sum() if measured else pl.lit(None, pl.Int64),
        "date": pl.col("date").max(),
    }
    return table.group_by(keys).agg(**counted).sort(keys, nulls_last=True).select(*TALLY_SCHEMA).collect()


def addresses(download: Mapping[str, Any]) -> list[str]:
    """Where a source with this download section is read from, without credentials; packages have none."""
    match download.get("kind"):
        case "hub":
            found = [f"hf://datasets/{download['dataset']}"]
        case "git":
            found = [download["url"]]
        case "crawl":
            found = [f"{download.get('base', COMMON_CRAWL)}/crawl-data/{download['snapshot']}"]
        case "synthetic":
            found = [f"model:{download['model']}"]
        case _:
            found = list(download.get("urls", ()))
    return [public(str(url)) for url in found]


def public(text: str) -> str:
    """`text` without the name and password in an address."""
    return SECRET.sub("", text)


def by(table: pl.DataFrame, key: str) -> list[dict[str, Any]]:
    """The rows of a tally added up by one column: its value, `documents`, `bytes`; the most bytes first."""
    # The sum of what wasn't measured isn't 0.
    measured = pl.when(pl.col("bytes").is_null().any()).then(None).otherwise(pl.col("bytes").sum())
    added = table.group_by(key).agg(pl.col("documents").sum(), measured.alias("bytes"))
    return added.sort("bytes", "documents", key, descending=[True, True, False], nulls_last=True).to_dicts()


def _bare(host: pl.Expr) -> pl.Expr:
    return host.str.to_lowercase().str.strip_prefix("www.").str.strip_chars_end(".")


def _scan(folder: Path, kind: str) -> pl.LazyFrame:
    return pl.scan_parquet(shard_paths(folder, kind))


def _listed(folder: Path, name: str) -> Iterator[File]:
    """What the manifest of the folder `name` lists; nothing if the build doesn't have it."""
    if (folder / name).is_dir():
        for shard in read_manifest(folder / name)["shards"]:
            yield File(f"{name}/{shard['path']}", shard["bytes"], shard["sha256"])


def _files(folder: Path, name: str) -> Iterator[File]:
    for path in sorted((folder / name).glob("*")):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield File(f"{name}/{path.name}", path.stat().st_size, digest)


def _kind(file: File) -> str:
    return file.path.rpartition("/")[2].rpartition("-")[0]


def _at_head(root: Path, build: Build) -> Build | None:
    """The build at HEAD, if it is this one."""
    try:
        head = build_at(root, "HEAD")
    except Refusal:
        return None
    return head if head.lock == build.lock else None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise Refusal(f"{path.name} is not JSON ({error}); build it again by `dvc repro`") from None
