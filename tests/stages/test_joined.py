"""Which words and marks are one token: examples, and all of it against a slow version."""

import random

import numpy as np
import pytest
import regex

from stages.extract.joined import tokens_of
from stages.words import buffer_of, words_of

LETTER, WORD = r"\p{Alphabetic}", r"\w+(?:['’]\w+)*"


def splits(text, begin, mark):
    """Whether a mark between two words keeps them apart."""
    left, right = text[begin - 1], text[begin + 1]
    letters = [bool(regex.match(LETTER, each)) for each in (left, right)]
    digits = all(regex.match(r"\p{Nd}", each) for each in (left, right))
    return (
        (mark in "-–—~" and (all(letters) or digits))
        or (mark in ":<>=/" and letters[1])
        or (mark == "," and all(letters))
        or (mark == "." and regex.match(r"\p{Ll}", left) and regex.match(r"\p{Lu}", right))
        or (mark in "*+^" and digits)
    )


def slow_tokens(text):
    """The tokens of `text`."""
    tokens = []
    for chunk in regex.finditer(r"\S+", text):
        parts = [(part.start(), part[0]) for part in regex.finditer(rf"{WORD}|\S", chunk[0])]
        is_word = [bool(regex.match(r"\w", part)) for _, part in parts]
        inner = [
            0 < i < len(parts) - 1 and not is_word[i] and is_word[i - 1] and is_word[i + 1] for i in range(len(parts))
        ]
        whole = [
            inner[i] and ("://" in chunk[0] or not splits(chunk[0], begin, part))
            for i, (begin, part) in enumerate(parts)
        ]
        sticky = [part in set("-/+=~|\\^@") or chunk[0][begin : begin + 3] == "://" for begin, part in parts]
        solid = [one or other for one, other in zip(is_word, sticky, strict=True)]
        loose = [one and not other for one, other in zip(sticky, inner, strict=True)]
        for i, (_, part) in enumerate(parts):
            together = i > 0 and (
                whole[i]
                or whole[i - 1]
                or (part == "." and parts[i - 1][1] == ".")
                or (loose[i] and solid[i - 1])
                or (loose[i - 1] and solid[i])
                or (i == 1 and parts[0][1] == "." and is_word[1])
            )
            if together:
                tokens[-1] += part
            else:
                tokens.append(part)
    return tokens


def slow_counts(text):
    """All tokens, and those with a letter."""
    tokens = slow_tokens(text)
    contracted = len(regex.findall(rf"(?<={LETTER})['’](?={LETTER})", text))
    return len(tokens) + contracted, sum(bool(regex.search(LETTER, token)) for token in tokens) + contracted


def counts_of(texts):
    buffer = buffer_of(texts)
    words = words_of(buffer)
    spans = zip(words.starts, words.ends, strict=True)
    has_letter = [bool(regex.search(LETTER, "".join(map(chr, buffer.codes[a:b])))) for a, b in spans]
    return list(zip(*map(np.ndarray.tolist, tokens_of(buffer, words, np.array(has_letter, bool))), strict=True))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It is 3.14, or 1,000.", ["It", "is", "3.14", ",", "or", "1,000", "."]),
        ("see index.html.", ["see", "index.html", "."]),
        ("end.Begin", ["end", ".", "Begin"]),
        ("well-known 1-2 F-16", ["well", "-", "known", "1", "-", "2", "F-16"]),
        ("--force /usr/lib a=", ["--force", "/usr", "/", "lib", "a="]),
        ("go to https://a.org/b-c?d=e!", ["go", "to", "https://a.org/b-c?d=e", "!"]),
        ('("quoted")', ["(", '"', "quoted", '"', ")"]),
        ("wait... .htaccess", ["wait", "...", ".htaccess"]),
        ("", []),
        (".", ["."]),
        ("a@b.c", ["a@b.c"]),
    ],
)
def test_a_text_has_these_tokens(text, tokens):
    assert slow_tokens(text) == tokens
    assert counts_of([text])[0][0] == len(tokens)


@pytest.mark.parametrize(
    ("text", "counts"), [("it's don't o'clock 5's", (7, 7)), ("rock'n'roll", (3, 3)), ("'a'", (3, 1))]
)
def test_both_parts_of_a_contraction_count(text, counts):
    assert counts_of([text]) == [counts]


def test_it_agrees_with_its_slow_version_on_random_text():
    draw = random.Random(2)
    pieces = ["ab", "Cd", "5", "é", "it's", "日本", "_", *" \n  ", *".,:;/-+=~|\\^@*<>()\"'’–", "://", "..."]
    texts = ["".join(draw.choices(pieces, k=draw.randrange(40))) for _ in range(400)]

    found = counts_of(texts)

    for text, counts in zip(texts, found, strict=True):
        assert counts == slow_counts(text), text
