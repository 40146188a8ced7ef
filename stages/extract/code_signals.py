r"""Measure what the rules for code ask for: encoded data, marks of generators and of XML, what a page of HTML shows.

    texts  ->  counts and ratios

The Stack (Kocetkov et al. 2022, arXiv:2211.15533), StarCoder (Li et al. 2023, arXiv:2305.06161) and StarCoder2 (Lozhkov
et al. 2024, arXiv:2402.19173). Every pattern takes time linear in the text, also in one that was made to be slow.
"""

import numpy as np
import polars as pl

# Data written as text, as StarCoder2 finds it (section 2.1): base64, bytes in hexadecimal, UTF-16. There the edge of a
# word is Unicode's; here it is ASCII's, as hexadecimal digits are, which is searched for ten times as fast.
ENCODED = (
    r"[a-zA-Z0-9+/\n=]{64,}"
    r"|(?:(?-u:\b)(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|(?-u:\b)\s*)){8,}"
    r"|(?:\\u[0-9a-fA-F]{4}){8,}"
)

# Where a generator signs: the head of the file. StarCoder2 looks for the phrases but the last in five lines (section
# 2.1), and asks go-enry, which knows the signatures of single generators; most of these have the last.
GENERATED_HEAD_CHARACTERS = 1000
GENERATED = (
    r"(?i)auto-?generated|automatically generated|generated automatically|this file is generated"
    r"|do not (?:edit|modify)"
)

XML_HEAD_CHARACTERS = 100  # Li et al. 2023, section 3.2

# What a reader of a page of HTML doesn't see. One after another: as one pattern, they would take quadratic time.
MARKUP = "</"
HIDDEN = (r"(?is)<script\b.*?</script\s*>", r"(?is)<style\b.*?</style\s*>", r"(?s)<!--.*?-->", r"</?[A-Za-z!?][^>]*>")


def code_signals(texts: pl.Series) -> dict[str, np.ndarray]:
    """The signals of each text that the rules for code ask for, by their names. Lengths are in characters."""
    characters = texts.str.len_chars().cast(pl.Int64)
    encoded, longest = encoded_characters(texts)
    visible = visible_characters(texts, characters)
    found = {
        "encoded_ratio": encoded / characters.clip(1),
        "encoded_run": longest,
        "generated_marks": texts.str.head(GENERATED_HEAD_CHARACTERS).str.count_matches(GENERATED),
        "xml_marks": texts.str.head(XML_HEAD_CHARACTERS).str.count_matches("<?xml version=", literal=True),
        "visible_characters": visible,
        "visible_ratio": visible / characters.clip(1),
    }
    return {name: column.to_numpy() for name, column in found.items()}


def encoded_characters(texts: pl.Series) -> tuple[pl.Series, pl.Series]:
    """How many characters of each text are encoded data, and how many the longest piece of it has."""
    pieces = texts.str.extract_all(ENCODED)
    places = (pieces.list.len() > 0).arg_true()  # few
    lengths = pieces.gather(places).list.eval(pl.element().str.len_chars().cast(pl.Int64))
    none = pl.zeros(len(texts), pl.Int64, eager=True)
    return none.clone().scatter(places, lengths.list.sum()), none.scatter(places, lengths.list.max())


def visible_characters(texts: pl.Series, characters: pl.Series) -> pl.Series:
    """How many of the `characters` of each text are left without tags, comments, scripts, styles; blanks count."""
    marked = texts.str.contains(MARKUP, literal=True).arg_true()
    shown = texts.gather(marked)
    for pattern in HIDDEN:
        shown = shown.str.replace_all(pattern, "")
    return characters.clone().scatter(marked, shown.str.len_chars().cast(pl.Int64))
