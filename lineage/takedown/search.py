"""The documents that are asked for, in the files of builds. Each distinct file is read once, however many have it.

extract: which documents  ->  dedup: what became of them, and their duplicates  ->  tokenize: their tokens
"""

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from lineage.documents import DEDUP, EXTRACT, TOKENIZE, Place, find, scan, shards, synthetic
from lineage.history import Build
from lineage.objects import Objects
from lineage.training import stream_of
from stages.documents import document_id
from stages.takedown import Takedown

TRAINED, HELD_OUT = "trained on", "held out"


@dataclass(frozen=True)
class Fate:
    """What became of a document in a build."""

    source: str
    origin: str
    fate: str  # trained on, held out, or the rule that dropped it
    duplicate_of: str | None
    similarity: float | None
    synthetic: bool  # whether a language model wrote it


@dataclass(frozen=True)
class Tokens:
    """Tokens of a source that are of some documents: ranges [begin, end) of its stream."""

    begins: pl.Series
    ends: pl.Series
    of: int  # all tokens of the source

    @property
    def count(self) -> int:
        """How many there are."""
        return int((self.ends - self.begins).sum())


NO_TOKENS = Tokens(pl.Series(dtype=pl.Int64), pl.Series(dtype=pl.Int64), 0)


@dataclass
class Search:
    """A question, and what is known of its answer so far."""

    objects: Objects
    question: Takedown
    places: dict[str, Place] = field(default_factory=dict)  # of the documents found anywhere, by id
    _extracts: dict[str, list[Place]] = field(default_factory=dict)  # by digest
    _ledgers: dict[str, dict[str, Fate]] = field(default_factory=dict)
    _tokens: dict[str, Tokens] = field(default_factory=dict)

    @property
    def ids(self) -> set[str]:
        """Of the documents found, and those that are asked for by their ids."""
        return {*self.places, *self.question.named("id")}

    def documents(self, build: Build, source: str) -> list[Place]:
        """The documents of `source` in `build` that are asked for.

        Raises:
            Missing: if an object is needed that isn't here.
            Refusal: if it lacks a column that the question needs.
        """
        path = f"{EXTRACT}/{source}"
        digest = build.outs[path].md5
        if digest not in self._extracts:
            self._extracts[digest] = find(self.objects.folder(build, path), self.question.hit)
            self.places |= {place.id: place for place in self._extracts[digest]}
        return self._extracts[digest]

    def fates(self, build: Build) -> dict[str, Fate]:
        """What became of the documents found, by id, and of those that are duplicates of one of them, or of the same.

        Raises:
            Missing, Refusal: as `documents`.
        """
        if DEDUP not in build.outs:
            return {}
        digest = build.outs[DEDUP].md5
        if digest not in self._ledgers:
            folder = self.objects.folder(build, DEDUP)
            found = _fates(folder, self.ids)
            kept_instead = {fate.duplicate_of for fate in found.values() if fate.duplicate_of} - self.ids
            if kept_instead:
                found |= _fates(folder, kept_instead)
            self._ledgers[digest] = found
        return self._ledgers[digest]

    def tokens(self, build: Build, source: str) -> Tokens:
        """The tokens of `source` in `build` that are of the documents found.

        Raises:
            Missing, Refusal: as `documents`.
        """
        path = f"{TOKENIZE}/{source}"
        if path not in build.outs:
            return NO_TOKENS
        digest = build.outs[path].md5
        if digest not in self._tokens:
            self._tokens[digest] = _tokens(self.objects.folder(build, path), source, self.ids)
        return self._tokens[digest]


def _fates(folder: Path, ids: set[str]) -> dict[str, Fate]:
    wanted = sorted(ids)
    concerned = pl.col("id").is_in(wanted) | pl.col("duplicate_of").is_in(wanted).fill_null(False)
    listed = shards(folder, DEDUP, "decisions")
    columns = ["id", "origin", "keep", "rule", "duplicate_of", "similarity", "split"]
    found = scan(listed, concerned, [*columns, synthetic([shard.path for shard in listed])])
    return {
        row["id"]: Fate(
            shard.source, row["origin"], _fate(row), row["duplicate_of"], row["similarity"], row["synthetic"]
        )
        for shard, _, row in found
    }


def _fate(row: dict[str, object]) -> str:
    if not row["keep"]:
        return str(row["rule"])
    return HELD_OUT if row["split"] == "held_out" else TRAINED


def _tokens(folder: Path, source: str, ids: set[str]) -> Tokens:
    stream = stream_of(folder, source)
    columns = ["first_token", "tokens"]
    found = scan(shards(folder, TOKENIZE, "documents"), pl.col("id").is_in(sorted(ids)), columns)
    ranges = [(stream[shard.number].begin + row["first_token"], row["tokens"]) for shard, _, row in found]
    begins = pl.Series([begin for begin, _ in ranges], dtype=pl.Int64)
    return Tokens(begins, begins + pl.Series([tokens for _, tokens in ranges], dtype=pl.Int64), stream[-1].end)


def other_ids(places: list[Place], names: dict[str, set[str]]) -> dict[str, Place]:
    """The ids that the documents have where their source has another name."""
    return {document_id(name, place.origin): place for place in places for name in names.get(place.source, ())}
