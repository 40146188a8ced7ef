"""Documents that hold an item of an evaluation: which ones, and which items.

files of evaluate.tasks and evaluate.probe  ->  hashes of the items' n-grams  ->  hits: document, task, item

The grams are those by which evaluate tells an item that the training text holds from one that it doesn't
(stages.ngrams), so what this rule has gone over has no contaminated item left.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from stages.items import PROBE, ProbeParams, TaskParams, read_items, read_labelled_texts, read_task
from stages.ngrams import Grams, grams_in, grams_of_item, owners_of_grams, where_held, words_in
from stages.params import PARAMS_FILE, StageParams, parse_params, read_params
from stages.words import Hashes, Ints, batches

RULE = "decontamination"
# `task` is the name of a task, or `evaluate.probe`; `item` is the number of the item in it, from 0.
HIT_SCHEMA = pl.Schema({"id": pl.String(), "task": pl.String(), "item": pl.Int64()})


class EvaluationSets(StageParams):
    """What of `evaluate` names items."""

    tasks: tuple[TaskParams, ...] = Field(())
    probe: ProbeParams | None = Field(None)


@dataclass(frozen=True)
class Wanted:
    """The n-grams that are looked for, of every item of every set."""

    tasks: tuple[str, ...]  # of each item
    numbers: tuple[int, ...]  # of each item in it
    hashes: Grams  # sorted, by size; one may be there for several items
    items: dict[int, Ints]  # whose each of them is


def read_sets() -> EvaluationSets:
    """The evaluation sets that evaluate is configured with.

    Raises:
        Refusal: if params.yaml has them, and they aren't valid.
    """
    section = read_params().get("evaluate")
    named = section if isinstance(section, dict) else {}
    given = {name: named[name] for name in EvaluationSets.model_fields if name in named}
    return parse_params(EvaluationSets, given, f"{PARAMS_FILE}: evaluate")


@cache
def wanted_of(sets: EvaluationSets, words: int) -> Wanted:
    """What is looked for of the items of `sets`, `words` in a row. Read once in a process.

    Raises:
        Refusal: if a file isn't the one that is pinned, or has no items.
    """
    texts = [(name, number, text) for name, items in item_texts(sets) for number, text in enumerate(items)]
    grams = [grams_of_item(text, words) for _, _, text in texts]
    hashes, items = {}, {}
    for size in sorted({size for each in grams for size in each}):
        mine = [(index, each[size]) for index, each in enumerate(grams) if size in each]
        found = np.concatenate([each for _, each in mine])
        owners = np.repeat([index for index, _ in mine], [len(each) for _, each in mine])
        order = np.argsort(found, kind="stable")
        hashes[size], items[size] = found[order], owners[order]
    return Wanted(tuple(task for task, _, _ in texts), tuple(number for _, number, _ in texts), hashes, items)


def item_texts(sets: EvaluationSets) -> Iterable[tuple[str, list[str]]]:
    """The name of each set, and what a document may hold of each of its items."""
    for task in sets.tasks:
        yield task.name, task_texts(task)
    if sets.probe is not None:
        yield PROBE, [text for text, _ in read_labelled_texts(sets.probe)]


def task_texts(task: TaskParams) -> list[str]:
    """Of each item context and right continuation, or without a layout all text of its row."""
    if task.layout is not None:
        return [item.text for item in read_items(task)]
    return [" ".join(_strings(row)) for _, row in read_task(task)]


def _strings(value: Any) -> Iterable[str]:
    """All text in a value, in its order."""
    match value:
        case str():
            yield value
        case dict():
            for each in value.values():
                yield from _strings(each)
        case list():
            for each in value:
                yield from _strings(each)


def hits_in(texts: Sequence[str], wanted: Wanted) -> list[tuple[int, int]]:
    """(text, item) of every item that a text holds, in order, each pair once."""
    found: set[tuple[int, int]] = set()
    texts = list(texts)
    for part in batches(texts):
        words, owners = words_in(texts[part])
        for size, hashes in wanted.hashes.items():
            grams, of = grams_in(words, owners, size), owners_of_grams(owners, size)
            held = where_held(grams, hashes)
            for gram, owner in zip(grams[held], of[held], strict=True):
                found |= {(part.start + int(owner), int(item)) for item in _items_of(gram, hashes, wanted.items[size])}
    return sorted(found)


def _items_of(gram: np.uint64, hashes: Hashes, items: Ints) -> Ints:
    begin, end = np.searchsorted(hashes, gram, "left"), np.searchsorted(hashes, gram, "right")
    return items[begin:end]


def hit_table(documents: pl.DataFrame, wanted: Wanted) -> pl.DataFrame:
    """The hits of `documents` (id, text), by HIT_SCHEMA."""
    ids = documents["id"]
    rows = [
        {"id": ids[text], "task": wanted.tasks[item], "item": wanted.numbers[item]}
        for text, item in hits_in(documents["text"].to_list(), wanted)
    ]
    return pl.DataFrame(rows, schema=HIT_SCHEMA)


def drop_hit(decisions: pl.DataFrame, hits: pl.DataFrame) -> pl.DataFrame:
    """`decisions`, in which each kept document of `hits` is dropped: its value is how many items it holds."""
    counts = hits.group_by("id").agg(items=pl.len().cast(pl.Float64))
    joined = decisions.join(counts, on="id", how="left", maintain_order="left")
    hit = pl.col("items").is_not_null()
    answers = {
        "keep": pl.lit(False), "rule": pl.lit(RULE), "value": pl.col("items"), "threshold": pl.lit(0.0),
    }  # fmt: skip
    return joined.with_columns(
        pl.when(hit).then(answer).otherwise(pl.col(name)).alias(name) for name, answer in answers.items()
    ).drop("items")
