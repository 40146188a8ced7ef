"""Which documents of a build a query names: an id, an origin, a URL.

a build's files, a query  ->  places of documents, and input that never became one
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lineage.documents import EXTRACT, Place, find, scan, shards

SHORTEST_PREFIX = 8
ID = re.compile(rf"[0-9a-fA-F]{{{SHORTEST_PREFIX},32}}")


@dataclass(frozen=True)
class Unreadable:
    """Input of which extract could make no document."""

    source: str
    origin: str
    rule: str
    detail: str


def located(build: Path, query: str) -> list[Place]:
    """The documents that `query` names: by id or a beginning of it, else by origin, else by URL."""
    if ID.fullmatch(query) and (places := find(build, pl.col("id").str.starts_with(query.lower()))):
        return places
    return named(find(build, pl.col("origin").str.ends_with(query)), query) or at_url(build, query)


def named(places: list[Place], query: str) -> list[Place]:
    """Those whose origin is `query`; if none is, those of which it is the last part, from a separator on."""
    exact = [place for place in places if place.origin == query]
    return exact or [place for place in places if place.origin.removesuffix(query)[-1:] in ("/", "!")]


def at_url(build: Path, query: str) -> list[Place]:
    """The documents whose meta has `query` as their URL, with or without a slash at the end."""
    if "://" not in query:
        return []
    spelled = json.dumps(query.rstrip("/"), ensure_ascii=False)[1:-1]
    found = scan(
        shards(build, EXTRACT, "documents"),
        pl.col("meta").str.contains(spelled, literal=True),
        ["id", "origin", "meta"],
    )
    return [
        Place(row["id"], shard.source, row["origin"], shard.number, number)
        for shard, number, row in found
        if str(json.loads(row["meta"]).get("url", "")).rstrip("/") == query.rstrip("/")
    ]


def unreadable(build: Path, query: str) -> list[Unreadable]:
    """What extract could make no document of, by its origin or the last part of it."""
    listed = shards(build, EXTRACT, "unreadable")
    found = [
        Unreadable(shard.source, row["origin"], row["rule"], row["detail"])
        for shard, _, row in scan(listed, pl.col("origin").str.ends_with(query), ["origin", "rule", "detail"])
    ]
    exact = [each for each in found if each.origin == query]
    return exact or [each for each in found if each.origin.removesuffix(query)[-1:] in ("/", "!")]
