"""What two documents are compared by: digests, shingles and MinHash signatures of their texts.

    texts  ->  128-bit digests of them, and MinHash signatures of their shingles

Broder 1997, On the resemblance and containment of documents; the folding of characters is FineWeb's (Penedo et al.
2024, arXiv:2406.17557, section 3.4). Of each hash only the lower 16 bits are kept (b-bit minwise
hashing, Li and König 2010, WWW): a quarter of the bytes of 64-bit hashes,
and two that differ seem equal once in 65,536.
"""

import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import regex
from pydantic import Field

from stages.params import StageParams
from stages.words import BASE, UNICODE, Buffer, Hashes, Ints, batches, buffer_of, character_class, mixed, shifted

BLOCK = 1 << 17  # shingles hashed at once: small enough for the processor's cache
PIECE = 1 << 19  # characters of a text that are hashed at once
LAST_BLANK = regex.compile(r"(?r)\s")
NO_SHINGLE = 0xFFFF  # every hash of a text that is too short for one

FINGERPRINT_SCHEMA = pl.Schema(
    {
        "id": pl.String,
        "characters": pl.Int64,
        "digest": pl.Binary,  # 16 bytes, see text_digests
    }
)

Signatures = npt.NDArray[np.uint16]
Shingles = npt.NDArray[np.uint32]


class SpanParams(StageParams):
    """Parts of documents that are compared within a source: lines, or paragraphs, which blank lines keep apart."""

    unit: Literal["line", "paragraph"] = Field(description="what is compared")
    min_characters: int = Field(40, ge=1, description="of a span that is compared, white space around it not counted")
    sources: tuple[str, ...] = Field((), description="those whose spans are; all, if none is named")

    def of(self, source: str) -> bool:
        """Whether the spans of `source` are compared."""
        return not self.sources or source in self.sources


class FingerprintParams(StageParams):
    """What the signatures of documents are made of.

    Two documents of Jaccard similarity s share a band with probability 1 - (1 - s^rows)^bands: at the
    default 0.98 for s = 0.7, 0.9999 for 0.8, but 0.5 for 0.5, too, which is why dedup.min_similarity is asked of them.
    """

    ngram: int = Field(5, ge=1, le=32, description="words in a shingle")
    bands: int = Field(22, ge=1, le=256, description="bands of a signature")
    rows: int = Field(5, ge=1, le=64, description="hashes in a band")
    seed: int = Field(1, ge=0, lt=1 << 63, description="of the hashes")
    spans: SpanParams | None = None

    @property
    def hashes(self) -> int:
        """How many hashes a signature has."""
        return self.bands * self.rows


# ---- digests -----------------------------------------------------------------------------------------------


def text_digests(texts: pl.Series) -> list[bytes]:
    """The 128-bit digest of each text in lower case, with any white space as one blank and none at the ends."""
    listed = texts.to_list()
    digests: list[bytes] = []
    for part in batches(listed):
        if len(listed[part.start]) > PIECE:
            digests.append(digest_of(lower([piece])[0] for piece in pieces(listed[part.start])))
        else:
            digests += [digest_of([text]) for text in lower(listed[part])]
    return digests


def digest_of(parts: Iterable[str]) -> bytes:
    """The digest of the words in `parts` of a text, of which each ends with a word."""
    digest = hashlib.blake2b(digest_size=16)
    before = b""
    for part in parts:
        if words := part.split():
            digest.update(before + " ".join(words).encode())
            before = b" "
    return digest.digest()


def lower(texts: list[str]) -> pl.Series:
    """The texts in lower case. Polars brings its own Unicode tables: the same under every Python."""
    return pl.Series(texts, dtype=pl.String).str.to_lowercase()


def pieces(text: str) -> Iterator[str]:
    """`text` in pieces of at most PIECE characters, cut before white space, if there is any."""
    begin = 0
    while len(text) - begin > PIECE:
        blank = LAST_BLANK.search(text, begin + 1, begin + PIECE + 1)
        cut = blank.start() if blank else begin + PIECE
        yield text[begin:cut]
        begin = cut
    yield text[begin:]


# ---- shingles ----------------------------------------------------------------------------------------------


@cache
def folding() -> npt.NDArray[np.uint32]:
    """For each code point the one that stands for it in a shingle; 0: none does, it is skipped.

    As FineWeb's: lower case, letters without their accents, digits as `0`, marks and white space as
    a blank.
    """
    letters = np.flatnonzero(character_class(r"\w"))
    lower = pl.Series("lower", map(chr, letters), pl.String).str.to_lowercase()
    bare = lower.str.normalize("NFD").str.replace_all(r"\p{M}", "").alias("bare")
    # What is more than a letter with accents stays whole: the syllables of Hangul.
    simple = pl.select(pl.when(bare.str.len_chars() == 1).then(bare).otherwise(lower.str.head(1))).to_series()
    table = np.full(UNICODE, ord(" "), np.uint32)
    table[letters] = np.frombuffer("".join(simple).encode("utf-32-le"), "<u4")
    table[character_class(r"\p{Nd}")] = ord("0")
    table[character_class(r"\p{M}")] = 0
    return table


def shingles(texts: list[str], ngram: int) -> tuple[Shingles, Ints]:
    """A hash of every `ngram` words in a row, and where those of each text begin (and, last, their number)."""
    return shingles_of(*folded_words(texts), ngram)


def shingles_of(words: Hashes, bounds_of_words: Ints, ngram: int) -> tuple[Shingles, Ints]:
    """The same of the hashes of words, of which text t has `bounds_of_words[t]:bounds_of_words[t + 1]`."""
    number = np.maximum(np.diff(bounds_of_words) - ngram + 1, 0)
    bounds = np.append(0, np.cumsum(number))
    begins = np.arange(bounds[-1]) + np.repeat(bounds_of_words[:-1] - bounds[:-1], number)
    hashes = words[begins]
    for offset in range(1, ngram):
        hashes = hashes * BASE + words[begins + offset]
    return (mixed(hashes) >> np.uint64(32)).astype(np.uint32), bounds


def folded_words(texts: list[str]) -> tuple[Hashes, Ints]:
    """A hash of every word after folding, and where those of each text begin (and, last, their number)."""
    buffer = folded_buffer(texts)
    inside = buffer.codes != ord(" ")
    starts = np.flatnonzero(inside & ~shifted(inside, 1))
    ends = np.flatnonzero(inside & ~shifted(inside, -1)) + 1
    return buffer.spans.of(starts, ends), buffer.locate(starts)


def folded_buffer(texts: list[str]) -> Buffer:
    """The texts as one buffer of folded characters; a blank stands for every newline."""
    buffer = buffer_of(texts)
    codes = folding().take(buffer.codes)
    kept = codes > 0
    if kept.all():
        return Buffer(codes, buffer.starts, buffer.ends)
    places = np.append(0, np.cumsum(kept))
    return Buffer(codes[kept], places[buffer.starts], places[buffer.ends])


# ---- signatures --------------------------------------------------------------------------------------------


def multipliers(params: FingerprintParams) -> npt.NDArray[np.uint32]:
    """The odd numbers that make one hash function each of multiplication modulo 2^32."""
    draw = np.random.Generator(np.random.PCG64(params.seed))
    return draw.integers(0, 1 << 31, params.hashes, dtype=np.uint32) * 2 + 1


def signatures(texts: list[str], params: FingerprintParams) -> Signatures:
    """The MinHash signature of each text, shape (texts, bands * rows).

    NO_SHINGLE throughout for a text that has fewer than `ngram` words, hence no shingle.
    """
    found = [np.zeros((0, params.hashes), np.uint16)]
    for part in batches(texts):
        if len(texts[part.start]) > PIECE:
            least = least_of_long(texts[part.start], params)
        else:
            least = least_hashes(*shingles(texts[part], params.ngram), multipliers(params))
        found.append(least.astype(np.uint16))
    return np.concatenate(found)


def least_of_long(text: str, params: FingerprintParams) -> Shingles:
    """The least hashes of one text that is read piece by piece, shape (1, hashes)."""
    least = np.full((1, params.hashes), 0xFFFFFFFF, np.uint32)
    words = np.zeros(0, np.uint64)
    for piece in pieces(text):
        words = np.concatenate([words[max(len(words) - params.ngram + 1, 0) :], folded_words([piece])[0]])
        found = shingles_of(words, np.array([0, len(words)]), params.ngram)
        np.minimum(least, least_hashes(*found, multipliers(params)), out=least)
    return least


def least_hashes(hashes: Shingles, bounds: Ints, multipliers: npt.NDArray[np.uint32]) -> Shingles:
    """The least of the `hashes[bounds[t]:bounds[t + 1]]` of each text t under each of the hash functions."""
    least = np.full((len(bounds) - 1, len(multipliers)), 0xFFFFFFFF, np.uint32)
    for begin in range(0, len(hashes), BLOCK):
        block = hashes[begin : begin + BLOCK]
        first = np.searchsorted(bounds, begin, "right") - 1
        last = np.searchsorted(bounds, begin + len(block), "left")
        present = first + np.flatnonzero(np.diff(bounds[first : last + 1]))
        starts = np.maximum(bounds[present] - begin, 0)
        for column, multiplier in enumerate(multipliers):
            found = np.minimum.reduceat(block * multiplier, starts)
            least[present, column] = np.minimum(least[present, column], found)
    return least


def similarities(signatures: Signatures, others: Signatures) -> npt.NDArray[np.float64]:
    """The estimated Jaccard similarity of each signature and its other: the share of equal hashes."""
    equal = (signatures == others).sum(axis=1, dtype=np.int64)
    shares: npt.NDArray[np.float64] = equal / max(signatures.shape[1], 1)
    return shares


def band_keys(hashes: Signatures, band: int) -> Hashes:
    """One 64-bit hash of each signature's hashes in `band`, shape (rows, signatures)."""
    keys = np.full(hashes.shape[1], band, np.uint64)
    for row in hashes:
        keys = mixed(keys + row)
    return keys
