"""Which items of a task stand in the training text.

items, documents that were trained on  ->  the fate of each item

After appendix C of GPT-3 (Brown et al. 2020, arXiv:2005.14165): an item is contaminated if 13 of its words in a row
(case and punctuation aside) are in a training document. A shorter item is looked for whole, if it has at least 8 words;
one with fewer is too short to say. What is looked for are 64-bit hashes of the items' n-grams; the documents pass by
shard by shard, so the memory depends on the items alone.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path

import numpy as np

from stages.documents import kept_of_shard, shard_paths
from stages.ngrams import Grams, grams_in, grams_of_item, held, words_in
from stages.process import map_shards
from stages.words import Hashes, batches

Shard = tuple[Path, Path]  # documents, decisions


class Fate(StrEnum):
    """What is known of an item."""

    CLEAN = "clean"
    CONTAMINATED = "contaminated"
    SHORT = "short"


def fates(texts: Mapping[str, Sequence[str]], sources: Sequence[str]) -> dict[str, list[Fate]]:
    """The fate of each item, by task: of the text of each in `texts`, and the training documents of `sources`."""
    mine = {task: [grams_of_item(text) for text in each] for task, each in texts.items()}
    seen = training_grams([grams for each in mine.values() for grams in each], training_shards(sources))
    return {task: [_fate(grams, seen) for grams in each] for task, each in mine.items()}


def training_shards(sources: Sequence[str]) -> list[Shard]:
    """The shards of documents of `sources`, each with the decisions on them."""
    extract, dedup = Path("data/extract"), Path("data/dedup")
    return [
        pair
        for name in sources
        for pair in zip(shard_paths(extract / name, "documents"), shard_paths(dedup / name, "decisions"), strict=True)
    ]


def training_grams(items: Sequence[Grams], shards: Sequence[Shard]) -> dict[int, set[int]]:
    """Those n-grams of `items` that a training document in `shards` holds."""
    sizes = sorted({size for grams in items for size in grams})
    wanted = {size: np.unique(np.concatenate([each[size] for each in items if size in each])) for size in sizes}
    if not wanted:
        return {}
    found = map_shards(partial(grams_in_shard, wanted=wanted), shards, "evaluate")
    return {size: {int(gram) for each in found for gram in each[size]} for size in sizes}


def grams_in_shard(shard: Shard, wanted: Grams) -> Grams:
    """Those of the `wanted` n-grams that a training document of `shard` holds."""
    texts = kept_of_shard(*shard, ["text"], "train")["text"].to_list()
    found: dict[int, list[Hashes]] = {size: [wanted[size][:0]] for size in wanted}
    for part in batches(texts):
        words, owners = words_in(texts[part])
        for size, hashes in wanted.items():
            found[size].append(held(grams_in(words, owners, size), hashes))
    return {size: np.unique(np.concatenate(parts)) for size, parts in found.items()}


def _fate(grams: Grams, seen: Mapping[int, set[int]]) -> Fate:
    if not grams:
        return Fate.SHORT
    held = any(int(gram) in seen[size] for size, each in grams.items() for gram in each)
    return Fate.CONTAMINATED if held else Fate.CLEAN
