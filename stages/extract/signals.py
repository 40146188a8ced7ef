"""Measure what the rules of filter ask for: one row of signals for each text.

    texts  ->  words, marks, lines, paragraphs (arrays)  ->  counts and ratios

Gopher (Rae et al. 2021, arXiv:2112.11446, appendix A1.1), C4 (Raffel et al. 2020, arXiv:1910.10683,
section 2.2), FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6), and for code those of code_signals.py.
docs/rules.md defines each signal and says where it differs from other programs. Counts are summed as
integers and divided once, so a signal has the same bits on every machine and in every batch.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl

from stages.extract.code_signals import code_signals
from stages.extract.joined import tokens_of
from stages.extract.params import WordDefinition
from stages.extract.spacy_words import spacy_words_of
from stages.words import (
    BASE,
    Bools,
    Buffer,
    Hashes,
    Ints,
    Words,
    batches,
    buffer_of,
    first_equal,
    later_occurrences,
    shifted,
    within_texts,
    words_of,
)

STOP_WORDS = ["the", "be", "to", "of", "and", "that", "have", "with"]  # Rae et al. 2021, A1.1
TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)
SHORT_LINE_CHARACTERS = 30  # Penedo et al. 2024, section 3.6

BULLETS = "[•‣⁃◦∙▪*-]"
SENTENCE_MARKS = r"[\p{Sentence_Terminal}…]"
CLOSING_MARKS = "[\"'”’»)\\]]"
LINE_PUNCTUATION = r"\p{Sentence_Terminal}"  # as datatrove's list; no quotes

MEASURED_CHARACTERS = 1 << 21  # some 400,000 words, of which Gopher's rules allow 100,000

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
        "alphabetic_token_ratio": REAL,
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
        "alphabetic_ratio": REAL,
        "encoded_ratio": REAL,
        "encoded_run": INTEGER,
        "generated_marks": INTEGER,
        "xml_marks": INTEGER,
        "visible_characters": INTEGER,
        "visible_ratio": REAL,
    }
)

Columns = dict[str, np.ndarray]


def measure(texts: list[str], definition: WordDefinition = "regex-v1") -> pl.DataFrame:
    """The signals of each text, by SIGNAL_SCHEMA: one row per text, in their order.

    `definition` says what a word is: docs/rules.md.
    Lengths are in characters, ratios in [0, 1] unless docs/rules.md says otherwise; what has
    nothing to be measured on (the mean of no words) is 0. Of a text longer than MEASURED_CHARACTERS
    all but `characters` and `bytes` are those of its beginning: memory is bound to a batch.
    """
    tables = [_measure_batch(texts[part], definition) for part in batches(texts)]
    return pl.concat(tables) if tables else SIGNAL_SCHEMA.to_frame()


def _measure_batch(texts: list[str], definition: WordDefinition) -> pl.DataFrame:
    heads = [text[:MEASURED_CHARACTERS] for text in texts]
    buffer = buffer_of(heads)
    words = spacy_words_of(buffer, heads) if definition == "spacy" else words_of(buffer)
    lines, strings = lines_of(buffer), pl.Series("text", heads, pl.String)
    counts = count_strings(strings) | sizes(texts)
    columns = {
        **counts,
        **word_signals(buffer, words, counts, definition),
        **line_signals(buffer, lines),
        **paragraph_signals(buffer, lines),
        **repeated_ngrams(buffer, words),
        **layout_signals(buffer, words),
        "sentences": sentences(buffer, lines),
        **code_signals(strings),
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


def sizes(texts: list[str]) -> Columns:
    """Characters and bytes of each text, whole."""
    lengths = [len(text) if text.isascii() else len(text.encode()) for text in texts]
    return {"characters": np.array([len(text) for text in texts], np.int64), "bytes": np.array(lengths, np.int64)}


def characters_that(are: Bools, buffer: Buffer) -> Ints:
    """How many characters of each text `are` so. Slice by slice, this is faster than any sum over the whole buffer."""
    bounds = zip(buffer.starts.tolist(), buffer.ends.tolist(), strict=True)
    return np.array([np.count_nonzero(are[start:end]) for start, end in bounds], np.int64)


def count_strings(texts: pl.Series) -> Columns:
    """What is counted by looking for fixed strings."""
    text = pl.col("text")
    found = texts.to_frame().select(
        hashes=text.str.count_matches("#", literal=True),
        ellipses=text.str.count_matches("...", literal=True) + text.str.count_matches("…", literal=True),
        lorem_ipsum=text.str.count_matches("(?i)lorem ipsum"),
        curly_brackets=text.str.count_matches("{", literal=True),
    )
    return {name: found[name].cast(pl.Int64).to_numpy() for name in found.columns}


def word_signals(buffer: Buffer, words: Words, counts: Columns, definition: WordDefinition) -> Columns:
    """Gopher's quality signals of words (Rae et al. 2021, A1.1)."""
    number = totals(words.is_word, words.bounds)
    is_letter = buffer.is_a(r"\p{Alphabetic}")
    # A letter is part of a word, so none lies between one word or mark and the next.
    has_letter = np.logical_or.reduceat(is_letter, words.starts) if len(words.starts) else words.is_word
    lettered = totals(has_letter & words.is_word, words.bounds)
    if definition == "spacy":
        tokens, lettered_tokens = np.diff(words.bounds), totals(has_letter, words.bounds)
    else:
        tokens, lettered_tokens = tokens_of(buffer, words, has_letter)
    return {
        "words": number,
        "marks": totals(~words.is_word, words.bounds),
        "mean_word_length": ratio(totals((words.ends - words.starts) * words.is_word, words.bounds), number),
        "hash_to_word_ratio": ratio(counts["hashes"], number),
        "ellipsis_to_word_ratio": ratio(counts["ellipses"], number),
        "alphabetic_word_ratio": ratio(lettered, number),
        "alphabetic_token_ratio": ratio(lettered_tokens, tokens),
        "alphabetic_ratio": ratio(characters_that(is_letter, buffer), buffer.ends - buffer.starts),
        "stop_words": distinct_stop_words(words),
    }


@cache
def stop_word_hashes() -> Hashes:
    """The hash of each stop word."""
    return words_of(buffer_of(STOP_WORDS)).hashes


def distinct_stop_words(words: Words) -> Ints:
    """How many of the stop words each text has, in lower case as they are."""
    found = np.zeros(len(words.bounds) - 1, np.int64)
    for stop_word in stop_word_hashes():
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
    chunk_starts: Ints
    chunk_ends: Ints  # of every run of characters that aren't white space
    ends_line: Bools  # of those runs


def lines_of(buffer: Buffer) -> Lines:
    """Find the lines of `buffer`."""
    black = buffer.is_black
    chunk_starts = np.flatnonzero(black & ~shifted(black, 1))
    chunk_ends = np.flatnonzero(black & ~shifted(black, -1)) + 1
    numbers = np.searchsorted(buffer.newlines, chunk_starts)
    first, last = edges(np.diff(numbers) > 0, len(numbers))
    starts = chunk_starts[first]
    bounds = buffer.locate(starts)
    return Lines(
        starts, chunk_ends[last], numbers[first], buffer.texts_at(bounds), bounds, chunk_starts, chunk_ends, last
    )


def edges(breaks: Bools, count: int) -> tuple[Bools, Bools]:
    """Which of `count` things are the first and the last of a run, where `breaks` says after which a run ends."""
    first, last = np.ones(count, bool), np.ones(count, bool)
    first[1:], last[:-1] = breaks, breaks
    return first, last


def line_signals(buffer: Buffer, lines: Lines) -> Columns:
    """What Gopher (A1.1) and FineWeb (section 3.6) ask about lines."""
    number = np.diff(lines.bounds)
    lengths = lines.ends - lines.starts
    later = later_occurrences(within_texts(buffer.spans.of(lines.starts, lines.ends), lines.texts))
    duplicate_characters = totals(lengths * later, lines.bounds)
    characters = buffer.ends - buffer.starts
    newlines = per_text(buffer.newlines, buffer) - 1  # without the one after the text
    shares = {
        "bullet_line_ratio": buffer.is_a(BULLETS, lines.starts),
        "ellipsis_line_ratio": ends_in_ellipsis(buffer, lines),
        "duplicate_line_ratio": later,
        "line_punct_ratio": buffer.is_a(LINE_PUNCTUATION, lines.ends - 1),
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
    three = lines.ends - lines.starts >= 3
    for back in (1, 2, 3):
        three &= buffer.codes[lines.ends - back] == ord(".")
    single: Bools = buffer.codes[lines.ends - 1] == ord("…")
    return three | single


def paragraph_signals(buffer: Buffer, lines: Lines) -> Columns:
    """Gopher's duplicate paragraphs (A1.1): a paragraph is lines without a blank one between them."""
    first, last = edges((np.diff(lines.numbers) > 1) | (np.diff(lines.texts) > 0), len(lines.starts))
    starts, ends = lines.starts[first], lines.ends[last]
    bounds = buffer.locate(starts)
    number = np.diff(bounds)
    later = later_occurrences(within_texts(buffer.spans.of(starts, ends), lines.texts[first]))
    duplicate_characters = totals((ends - starts) * later, bounds)
    return {
        "paragraphs": number,
        "duplicate_paragraph_ratio": ratio(totals(later, bounds), number),
        "duplicate_paragraph_character_ratio": ratio(duplicate_characters, buffer.ends - buffer.starts),
    }


def sentences(buffer: Buffer, lines: Lines) -> Ints:
    """Sentences of each text: one ends at a sentence mark before white space, and at the end of a line.

    Up to three closing quotes and brackets may stand between the mark and the white space.
    """
    last = lines.chunk_ends - 1
    for _ in range(3):
        last = last - buffer.is_a(CLOSING_MARKS, last)
    ended = buffer.is_a(SENTENCE_MARKS, last) | lines.ends_line
    return per_text(lines.chunk_ends[ended] - 1, buffer)


def layout_signals(buffer: Buffer, words: Words) -> Columns:
    """Lines as they are, blank ones and indentation included: FineWeb's lists, The Stack's long lines."""
    lengths = np.diff(buffer.newlines) - 1
    bounds = np.append(np.searchsorted(buffer.newlines, buffer.starts - 1), len(lengths))
    number = np.diff(bounds)
    alphanumeric = characters_that(buffer.is_a(r"[\p{Alphabetic}\p{Nd}]"), buffer)
    return {
        "list_ratio": ratio(number - 1, np.diff(words.bounds)),
        "max_line_length": np.maximum.reduceat(lengths, bounds[:-1]),
        "mean_line_length": ratio(totals(lengths, bounds), number),
        "alphanumeric_ratio": ratio(alphanumeric, buffer.ends - buffer.starts),
    }


def repeated_ngrams(buffer: Buffer, words: Words) -> Columns:
    """Gopher's repeated n-grams (A1.1), as fractions of all characters.

    An n-gram is n words or marks in a row. Only windows whose (n-1)-gram is repeated can be
    repeated themselves, so each n looks at what the one before it has left.
    """
    characters = buffer.ends - buffer.starts
    sums = np.append(0, np.cumsum(words.ends - words.starts))
    ends_of_texts = words.bounds[words.texts + 1]
    begins = np.arange(len(words.hashes))
    hashes = within_texts(words.hashes, words.texts)
    columns: Columns = {}
    for n in range(2, max(DUPLICATE_NGRAMS) + 1):
        fits = begins + n <= ends_of_texts[begins]
        begins = begins[fits]
        hashes = hashes[fits] * BASE + words.hashes[begins + n - 1]
        firsts = first_equal(hashes)
        repeated = (np.bincount(firsts) > 1)[firsts]
        if n in TOP_NGRAMS:
            found = top_ngrams(begins, firsts, sums, n, words)
            columns[f"top_{n}_gram_character_ratio"] = np.minimum(ratio(found, characters), 1.0)
        if n in DUPLICATE_NGRAMS:
            later = duplicate_ngrams(begins[repeated], firsts[repeated], n)
            found = np.bincount(words.texts[later], sums[later + n] - sums[later], len(characters)).astype(np.int64)
            columns[f"duplicate_{n}_gram_character_ratio"] = ratio(found, characters)
        begins, hashes = begins[repeated], hashes[repeated]
    return columns


def top_ngrams(begins: Ints, firsts: Ints, sums: Ints, n: int, words: Words) -> Ints:
    """Characters of the most frequent n-gram of each text, of equals the longest: its length times its count.

    Blanks between its words count, as in datatrove's Gopher filter. An n-gram that occurs once
    repeats nothing.
    """
    sizes = np.bincount(firsts)
    repeated = np.flatnonzero(sizes > 1)
    at = begins[repeated]
    lengths = sums[at + n] - sums[at] + n - 1
    best = np.zeros(len(words.bounds) - 1, np.int64)
    np.maximum.at(best, words.texts[at], (sizes[repeated] << 32) + lengths)
    return (best >> 32) * (best & 0xFFFFFFFF)


def duplicate_ngrams(begins: Ints, firsts: Ints, n: int) -> Ints:
    """The first words of the n-grams of `begins` that count as duplicates, ascending.

    As datatrove goes through a text: an n-gram that was met before counts, and the search goes on behind it; so no
    character counts twice, and what begins within a duplicate is never met. `firsts` are equal where n-grams are.
    """
    met = bytearray(int(firsts.max(initial=-1)) + 1)
    behind = np.searchsorted(begins, begins + n).tolist()  # which n-gram comes next if this one counts
    groups = firsts.tolist()
    later, place, end = [], 0, len(groups)
    while place < end:
        group = groups[place]
        if met[group]:
            later.append(place)
            place = behind[place]
        else:
            met[group] = True
            place += 1
    return begins[np.array(later, np.int64)]
