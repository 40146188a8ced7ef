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


def code_signals(texts: list[str]) -> dict[str, np.ndarray]:
    """The signals of each text that the rules for code ask for, by their names. Lengths are in characters."""
    text = pl.col("text")
    characters = text.str.len_chars().clip(1)
    lengths = text.str.extract_all(ENCODED).list.eval(pl.element().str.len_chars())
    frame = pl.DataFrame({"text": texts}, schema={"text": pl.String})
    visible = visible_characters(frame["text"])
    found = frame.select(
        encoded_ratio=lengths.list.sum().fill_null(0) / characters,
        encoded_run=lengths.list.max().fill_null(0).cast(pl.Int64),
        generated_marks=text.str.head(GENERATED_HEAD_CHARACTERS).str.count_matches(GENERATED).cast(pl.Int64),
        xml_marks=text.str.head(XML_HEAD_CHARACTERS).str.count_matches("<?xml version=", literal=True).cast(pl.Int64),
        visible_characters=visible,
        visible_ratio=visible / characters,
    )
    return {name: found[name].to_numpy() for name in found.columns}


def visible_characters(texts: pl.Series) -> pl.Series:
    """How many characters of each text are left without tags, comments, scripts and styles; white space counts."""
    marked = texts.str.contains(MARKUP, literal=True).arg_true()
    shown = texts.gather(marked)
    for pattern in HIDDEN:
        shown = shown.str.replace_all(pattern, "")
    return texts.str.len_chars().cast(pl.Int64).scatter(marked, shown.str.len_chars().cast(pl.Int64))
