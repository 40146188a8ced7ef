"""The lines or paragraphs of texts, where each stands, and a hash by which equal ones are known.

    texts  ->  spans: where they begin and end (in characters), and a hash

A span has the white space that keeps it apart from the next one. The last of a text has none; what reaches to the end
is cut from before the white space in front of it. So what is left is as if what is cut had never been there.
"""

import re
from collections.abc import Iterator
from itertools import chain

import numpy as np
import polars as pl

from stages.minhash import SpanParams, text_digests

END = re.compile(r"\Z")
SEPARATORS = {"line": re.compile(r"\n+"), "paragraph": re.compile(r"\n[^\S\n]*\n\s*")}

SPAN_SCHEMA = pl.Schema(
    {
        "row": pl.UInt32,
        "before": pl.Int64,  # where the one before it ends, without white space
        "begin": pl.Int64,
        "end": pl.Int64,
        "last": pl.Boolean,  # of its text
        "hash": pl.UInt64,
    }
)


def spans_of(texts: list[str], params: SpanParams) -> pl.DataFrame:
    """The spans of all texts that are long enough, by SPAN_SCHEMA, in order."""
    found = [(row, *span) for row, text in enumerate(texts) for span in pieces_of(text, params)]
    table = pl.DataFrame(found, [*(name for name in SPAN_SCHEMA if name != "hash"), "body"], orient="row")
    hashes = np.frombuffer(b"".join(digest[:8] for digest in text_digests(table["body"].cast(pl.String))), "<u8")
    return table.with_columns(hash=hashes).select(pl.col(name).cast(dtype) for name, dtype in SPAN_SCHEMA.items())


def pieces_of(text: str, params: SpanParams) -> Iterator[tuple[int, int, int, bool, str]]:
    """Of each span of `text` that is long enough: before, begin, end, last, and what stands in it."""
    begin, before = 0, 0
    for gap in chain(SEPARATORS[params.unit].finditer(text), [END.match(text, len(text))]):
        assert gap is not None
        body = text[begin : gap.start()].strip()
        if len(body) >= params.min_characters:
            yield before, begin, gap.end(), gap.end() == len(text), body
        begin, before = gap.end(), gap.start()
