"""Make the documents, signals and unreadable records of one shard."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from stages.documents import (
    DOCUMENT_SCHEMA,
    UNREADABLE_SCHEMA,
    document_id,
    shard_name,
    write_shard,
)
from stages.extract.classifier import load_classifier, quality_score
from stages.extract.cleaning import apply_line_rules, clean_code, clean_text, without_surrogates
from stages.extract.files import Piece, read_pieces
from stages.extract.language import detect
from stages.extract.masking import mask, signal_names
from stages.extract.params import ExtractParams
from stages.extract.records import Found, Record, Unreadable
from stages.extract.signals import measure

# Measured beside the signals of stages.extract.signals: of the language (null for code), and of cleaning.
OWN_SIGNALS = pl.Schema({"id": pl.String(), "language_score": pl.Float64(), "lines_removed": pl.Int64()})

Row = dict[str, Any]
Shard = tuple[int, list[Piece]]


def own_signals(params: ExtractParams) -> pl.Schema:
    """OWN_SIGNALS, and what `params` ask for beside."""
    quality = {"quality_score": pl.Float64()} if params.quality is not None else {}
    return pl.Schema({**OWN_SIGNALS, **{name: pl.Int64() for name in signal_names(params.mask)}, **quality})


def quality_key(source: str) -> str:
    """Where the classifier of `source` stands in params.yaml."""
    return f"sources.{source}.extract.quality"


def finish(record: Record, params: ExtractParams) -> tuple[str, dict[str, int]] | Unreadable:
    """The clean text of `record` and what was taken out and masked, by signal; or why nothing is left to keep."""
    if params.verbatim or params.format == "code":
        text, removed = clean_code(record.text), 0
    else:
        text, removed = apply_line_rules(clean_text(record.text), params.lines)
    text, masked = mask(text, params.mask)
    size = len(text.encode())
    if not text:
        return Unreadable("empty", "no text is left", record.number)
    if size > params.max_document_bytes:
        return Unreadable("oversized", f"{size} bytes of text", record.number)
    return text, {"lines_removed": removed, **{f"masked_{kind}": count for kind, count in masked.items()}}


def document(source: str, origin: str, record: Record, params: ExtractParams) -> Row | Unreadable:
    """A row with the columns of DOCUMENT_SCHEMA and own_signals, or why there is none."""
    finished = finish(record, params)
    if isinstance(finished, Unreadable):
        return finished
    text, changes = finished
    language, score = (record.language, None) if record.language else detect(text)
    quality: dict[str, float] = {}
    if params.quality is not None:
        quality = {"quality_score": quality_score(text, params.quality, quality_key(source))}
    return {
        "id": document_id(source, origin),
        "text": text,
        "source": source,
        "origin": without_surrogates(origin),
        "license": record.license or params.license,
        "date": record.date,
        "language": language,
        "meta": without_surrogates(json.dumps(record.meta, sort_keys=True, ensure_ascii=False)),
        "language_score": score,
        **changes,
        **quality,
    }


def sort_out(
    source: str, found: Iterator[tuple[str, Found]], params: ExtractParams
) -> tuple[list[Row], list[Row], int]:
    """Documents, unreadable records, and how many were read."""
    documents, unreadable, read = [], [], 0
    for origin, each in found:
        read += 1
        made = document(source, origin, each, params) if isinstance(each, Record) else each
        if isinstance(made, Unreadable):
            detail = without_surrogates(made.detail)[:200]
            unreadable.append({"origin": without_surrogates(origin), "rule": made.rule, "detail": detail})
        else:
            documents.append(made)
    return documents, unreadable, read


def extract_shard(shard: Shard, source: str, params: ExtractParams, folder: Path, target: Path) -> dict[str, Any]:
    """Write the documents, signals and unreadable records of one shard; count them."""
    if params.quality is not None:
        load_classifier(params.quality, quality_key(source))  # refuses before anything is read
    number, pieces = shard
    documents, unreadable, read = sort_out(source, read_pieces(folder, pieces, params), params)
    own = own_signals(params)
    table = pl.DataFrame(documents, schema=DOCUMENT_SCHEMA | own)
    signals = pl.concat([table.select(own.names()), measure(table["text"].to_list(), params.words)], how="horizontal")
    write_shard(target / shard_name("documents", number), table.select(DOCUMENT_SCHEMA.names()))
    write_shard(target / shard_name("signals", number), signals)
    write_shard(target / shard_name("unreadable", number), pl.DataFrame(unreadable, schema=UNREADABLE_SCHEMA))
    return {
        "read": read,
        "kept": len(documents),
        "dropped": Counter(row["rule"] for row in unreadable),
        "bytes": sum(len(row["text"].encode()) for row in documents),
        "languages": Counter(row["language"] for row in documents),
    }


def add_up(counts: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums of the shards' counts."""
    total: dict[str, Any] = {key: sum(each[key] for each in counts) for key in ("read", "kept", "bytes")}
    for key in ("dropped", "languages"):
        total[key] = dict(sum((each[key] for each in counts), Counter()))
    assert total["read"] == total["kept"] + sum(total["dropped"].values())
    return total
