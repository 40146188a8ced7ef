"""Runs of words that an evaluation's items and training documents share.

texts  ->  words in lower case, punctuation left out  ->  a 64-bit hash of every n words in a row

After appendix C of GPT-3 (Brown et al. 2020, arXiv:2005.14165): 13 words in a row are enough to say that a document
holds an item. A shorter item is looked for whole, if it has at least 8 words; one with fewer is too short to say.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from stages.words import BASE, Hashes, Ints, buffer_of, mixed, words_of

WORDS = 13
LEAST_WORDS = 8

Grams = dict[int, Hashes]  # by the number of words in them


def words_in(texts: Sequence[str]) -> tuple[Hashes, Ints]:
    """The hash of each word of `texts` in lower case, punctuation left out, and which text it is of."""
    lower = pl.Series("texts", texts, pl.String).str.to_lowercase().to_list()  # Polars' tables: the same everywhere
    words = words_of(buffer_of(lower))
    return words.hashes[words.is_word], words.texts[words.is_word]


def grams_in(words: Hashes, owners: Ints, size: int) -> Hashes:
    """A hash of every `size` words in a row that one text has."""
    count = max(0, len(words) - size + 1)
    hashes = words[:count].copy()
    for offset in range(1, size):
        hashes = hashes * BASE + words[offset : offset + count]
    within: Hashes = mixed(hashes[owners[:count] == owners[size - 1 :]])
    return within


def owners_of_grams(owners: Ints, size: int) -> Ints:
    """Which text each of grams_in is of."""
    count = max(0, len(owners) - size + 1)
    within: Ints = owners[:count][owners[:count] == owners[size - 1 :]]
    return within


def grams_of_item(text: str, most: int = WORDS) -> Grams:
    """What is looked for of an item: its n-grams of `most` words, or nothing if it is too short."""
    words, owners = words_in([text])
    size = min(len(words), most)
    return {size: grams_in(words, owners, size)} if size >= LEAST_WORDS else {}


def held(grams: Hashes, wanted: Hashes) -> Hashes:
    """Those of `grams` that are among the sorted `wanted`."""
    found: Hashes = grams[where_held(grams, wanted)]
    return found


def where_held(grams: Hashes, wanted: Hashes) -> Ints:
    """The places of those of `grams` that are among the sorted `wanted`.

    `grams`, of which there are far more, aren't sorted.
    """
    if not len(wanted):
        return np.zeros(0, np.int64)
    places = np.minimum(np.searchsorted(wanted, grams), len(wanted) - 1)
    return np.flatnonzero(wanted[places] == grams)
