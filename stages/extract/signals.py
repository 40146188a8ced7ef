"""Measure what the rules of filter ask for: one row of signals for each text.

    texts  ->  words, marks, lines, paragraphs (arrays)  ->  counts and ratios

Gopher (Rae et al. 2021, arXiv:2112.11446, appendix A1.1), C4 (Raffel et al. 2020, arXiv:1910.10683,
section 2.2), FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6), and for code The Stack
(Kocetkov et al. 2022, arXiv:2211.15533). docs/rules.md defines each signal and says where it differs
from other programs. Counts are summed as integers and divided once, so a signal has the same bits
on every machine and in every batch.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from stages.words import (
    BASE,
    NEWLINE,
    Bools,
    Buffer,
    Hashes,
    Ints,
    SpanHashes,
    Words,
    batches,
    buffer_of,
    later_occurrences,
    shifted,
    within_texts,
    words_of,
)

STOP_WORDS = ["the", "be", "to", "of", "and", "that", "have", "with"]  # Rae et al. 2021, A1.1
TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)
SHORT_LINE_CHARACTERS = 30  # Penedo et al. 2024, section 3.6

WHITE_SPACE = r"\s"
BULLETS = "[•‣⁃◦∙▪*-]"
SENTENCE_MARKS = r"[\p{Sentence_Terminal}…]"
CLOSING_MARKS = "[\"'”’»)\\]]"
LINE_PUNCTUATION = "[\\p{Sentence_Terminal}…\"'”’»]"

# Where a generator signs: the head of the file.
GENERATED_HEAD_CHARACTERS = 1000
GENERATED = r"(?i)auto-?generated|automatically generated|generated automatically|do not (?:edit|modify)"

INTEGER, REAL = pl.Int64(), pl.Float64()

SIGNAL_SCHEMA = pl.Schema(
    {
        "characters": INTEGER,
        "bytes": INTEGER,
        "words": INTEGER,
        "marks": INTEGER,
        "mean_word_length": REAL,
        "hash_to_word_ratio": REAL,
        "ellipsis_to_word_ratio": REAL,
        "bullet_line_ratio": REAL,
        "ellipsis_line_ratio": REAL,
        "alphabetic_word_ratio": REAL,
        "stop_words": INTEGER,
        "lines": INTEGER,
        "duplicate_line_ratio": REAL,
        "duplicate_line_character_ratio": REAL,
        "paragraphs": INTEGER,
        "duplicate_paragraph_ratio": REAL,
        "duplicate_paragraph_character_ratio": REAL,
        **{f"top_{n}_gram_character_ratio": REAL for n in TOP_NGRAMS},
        **{f"duplicate_{n}_gram_character_ratio": REAL for n in DUPLICATE_NGRAMS},
        "sentences": INTEGER,
        "lorem_ipsum": INTEGER,
        "curly_brackets": INTEGER,
        "line_punct_ratio": REAL,
        "short_line_ratio": REAL,
        "char_dup_ratio": REAL,
        "list_ratio": REAL,
        "max_line_length": INTEGER,
        "mean_line_length": REAL,
        "alphanumeric_ratio": REAL,
        "generated_marks": INTEGER,
    }
)

Columns = dict[str, np.ndarray]


def measure(texts: list[str]) -> pl.DataFrame:
    """The signals of each text, by SIGNAL_SCHEMA: one row per text, in their order.

    Lengths are in characters, ratios in [0, 1] unless docs/rules.md says otherwise; what has
    nothing to be measured on (the mean of no words) is 0.
    """
    tables = [_measure_batch(texts[part]) for part in batches(texts)]
    return pl.concat(tables) if tables else SIGNAL_SCHEMA.to_frame()


def _measure_batch(texts: list[str]) -> pl.DataFrame:
    buffer = buffer_of(texts)
    words = words_of(buffer)
    spans = SpanHashes(buffer.codes)
    lines = lines_of(buffer)
    counts = count_strings(texts)
    columns = {
        **counts,
        **word_signals(buffer, words, counts),
        **line_signals(buffer, lines, spans),
        **paragraph_signals(buffer, lines, spans),
        **repeated_ngrams(buffer, words),
        **layout_signals(buffer, words),
        "sentences": sentences(buffer, lines),
    }
    return pl.DataFrame({name: columns[name] for name in SIGNAL_SCHEMA}, schema=SIGNAL_SCHEMA)


def ratio(part: Ints, whole: Ints) -> np.ndarray:
    """part / whole, and 0 where there is no whole."""
    return part / np.maximum(whole, 1)


def totals(values: np.ndarray, bounds: Ints) -> Ints:
    """The sum of `values[bounds[t]:bounds[t + 1]]` for each text t."""
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return np.diff(sums[bounds])


def per_text(positions: Ints, buffer: Buffer) -> Ints:
    """How many of the sorted `positions` lie in each text."""
    return np.diff(buffer.locate(positions))


def count_strings(texts: list[str]) -> Columns:
    """What is counted by looking for fixed strings."""
    text = pl.col("text")
    found = pl.DataFrame({"text": texts}, schema={"text": pl.String}).select(
        characters=text.str.len_chars(),
        bytes=text.str.len_bytes(),
        hashes=text.str.count_matches("#", literal=True),
        ellipses=text.str.count_matches("...", literal=True) + text.str.count_matches("…", literal=True),
        lorem_ipsum=text.str.count_matches("(?i)lorem ipsum"),
        curly_brackets=text.str.count_matches("{", literal=True),
        generated_marks=text.str.head(GENERATED_HEAD_CHARACTERS).str.count_matches(GENERATED),
    )
    return {name: found[name].cast(pl.Int64).to_numpy() for name in found.columns}


def word_signals(buffer: Buffer, words: Words, counts: Columns) -> Columns:
    """Gopher's quality signals of words (Rae et al. 2021, A1.1)."""
    number = totals(words.is_word, words.bounds)
    alphabetic = np.zeros(len(buffer.codes) + 1, np.int64)
    np.cumsum(buffer.is_a(r"\p{Alphabetic}"), out=alphabetic[1:])
    has_letter = words.is_word & (alphabetic[words.ends] > alphabetic[words.starts])
    return {
        "words": number,
        "marks": totals(~words.is_word, words.bounds),
        "mean_word_length": ratio(totals((words.ends - words.starts) * words.is_word, words.bounds), number),
        "hash_to_word_ratio": ratio(counts["hashes"], number),
        "ellipsis_to_word_ratio": ratio(counts["ellipses"], number),
        "alphabetic_word_ratio": ratio(totals(has_letter, words.bounds), number),
        "stop_words": distinct_stop_words(words),
    }


def distinct_stop_words(words: Words) -> Ints:
    """How many of the stop words each text has, in lower case as they are."""
    found = np.zeros(len(words.bounds) - 1, np.int64)
    for stop_word in words_of(buffer_of(STOP_WORDS)).hashes:
        found[np.unique(words.texts[words.hashes == stop_word])] += 1
    return found


@dataclass(frozen=True)
class Lines:
    """Lines with anything but white space in them, stripped of white space at both ends."""

    starts: Ints
    ends: Ints
    numbers: Ints  # among all lines of the buffer, blank ones included
    texts: Ints
    bounds: Ints  # lines of text t: bounds[t] to bounds[t + 1]
    chunk_ends: Ints  # of every run of characters that aren't white space


def lines_of(buffer: Buffer) -> Lines:
    """Find the lines of `buffer`."""
    black = ~buffer.is_a(WHITE_SPACE)
    chunk_starts = np.flatnonzero(black & ~shifted(black, 1))
    chunk_ends = np.flatnonzero(black & ~shifted(black, -1)) + 1
    newlines = np.flatnonzero(buffer.codes == NEWLINE)
    after = np.searchsorted(newlines, chunk_starts)
    first = np.ones(len(chunk_starts), bool)
    first[1:] = after[1:] != after[:-1]
    last = np.append(first[1:], True)[: len(first)]
    starts = chunk_starts[first]
    bounds = buffer.locate(starts)
    texts = np.repeat(np.arange(len(buffer.starts)), np.diff(bounds))
    return Lines(starts, chunk_ends[last], after[first], texts, bounds, chunk_ends)


def line_signals(buffer: Buffer, lines: Lines, spans: SpanHashes) -> Columns:
    """What Gopher (A1.1) and FineWeb (section 3.6) ask about lines."""
    number = np.diff(lines.bounds)
    lengths = lines.ends - lines.starts
    later = later_occurrences(within_texts(spans.of(lines.starts, lines.ends), lines.texts))
    duplicate_characters = totals(lengths * later, lines.bounds)
    characters = buffer.ends - buffer.starts
    newlines = per_text(np.flatnonzero(buffer.codes[:-1] == NEWLINE), buffer) - 1
    shares = {
        "bullet_line_ratio": buffer.is_a(BULLETS)[lines.starts],
        "ellipsis_line_ratio": ends_in_ellipsis(buffer, lines),
        "duplicate_line_ratio": later,
        "line_punct_ratio": buffer.is_a(LINE_PUNCTUATION)[lines.ends - 1],
        "short_line_ratio": lengths <= SHORT_LINE_CHARACTERS,
    }
    return {
        "lines": number,
        **{name: ratio(totals(true, lines.bounds), number) for name, true in shares.items()},
        "duplicate_line_character_ratio": ratio(duplicate_characters, characters),
        "char_dup_ratio": ratio(duplicate_characters, characters - newlines),
    }


def ends_in_ellipsis(buffer: Buffer, lines: Lines) -> Bools:
    """Whether each line ends in `…` or in three full stops."""
    dots = np.append(0, np.cumsum(buffer.codes == ord("."), dtype=np.int64))
    in_last_three = dots[lines.ends] - dots[np.maximum(lines.ends - 3, lines.starts)]
    ends: Bools = (in_last_three == 3) | (buffer.codes[lines.ends - 1] == ord("…"))
    return ends


def paragraph_signals(buffer: Buffer, lines: Lines, spans: SpanHashes) -> Columns:
    """Gopher's duplicate paragraphs (A1.1): a paragraph is lines without a blank one between them."""
    first = np.ones(len(lines.starts), bool)
    first[1:] = (np.diff(lines.numbers) > 1) | (np.diff(lines.texts) > 0)
    last = np.append(first[1:], True)[: len(first)]
    starts, ends = lines.starts[first], lines.ends[last]
    bounds = buffer.locate(starts)
    number = np.diff(bounds)
    later = later_occurrences(within_texts(spans.of(starts, ends), lines.texts[first]))
    return {
        "paragraphs": number,
        "duplicate_paragraph_ratio": ratio(totals(later, bounds), number),
        "duplicate_paragraph_character_ratio": ratio(
            totals((ends - starts) * later, bounds), buffer.ends - buffer.starts
        ),
    }


def sentences(buffer: Buffer, lines: Lines) -> Ints:
    """Sentences of each text: one ends at a sentence mark before white space, and at the end of a line.

    Up to three closing quotes and brackets may stand between the mark and the white space.
    """
    marks = buffer.is_a(SENTENCE_MARKS)
    closing = buffer.is_a(CLOSING_MARKS)
    last = lines.chunk_ends - 1
    for _ in range(3):
        last = last - closing[last]
    ended = lines.chunk_ends[marks[last] & ~closing[last]]
    unended = lines.ends[~np.isin(lines.ends, ended, assume_unique=True)]
    return per_text(ended - 1, buffer) + per_text(unended - 1, buffer)


def layout_signals(buffer: Buffer, words: Words) -> Columns:
    """Lines as they are, blank ones and indentation included: FineWeb's lists, The Stack's long lines."""
    newlines = np.flatnonzero(buffer.codes == NEWLINE)
    lengths = np.diff(newlines) - 1
    bounds = np.append(np.searchsorted(newlines, buffer.starts - 1), len(lengths))
    number = np.diff(bounds)
    letters = np.flatnonzero(buffer.is_a(r"[\p{Alphabetic}\p{Nd}]"))
    return {
        "list_ratio": ratio(number - 1, np.diff(words.bounds)),
        "max_line_length": np.maximum.reduceat(lengths, bounds[:-1]),
        "mean_line_length": ratio(totals(lengths, bounds), number),
        "alphanumeric_ratio": ratio(per_text(letters, buffer), buffer.ends - buffer.starts),
    }


def repeated_ngrams(buffer: Buffer, words: Words) -> Columns:
    """Gopher's repeated n-grams (A1.1), as fractions of all characters.

    An n-gram is n words or marks in a row. Only windows whose (n-1)-gram is repeated can be
    repeated themselves, so each n looks at what the one before it has left.
    """
    characters = buffer.ends - buffer.starts
    ends_of_texts = words.bounds[words.texts + 1]
    sums = np.append(0, np.cumsum(words.ends - words.starts))
    begins = np.arange(len(words.hashes))
    windows = within_texts(words.hashes, words.texts)
    columns: Columns = {}
    for n in range(2, max(DUPLICATE_NGRAMS) + 1):
        fits = begins + n <= ends_of_texts[begins]
        begins = begins[fits]
        windows = windows[fits] * BASE + words.hashes[begins + n - 1]
        groups = repeated_groups(windows)
        if n in TOP_NGRAMS:
            found = top_ngrams(groups, begins, sums, n, words)
            columns[f"top_{n}_gram_character_ratio"] = np.minimum(ratio(found, characters), 1.0)
        if n in DUPLICATE_NGRAMS:
            found = duplicate_ngrams(groups, begins, sums, n, words)
            columns[f"duplicate_{n}_gram_character_ratio"] = ratio(found, characters)
        begins, windows = begins[groups.members], windows[groups.members]
    return columns


@dataclass(frozen=True)
class Groups:
    """Equal hashes, those that occur once left out."""

    members: Ints  # indices of all that are in a group, ascending
    firsts: Ints  # index of the first member of each group
    sizes: Ints


def repeated_groups(hashes: Hashes) -> Groups:
    """The groups of equal `hashes`."""
    maybe = np.flatnonzero(shares_bucket(hashes))
    # Not a stable sort: it is twice as fast, and nothing below depends on the order of equals.
    order = maybe[np.argsort(hashes[maybe])]
    ordered = hashes[order]
    begins = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(ordered) else order
    sizes = np.diff(np.append(begins, len(ordered)))
    firsts = np.minimum.reduceat(order, begins) if len(order) else order
    members = np.sort(order[np.repeat(sizes > 1, sizes)])
    return Groups(members, firsts[sizes > 1], sizes[sizes > 1])


def shares_bucket(hashes: Hashes) -> Bools:
    """Whether another hash has the same leading bits: what has not is unique, and needn't be sorted."""
    bits = max(4 * len(hashes), 1).bit_length()
    buckets = (hashes >> np.uint64(64 - bits)).astype(np.int64)
    return np.bincount(buckets, minlength=1 << bits)[buckets] > 1


def top_ngrams(groups: Groups, begins: Ints, sums: Ints, n: int, words: Words) -> Ints:
    """Characters of the most frequent n-gram of each text, of equals the longest: its length times its count.

    It has a blank between words, as Gopher's reference filter in datatrove joins it. An n-gram that
    occurs once repeats nothing.
    """
    at = begins[groups.firsts]
    lengths = sums[at + n] - sums[at] + n - 1
    best = np.zeros(len(words.bounds) - 1, np.int64)
    np.maximum.at(best, words.texts[at], (groups.sizes << 32) + lengths)
    return (best >> 32) * (best & 0xFFFFFFFF)


def duplicate_ngrams(groups: Groups, begins: Ints, sums: Ints, n: int, words: Words) -> Ints:
    """Characters of each text in n-grams that stand earlier in it, each character counted once."""
    at = begins[np.setdiff1d(groups.members, groups.firsts, assume_unique=True)]
    covered = np.maximum(at, np.append(0, at[:-1] + n)[: len(at)])
    gained = sums[at + n] - sums[covered]
    return np.bincount(words.texts[at], weights=gained, minlength=len(words.bounds) - 1).astype(np.int64)
