"""Words and marks joined as a tokenizer for English would leave them: 3.14, index.html, --force, a URL.

words and marks of a buffer  ->  which of them is joined to the one before it  ->  tokens, and those with a letter

datatrove counts spaCy's tokens. Of what lies between two blanks, spaCy takes punctuation off both ends, and splits the
rest at few places; what is left is one token, whatever marks are in it. This follows those rules in arrays, near
enough for a ratio: docs/rules.md says how near.
"""

from dataclasses import dataclass

import numpy as np

from stages.words import Bools, Buffer, Codes, Ints, Words

# Marks that are not taken off the ends: /usr, --force, a=.
STICKY = r"[-/+=~|\\^@]"
DASHES, LETTER, DIGIT = "[-–—~]", r"\p{Alphabetic}", r"\p{Nd}"
STOP, COLON, COMMA, SLASH = ord("."), ord(":"), ord(","), ord("/")
BEFORE_LETTER, BETWEEN_DIGITS = (np.array([ord(mark) for mark in marks], np.uint32) for marks in (":<>=/", "*+^"))


def tokens_of(buffer: Buffer, words: Words, has_letter: Bools) -> tuple[Ints, Ints]:
    """How many tokens each text has, and how many of them have a letter; of each word, `has_letter` says so.

    Of a contraction both parts count: it's, don't.
    """
    number, contracted = np.diff(words.bounds), contractions(buffer)
    together = joined(buffer, words)
    joins = np.bincount(words.texts[together], minlength=len(number))
    lettered = np.flatnonzero(has_letter)
    tokens = np.cumsum(~together)[lettered]
    again = np.flatnonzero(np.diff(tokens) == 0) + 1  # a second word with a letter in the same token
    with_letter = np.bincount(words.texts[lettered], minlength=len(number))
    with_letter -= np.bincount(words.texts[lettered[again]], minlength=len(number))
    return number - joins + contracted, with_letter + contracted


def contractions(buffer: Buffer) -> Ints:
    """Apostrophes between two letters, in each text."""
    at = np.flatnonzero((buffer.codes == ord("'")) | (buffer.codes == ord("’")))
    at = at[buffer.is_a(LETTER, at - 1) & buffer.is_a(LETTER, at + 1)]
    return np.diff(buffer.locate(at))


@dataclass(frozen=True)
class Marks:
    """The marks of a buffer, and what touches them: nothing else can be joined."""

    at: Ints  # among words and marks
    next: Ints
    codes: Codes
    before: Bools  # whether something touches it from before
    after: Bools
    word_before: Bools
    word_after: Bools


def marks_of(buffer: Buffer, words: Words) -> Marks:
    """Find the marks. The first one has the last word before it, and the last one itself after: neither touches it."""
    at = np.flatnonzero(~words.is_word)
    following = np.minimum(at + 1, len(words.starts) - 1)
    before = words.ends[at - 1] == words.starts[at]
    after = words.ends[at] == words.starts[following]
    codes = buffer.codes[words.starts[at]]
    return Marks(
        at, following, codes, before, after, before & words.is_word[at - 1], after & words.is_word[following]
    )  # fmt: skip


def joined(buffer: Buffer, words: Words) -> Bools:
    """Whether each word or mark belongs to the same token as the one before it."""
    marks = marks_of(buffer, words)
    inner = marks.word_before & marks.word_after
    scheme = schemes(buffer, words, marks)
    whole = inner & ~splitting(buffer, words, marks, inner, scheme)

    sticky = buffer.is_a(STICKY, words.starts[marks.at]) | scheme
    solid = words.is_word.copy()
    solid[marks.at[sticky]] = True
    loose, stop = sticky & ~inner, marks.codes == STOP
    after_stop = stop & (buffer.codes[words.starts[marks.at - 1]] == STOP)
    with_before = marks.before & (whole | after_stop | (loose & solid[marks.at - 1]))
    with_after = marks.after & (whole | (loose & solid[marks.next]) | (stop & ~marks.before & marks.word_after))
    together = np.zeros(len(words.starts), bool)
    together[marks.at[with_before]] = True
    together[marks.next[with_after]] = True
    return together


def splitting(buffer: Buffer, words: Words, marks: Marks, inner: Bools, scheme: Bools) -> Bools:
    """Which `inner` marks split the words around them: hyphens, slashes, a stop before a capital; none in a URL."""
    at = np.flatnonzero(inner)
    mark, left, right = marks.codes[at], words.starts[marks.at[at]] - 1, words.ends[marks.at[at]]
    letter_left, letter_right = buffer.is_a(LETTER, left), buffer.is_a(LETTER, right)
    digits = buffer.is_a(DIGIT, left) & buffer.is_a(DIGIT, right)
    letters = letter_left & letter_right
    splits = np.zeros(len(inner), bool)
    splits[at] = (
        (buffer.is_a(DASHES, left + 1) & (letters | digits))
        | (np.isin(mark, BEFORE_LETTER) & letter_right)
        | ((mark == COMMA) & letters)
        | ((mark == STOP) & buffer.is_a(r"\p{Ll}", left) & buffer.is_a(r"\p{Lu}", right))
        | (np.isin(mark, BETWEEN_DIGITS) & digits)
    )
    return splits & ~in_urls(words, marks, scheme)


def schemes(buffer: Buffer, words: Words, marks: Marks) -> Bools:
    """The colons of `://`."""
    found = np.zeros(len(marks.at), bool)
    colons = np.flatnonzero((marks.codes == COLON) & marks.after)
    begin = words.starts[marks.at[colons]]
    end = len(buffer.codes) - 1
    slashes = (buffer.codes[np.minimum(begin + 1, end)] == SLASH) & (buffer.codes[np.minimum(begin + 2, end)] == SLASH)
    found[colons[slashes]] = True
    return found


def in_urls(words: Words, marks: Marks, scheme: Bools) -> Bools:
    """Which marks stand between the same blanks as a scheme."""
    if not scheme.any():
        return np.zeros(len(scheme), bool)
    touches = np.zeros(len(words.starts), bool)
    touches[1:] = words.ends[:-1] == words.starts[1:]
    chunks = np.cumsum(~touches)
    has_scheme = np.zeros(int(chunks[-1]) + 1, bool)
    has_scheme[chunks[marks.at[scheme]]] = True
    found: Bools = has_scheme[chunks[marks.at]]
    return found
