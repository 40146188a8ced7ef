"""Which documents of a build have a text: exactly, or nearly.

a build's signals and texts, a text  ->  the documents with the same text, else those most like it

Exact means what dedup means by it: the same but for case and white space. As neither changes how many words and
marks a text has, extract's signals name the few candidates, and only their texts are read. What is like the text is
looked for among the documents whose words and marks come nearest in number and length, as many as can be read in a
second, and, in a corpus of moderate size, among those that have one of a few phrases of it; the similarity of the best
of these is estimated from MinHash signatures as dedup has them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from lineage.documents import EXTRACT, Place, Shard, scan, shards
from stages.documents import shard_name
from stages.extract.cleaning import clean_text
from stages.minhash import FingerprintParams, shingles, signatures, similarities, text_digests
from stages.words import batches, buffer_of, words_of

Shingles = npt.NDArray[np.uint32]

CHARACTERS = 2_000_000  # that are compared: a quarter of a second
BLOCK_ROWS = 8192  # of a row group of a shard: what is decoded for one text
BLOCKS = 256
BEST = 5
EXCERPT_BYTES = 256 << 20  # shards of documents, compressed, that are searched for phrases: two seconds
PHRASES, PHRASE_WORDS = 4, 6


@dataclass(frozen=True)
class Match:
    """A document that has a text, or is like it."""

    place: Place
    similarity: float  # Jaccard of their shingles, estimated
    contained: float  # the share of the asked text's shingles that the document has

    @property
    def likeness(self) -> float:
        """How much they are the same, or the one a part of the other."""
        return max(self.similarity, self.contained)


@dataclass(frozen=True)
class Nearest:
    """The documents most like a text, the best first, of so many compared."""

    matches: list[Match]
    compared: int
    documents: int


@dataclass(frozen=True)
class Counts:
    """What a text has in common with every other that is equal but for case and white space."""

    words: int
    marks: int
    mean_word_length: float


def counts_of(text: str) -> Counts:
    """The counts of extract's signals of these names."""
    words = words_of(buffer_of([text]))
    number = int(words.is_word.sum())
    characters = int(((words.ends - words.starts) * words.is_word).sum())
    return Counts(number, len(words.is_word) - number, characters / max(number, 1))


def exact(build: Path, text: str) -> list[Place]:
    """The documents with this text, or with what cleaning makes of it."""
    forms = [text, clean_text(text)]
    digests = set(text_digests(pl.Series(forms)))
    counted = {(counts.words, counts.marks) for counts in map(counts_of, forms)}
    same = pl.any_horizontal((pl.col("words") == words) & (pl.col("marks") == marks) for words, marks in counted)
    rows = [(shard, row) for shard, row, _ in scan(shards(build, EXTRACT, "signals"), same, ["id"])]
    return [
        place
        for places, texts in read_texts(build, rows)
        for place, digest in zip(places, text_digests(texts), strict=True)
        if digest in digests
    ]


def nearest(build: Path, text: str, params: FingerprintParams) -> Nearest:
    """The documents that share most shingles with `text`, and their estimated similarity.

    None for a text of fewer than params.ngram words.
    """
    listed = shards(build, EXTRACT, "signals")
    near = [*having(shards(build, EXTRACT, "documents"), text), *closest(listed, counts_of(text))]
    rows = list({(shard.source, shard.number, row): (shard, row) for shard, row in near}.values())
    asked = np.unique(shingles([text], params.ngram)[0])
    best: list[tuple[float, Place, str]] = []
    for places, texts in read_texts(build, rows):
        shares = contained(texts.to_list(), asked, params.ngram)
        best += [found for found in zip(shares, places, texts, strict=True) if found[0]]
        best = sorted(best, key=lambda found: -found[0])[: 4 * BEST]
    signed = signatures([text, *(each for _, _, each in best)], params)
    alike = similarities(signed[1:], signed[:1]).tolist()
    matches = [Match(place, share, like) for (like, place, _), share in zip(best, alike, strict=True)]
    matches.sort(key=lambda match: (-match.likeness, -match.similarity, match.place.id))
    return Nearest(matches[:BEST], len(rows), sum(shard.rows for shard in listed))


def having(listed: list[Shard], text: str) -> list[tuple[Shard, int]]:
    """The rows of the documents that have one of a few phrases of `text`; none if there is too much to read."""
    if sum(shard.path.stat().st_size for shard in listed) > EXCERPT_BYTES:
        return []
    found = scan(listed, pl.col("text").str.contains("|".join(phrases(text))), ["id"])
    return [(shard, row) for shard, row, _ in found]


def phrases(text: str) -> list[str]:
    """Patterns of a few words in a row, spread over `text`, with any white space between them."""
    words = [re.escape(word) for word in text.split()]
    last = max(len(words) - PHRASE_WORDS, 0)
    begins = {last * number // (PHRASES - 1) for number in range(PHRASES)}
    return [r"\s+".join(words[begin : begin + PHRASE_WORDS]) for begin in sorted(begins)]


def closest(listed: list[Shard], counts: Counts) -> list[tuple[Shard, int]]:
    """The rows whose counts come nearest to `counts`, the nearest first, as many as CHARACTERS and BLOCKS allow."""
    far = sum(
        ((pl.col(name) + 1).log() - float(np.log(getattr(counts, name) + 1))).abs()
        for name in ("words", "marks", "mean_word_length")
    )
    firsts = np.cumsum([0, *(shard.rows for shard in listed)])
    lazy = pl.scan_parquet([shard.path for shard in listed], row_index_name="row")
    near = lazy.select("row", "characters", far=far).bottom_k(CHARACTERS // 100, by="far").collect(engine="streaming")
    chosen: list[tuple[Shard, int]] = []
    blocks, characters = set(), 0
    for row, size, _ in near.sort("far", "row").iter_rows():
        number = int(np.searchsorted(firsts, row, side="right")) - 1
        place = int(row - firsts[number])
        blocks.add((number, place // BLOCK_ROWS))
        characters += size
        if chosen and (characters > CHARACTERS or len(blocks) > BLOCKS):
            break
        chosen.append((listed[number], place))
    return chosen


def contained(texts: list[str], asked: Shingles, ngram: int) -> list[float]:
    """Which share of the shingles `asked` (sorted, each once) each of the texts has."""
    shares: list[float] = []
    for part in batches(texts):
        hashes, bounds = shingles(texts[part], ngram)
        hit = np.flatnonzero(np.isin(hashes, asked))
        owners = np.searchsorted(bounds, hit, side="right") - 1
        found = (len(np.unique(hashes[hit[owners == text]])) for text in range(len(bounds) - 1))
        shares += [number / max(len(asked), 1) for number in found]
    return shares


def read_texts(build: Path, rows: list[tuple[Shard, int]]) -> Iterator[tuple[list[Place], pl.Series]]:
    """The documents in these rows and their texts, a block of a shard at a time."""

    def block(row: tuple[Shard, int]) -> tuple[str, int, int]:
        return row[0].source, row[0].number, row[1] // BLOCK_ROWS

    for (source, number, at), group in groupby(sorted(rows, key=lambda row: (*block(row), row[1])), key=block):
        path = build / EXTRACT / source / shard_name("documents", number)
        lazy = pl.scan_parquet(path).select("id", "origin", "text").slice(at * BLOCK_ROWS, BLOCK_ROWS)
        numbers = [row for _, row in group]
        table = lazy.collect()[[row - at * BLOCK_ROWS for row in numbers]]
        places = [
            Place(id, source, origin, number, row)
            for id, origin, row in zip(table["id"], table["origin"], numbers, strict=True)
        ]
        yield places, table["text"]
