"""Words as spaCy's rules for English have them, which datatrove counts: slow, for parity.

texts  ->  tokens of spacy.blank("en")  ->  words and marks

spaCy is needed for nothing else, and imported only here (the extra `parity`). A mark is a token of punctuation and
symbols alone.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from stages.params import Refusal
from stages.words import Buffer, Ints, Words

PLAIN = r"[^\p{P}\p{S}\s]"


@cache
def english() -> Any:
    """spaCy's pipeline of nothing but the tokenizer.

    Raises:
        Refusal: if spaCy isn't installed.
    """
    if find_spec("spacy") is None:
        raise Refusal("extract.words is spacy, which isn't installed; install the extra `parity`, or set regex-v1")
    import spacy

    return spacy.blank("en")


def spacy_words_of(buffer: Buffer, texts: list[str]) -> Words:
    """Find and hash the tokens of `texts`, which `buffer` holds; white space is none.

    Raises:
        Refusal: if spaCy isn't installed.
    """
    found = [_tokens(text) + np.array([[start], [0]]) for text, start in zip(texts, buffer.starts, strict=True)]
    starts, lengths = np.concatenate([np.zeros((2, 0), np.int64), *found], axis=1)
    ends = starts + lengths
    plain = np.zeros(len(buffer.codes) + 1, np.int64)
    np.cumsum(buffer.is_a(PLAIN), out=plain[1:])
    bounds = buffer.locate(starts)
    hashes = buffer.spans.of(starts, ends)
    return Words(starts, ends, hashes, plain[ends] > plain[starts], buffer.texts_at(bounds), bounds)


def _tokens(text: str) -> Ints:
    """Where each token of `text` begins, and how long it is, in characters; shape (2, tokens)."""
    from spacy.attrs import IDX, IS_SPACE, LENGTH

    pipeline = english()
    with pipeline.memory_zone():  # else it would remember every token that it ever saw
        starts, lengths, blank = pipeline.tokenizer(text).to_array([IDX, LENGTH, IS_SPACE]).astype(np.int64).T
    inked: Ints = np.stack([starts, lengths])[:, blank == 0]
    return inked
