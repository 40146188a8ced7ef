"""Words of many texts at once: one definition of a word for every rule and for dedup, in arrays.

    texts  ->  one buffer of code points  ->  words and marks: where, whose, and a 64-bit hash

A *word* is a run of letters, digits and underscores, apostrophes inside included; a *mark* is any
other character that isn't white space: `\\w+(?:['’]\\w+)*|[^\\w\\s]`. The definition is part of the
recipe: another one moves documents over the thresholds (docs/rules.md).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import regex

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.uint32]

UNICODE = 0x110000
NEWLINE = ord("\n")
BATCH_CHARACTERS = 1 << 19  # some 50 MB of arrays; in larger batches they leave the processor's cache
BASE = np.uint64(0x9E3779B97F4A7C15)
BASE_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
MIX = np.uint64(0xBF58476D1CE4E5B9)


@cache
def _all_characters() -> str:
    return "".join(map(chr, range(UNICODE)))


@cache
def character_class(pattern: str) -> Bools:
    """Whether each code point matches `pattern`, a character class; shape (0x110000,).

    The `regex` package brings its own Unicode tables, so the classes depend on requirements.lock
    and not on the Python at hand.
    """
    table = np.zeros(UNICODE, bool)
    for run in regex.finditer(f"(?:{pattern})+", _all_characters()):
        table[run.start() : run.end()] = True
    return table


def batches(texts: list[str], characters: int = BATCH_CHARACTERS) -> Iterator[slice]:
    """Consecutive slices of `texts` of at most `characters` each; a longer text comes alone."""
    begin = held = 0
    for index, text in enumerate(texts):
        if held and held + len(text) > characters:
            yield slice(begin, index)
            begin, held = index, 0
        held += len(text)
    if begin < len(texts):
        yield slice(begin, len(texts))


@dataclass(frozen=True)
class Buffer:
    """The code points of several texts, with a newline before, between and after them."""

    codes: Codes
    starts: Ints  # of each text in codes
    ends: Ints

    def locate(self, positions: Ints) -> Ints:
        """Where each text begins among the sorted `positions`, and after the last one their number."""
        return np.append(np.searchsorted(positions, self.starts), len(positions))

    def texts_at(self, bounds: Ints) -> Ints:
        """To which text each thing belongs of which text t has `bounds[t]:bounds[t + 1]`."""
        return np.repeat(np.arange(len(self.starts)), np.diff(bounds))

    def is_a(self, pattern: str, at: Ints | None = None) -> Bools:
        """Whether each code point, or those `at` some positions, match `pattern`, a character class."""
        return character_class(pattern).take(self.codes if at is None else self.codes[at])

    @cached_property
    def in_word(self) -> Bools:
        """Whether each code point is part of a word: `\\w`, or an apostrophe between two of them."""
        inside = self.is_a(r"\w")
        apostrophes = np.flatnonzero((self.codes == ord("'")) | (self.codes == ord("’")))
        inside[apostrophes[inside[apostrophes - 1] & inside[apostrophes + 1]]] = True
        return inside

    @cached_property
    def is_black(self) -> Bools:
        """Whether each code point is anything but white space."""
        return ~self.is_a(r"\s")

    @cached_property
    def newlines(self) -> Ints:
        """Where the newlines are."""
        return np.flatnonzero(self.codes == NEWLINE)

    @cached_property
    def spans(self) -> "SpanHashes":
        """What hashes any span of the buffer."""
        return SpanHashes(self.codes)


def buffer_of(texts: list[str]) -> Buffer:
    """The texts as one buffer."""
    joined = "\n".join(["", *texts, ""])
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint32, copy=False)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    ends = np.cumsum(lengths + 1)
    return Buffer(codes, ends - lengths, ends)


@dataclass(frozen=True)
class Words:
    """Words and marks of a buffer, in order."""

    starts: Ints
    ends: Ints
    hashes: Hashes  # equal strings have equal hashes, in every batch and every build
    is_word: Bools  # else a mark
    texts: Ints  # to which text each belongs
    bounds: Ints  # words of text t: bounds[t] to bounds[t + 1]


def words_of(buffer: Buffer) -> Words:
    """Find and hash the words and marks of `buffer`."""
    inside = buffer.in_word
    marks = buffer.is_black & ~inside
    starts = np.flatnonzero((inside & ~shifted(inside, 1)) | marks)
    ends = np.flatnonzero((inside & ~shifted(inside, -1)) | marks) + 1
    bounds = buffer.locate(starts)
    hashes = buffer.spans.of(starts, ends)
    return Words(starts, ends, hashes, inside[starts], buffer.texts_at(bounds), bounds)


def shifted(mask: Bools, by: int) -> Bools:
    """`mask` moved by one place to the right (1) or left (-1); what comes in from outside is False."""
    moved = np.zeros_like(mask)
    if by > 0:
        moved[1:] = mask[:-1]
    else:
        moved[:-1] = mask[1:]
    return moved


class SpanHashes:
    """Hashes of any spans of a buffer, after one pass over it.

    The polynomial hash of Karp and Rabin (1987, IBM J. Res. Dev. 31:2), modulo 2^64: the sum of
    character times BASE^position, by prefix sums, divided by BASE^start. Characters are mixed
    first, without which small differences between texts would cancel out.
    """

    def __init__(self, codes: Codes):
        terms = mixed(codes.astype(np.uint64) + np.uint64(1))
        terms *= powers(len(codes), BASE)
        self.sums = np.zeros(len(codes) + 1, np.uint64)
        np.cumsum(terms, out=self.sums[1:])
        self.inverse = powers(len(codes), BASE_INVERSE)

    def of(self, starts: Ints, ends: Ints) -> Hashes:
        """The hash of each span `starts[i]:ends[i]`."""
        return mixed((self.sums[ends] - self.sums[starts]) * self.inverse[starts])


def powers(count: int, base: np.uint64) -> Hashes:
    """base^0 … base^(count - 1), modulo 2^64."""
    return _powers(1 << max(count - 1, BATCH_CHARACTERS).bit_length(), base)[:count]


@lru_cache(maxsize=2)
def _powers(count: int, base: np.uint64) -> Hashes:
    table = np.full(count, base, np.uint64)
    table[0] = 1
    return np.cumprod(table, out=table)


def mixed(values: Hashes) -> Hashes:
    """`values` with every bit spread over all 64 (multiply and xor-shift, one round of SplitMix64)."""
    values = values * MIX
    values ^= values >> np.uint64(32)
    values *= BASE
    values ^= values >> np.uint64(29)
    return values


def first_equal(hashes: Hashes) -> Ints:
    """For each of `hashes` the index of the first one that is equal to it.

    By rounds of a hash table without chains: each bucket takes the first hash that falls into it,
    the others wait for the next round. Four times as fast as sorting, and as exact.
    """
    firsts = np.empty(len(hashes), np.int64)
    waiting, asking = np.arange(len(hashes), dtype=np.int32), hashes
    while len(waiting):
        bits = (2 * len(waiting)).bit_length()
        buckets = (asking >> np.uint64(64 - bits)).astype(np.int64)
        taken = np.empty(1 << bits, np.int32)  # half as many bytes as int64 has, and more of it in the cache
        taken[buckets[::-1]] = waiting[::-1]  # the last to write stays: the first of all
        found = taken[buckets]
        firsts[waiting] = found  # those that aren't equal come again
        again = np.flatnonzero(hashes[found] != asking)
        waiting, asking = waiting[again], asking[again]
    return firsts


def later_occurrences(hashes: Hashes) -> Bools:
    """Whether an equal hash stands earlier in `hashes`."""
    later: Bools = first_equal(hashes) < np.arange(len(hashes))
    return later


def within_texts(hashes: Hashes, texts: Ints) -> Hashes:
    """`hashes` that are equal only if they belong to the same text, too."""
    return hashes + mixed(texts.astype(np.uint64) + np.uint64(1))
