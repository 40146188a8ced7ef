"""The documents of a build and the decisions on them, as a Croissant 1.1 description (JSON-LD).

    Facts  ->  {"@type": "sc:Dataset", "conformsTo": "http://mlcommons.org/croissant/1.1", …}

The format: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html. Every shard is a file with its sha256;
the shards of a kind are a file set, and a record set says what their columns are. A decision names its document.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import polars as pl

from lineage.export.cyclonedx import spdx_id
from lineage.export.facts import UNKNOWN, Facts, File, by
from stages.documents import DECISION_SCHEMA, DOCUMENT_SCHEMA

CONFORMS = "http://mlcommons.org/croissant/1.1"
PARQUET = "application/x-parquet"  # the name that mlcroissant reads
NAME = "pedigree-corpus"
# Names of the format and of schema.org, as every Croissant file declares them.
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{
        term: f"cr:{term}"
        for term in (
            "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject",
            "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
            "parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate",
            "separator", "source", "subField", "transform",
        )
    },
}  # fmt: skip
TYPES = {pl.String: "sc:Text", pl.Boolean: "sc:Boolean", pl.Float64: "sc:Float", pl.Int64: "sc:Integer"}
COLUMNS = {
    "id": "128-bit name of the document, for ever the same: a digest of its source and origin.",
    "text": "The text, extracted and cleaned.",
    "source": "The source that it is from.",
    "origin": "File, member of the archive and record that it was read from.",
    "license": "The licence that it states, else that of its source.",
    "date": "ISO 8601, as precise as it is known.",
    "language": "ISO 639 code of the most likely language; for code, the programming language.",
    "meta": "JSON object of what else the format tells, such as title and URL.",
    "keep": "Whether it was kept.",
    "rule": "The rule that dropped it.",
    "value": "The measured value that broke the rule.",
    "threshold": "The threshold that it broke.",
    "duplicate_of": "The document that was kept instead of it.",
    "similarity": "Estimated Jaccard similarity with that document.",
    "duplicates": "How many documents were dropped as its duplicates, if it was kept.",
    "cuts": "What is left out of its text: begins and ends in turn, in characters.",
    "split": "train or held_out, if it was kept.",
    "synthetic": "Whether a language model wrote it.",
}


def description(facts: Facts, folder: str = ".") -> dict[str, Any]:
    """The description of the build's documents; the project lies at `folder` from where it will stand."""
    languages = [row["language"] for row in by(facts.tally, "language") if row["language"]]
    known = {"version": facts.version, "datePublished": facts.date, "inLanguage": languages or None}
    name = f"urn:pedigree:dvc.lock:sha256:{facts.digest}"
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS,
        "name": NAME,
        "description": _summary(facts),
        "identifier": name,
        # The format wants a page and somebody who made it; a build knows its own name alone.
        "url": name,
        "creator": {"@type": "sc:Organization", "name": UNKNOWN},
        "license": [_licence(row["license"]) for row in by(facts.tally, "license")] or [UNKNOWN],
        "keywords": ["language modelling", "pretraining"],
        **{name: value for name, value in known.items() if value},
        "rai:dataPreprocessingProtocol": [*_rules(facts)],
        "rai:personalSensitiveInformation": [f"{UNKNOWN}: no stage of the build looks for personal data or masks it."],
        "prov:wasDerivedFrom": [{"@id": address} for address in _addresses(facts)],
        "distribution": [*_distribution(facts, folder)],
        "recordSet": [_documents(), _decisions()],
    }


def _summary(facts: Facts) -> str:
    count = facts.tally["documents"].sum()
    kept = facts.tally.filter(facts.tally["trained"])["documents"].sum()
    return (
        f"{count} documents of text from {len(facts.sources)} sources, with a decision on each: kept, or dropped by "
        f"which rule, at which value. A language model was trained on {kept} of them."
    )


def _licence(text: str | None) -> str:
    spdx = spdx_id(text) if text else None
    return f"https://spdx.org/licenses/{spdx}" if spdx else text or UNKNOWN


def _addresses(facts: Facts) -> Iterator[str]:
    for source in facts.sources:
        yield from (f"pkg:pypi/{package['name'].lower()}@{package['version']}" for package in source.packages)
        yield from source.urls


def _rules(facts: Facts) -> Iterator[str]:
    """What each source's documents had to pass, and how many didn't."""
    for source in facts.sources:
        counts = source.counts
        if counts and counts.filtered is not None:
            dropped = sum(counts.filtered.values()) + sum((counts.duplicates or {}).values())
            sets = ", ".join(name for name in source.params.get("filter", {})) or "no rule set"
            yield f"{source.name}: {sets}, then deduplication; {dropped} of {counts.read} documents read were dropped."


def _distribution(facts: Facts, folder: str) -> Iterator[dict[str, Any]]:
    for source in facts.sources:
        yield from (_file(file, folder) for file in (*source.documents, *source.decisions))
    for kind, stage in (("documents", "extract"), ("decisions", "dedup")):
        yield {
            "@type": "cr:FileSet",
            "@id": kind,
            "name": kind,
            "description": f"All shards of {kind}.",
            "encodingFormat": PARQUET,
            "includes": _below(folder, f"data/{stage}/*/{kind}-*.parquet"),
        }


def _file(file: File, folder: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file.path,
        "name": file.path,
        "contentUrl": _below(folder, file.path),
        "contentSize": f"{file.bytes} B",
        "encodingFormat": PARQUET,
        "sha256": file.sha256,
    }


def _below(folder: str, path: str) -> str:
    return path if folder == "." else f"{folder}/{path}"


def _documents() -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "document",
        "name": "document",
        "description": "One row for each document that was extracted.",
        "key": {"@id": "document/id"},
        "field": [*_fields("document", "documents", DOCUMENT_SCHEMA)],
    }


def _decisions() -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "decision",
        "name": "decision",
        "description": "What became of each document: a row for each one, in the order of the documents.",
        "key": {"@id": "decision/id"},
        "field": [*_fields("decision", "decisions", DECISION_SCHEMA, {"id": "document/id"})],
    }


def _items(dtype: Any) -> Any:
    """The class of what a column holds, or of the items of its lists."""
    item = dtype.inner if isinstance(dtype, pl.List) else dtype
    return type(item) if isinstance(item, pl.DataType) else item


def _fields(
    record_set: str, files: str, schema: pl.Schema, references: Mapping[str, str] | None = None
) -> Iterable[dict[str, Any]]:
    for name, dtype in schema.items():
        refers = (references or {}).get(name)
        yield {
            "@type": "cr:Field",
            "@id": f"{record_set}/{name}",
            "name": name,
            "description": COLUMNS[name],
            "dataType": TYPES[_items(dtype)],
            **({"repeated": True} if isinstance(dtype, pl.List) else {}),
            "source": {"fileSet": {"@id": files}, "extract": {"column": name}},
            **({"references": {"field": {"@id": refers}}} if refers else {}),
        }
