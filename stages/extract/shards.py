"""Make the documents, signals and unreadable records of one shard."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl

from stages.documents import (
    DOCUMENT_SCHEMA,
    UNREADABLE_SCHEMA,
    document_id,
    shard_name,
)
from stages.extract.classifier import load_classifier, quality_score
from stages.extract.cleaning import apply_line_rules, clean_code, clean_text, without_surrogates
from stages.extract.files import Piece, read_pieces
from stages.extract.language import detect
from stages.extract.masking import mask, signal_names
from stages.extract.params import ExtractParams
from stages.extract.records import Found, Record, Unreadable
from stages.extract.signals import SIGNAL_SCHEMA, measure
from stages.extract.writing import ShardWriter, as_arrow, as_strings

# Measured beside the signals of stages.extract.signals: of the language (null for code), and of cleaning.
OWN_SIGNALS = pl.Schema({"id": pl.String(), "language_score": pl.Float64(), "lines_removed": pl.Int64()})

# A batch, which is held in memory and becomes a row group, ends with the document that fills one of these.
BATCH_ROWS = 8192
BATCH_CHARACTERS = 1 << 23

Row = dict[str, Any]
Shard = tuple[int, list[Piece]]


def own_signals(params: ExtractParams) -> pl.Schema:
    """OWN_SIGNALS, and what `params` ask for beside."""
    quality = {"quality_score": pl.Float64()} if params.quality is not None else {}
    return pl.Schema({**OWN_SIGNALS, **{name: pl.Int64() for name in signal_names(params.mask)}, **quality})


def shard_schemas(params: ExtractParams) -> dict[str, pl.Schema]:
    """What extract writes of a shard, by the kind of the file."""
    signals = pl.Schema({**own_signals(params), **SIGNAL_SCHEMA})
    return {"documents": DOCUMENT_SCHEMA, "signals": signals, "unreadable": UNREADABLE_SCHEMA}


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
    size = utf8_bytes(text)
    if not text:
        return Unreadable("empty", "no text is left", record.number)
    if size > params.max_document_bytes:
        return Unreadable("oversized", f"{size} bytes of text", record.number)
    return text, {"lines_removed": removed, **{f"masked_{kind}": count for kind, count in masked.items()}}


def utf8_bytes(text: str) -> int:
    """The length of `text` in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


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
    """Documents, unreadable records, and how many were read, of as much of `found` as fills a batch."""
    documents: list[Row] = []
    unreadable: list[Row] = []
    characters = 0
    for origin, each in found:
        made = document(source, origin, each, params) if isinstance(each, Record) else each
        del each  # its text may be large
        if isinstance(made, Unreadable):
            detail = without_surrogates(made.detail)[:200]
            unreadable.append({"origin": without_surrogates(origin), "rule": made.rule, "detail": detail})
        else:
            documents.append(made)
            characters += len(made["text"])
        if characters >= BATCH_CHARACTERS or len(documents) + len(unreadable) >= BATCH_ROWS:
            break
    return documents, unreadable, len(documents) + len(unreadable)


def extract_shard(shard: Shard, source: str, params: ExtractParams, folder: Path, target: Path) -> dict[str, Any]:
    """Write the documents, signals and unreadable records of one shard, batch by batch; count them."""
    if params.quality is not None:
        load_classifier(params.quality, quality_key(source))  # refuses before anything is read
    number, pieces = shard
    found = read_pieces(folder, pieces, params)
    counts = add_up([])
    with ExitStack() as files:
        writers = [
            files.enter_context(ShardWriter(target / shard_name(kind, number), schema))
            for kind, schema in shard_schemas(params).items()
        ]
        while (batch := sort_out(source, found, params))[2]:
            documents, unreadable, _ = batch
            counts = add_up([counts, counts_of(*batch)])
            tables = tables_of(documents, unreadable, params)
            documents.clear()  # their texts stand in the tables
            for writer, table in zip(writers, tables, strict=True):
                writer.write(table)
    return counts


def tables_of(documents: list[Row], unreadable: list[Row], params: ExtractParams) -> list[Any]:
    """What is written of a batch, by shard_schemas, as tables of Arrow."""
    schema = own_signals(params)
    own = pl.DataFrame({name: [row[name] for row in documents] for name in schema}, schema=schema)
    signals = pl.concat([own, measure([row["text"] for row in documents], params.words)], how="horizontal")
    # Not by way of Polars, which would hold each text twice.
    columns = {name: [row[name] for row in documents] for name in DOCUMENT_SCHEMA}
    return [as_strings(columns), as_arrow(signals), as_arrow(pl.DataFrame(unreadable, schema=UNREADABLE_SCHEMA))]


def counts_of(documents: list[Row], unreadable: list[Row], read: int) -> dict[str, Any]:
    """What becomes of a batch in the manifest's counts."""
    return {
        "read": read,
        "kept": len(documents),
        "dropped": Counter(row["rule"] for row in unreadable),
        "bytes": sum(utf8_bytes(row["text"]) for row in documents),
        "languages": Counter(row["language"] for row in documents),
    }


def add_up(counts: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums of the counts of shards, or of batches."""
    total: dict[str, Any] = {key: sum(each[key] for each in counts) for key in ("read", "kept", "bytes")}
    for key in ("dropped", "languages"):
        total[key] = sum((Counter(each[key]) for each in counts), Counter())
    assert total["read"] == total["kept"] + sum(total["dropped"].values())
    return total
