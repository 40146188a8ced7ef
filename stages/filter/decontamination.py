"""Documents that hold an item of an evaluation: which ones, and which items.

params.yaml: evaluate.tasks, their files  ->  hashes of the items' n-grams  ->  hits: document, task, item

The grams are those by which evaluate tells an item that the training text holds from one that it doesn't
(stages.ngrams), so what this rule has gone over has no contaminated item left.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from stages.items import TaskParams, read_items
from stages.ngrams import Grams, grams_in, grams_of_item, owners_of_grams, where_held, words_in
from stages.params import PARAMS_FILE, Refusal, StageParams, parse_params, read_params
from stages.pinned import pinned_lines
from stages.words import Hashes, Ints, batches

RULE = "decontamination"
# `item` is the number of the item in its task, from 0.
HIT_SCHEMA = pl.Schema({"id": pl.String(), "task": pl.String(), "item": pl.Int64()})


class _Tasks(StageParams):
    tasks: tuple[TaskParams, ...] = Field(())


@dataclass(frozen=True)
class Wanted:
    """The n-grams that are looked for, of every item of every task."""

    tasks: tuple[str, ...]  # of each item
    numbers: tuple[int, ...]  # of each item in its task
    hashes: Grams  # sorted, by size; one may be there for several items
    items: dict[int, Ints]  # whose each of them is


def read_tasks() -> tuple[TaskParams, ...]:
    """The tasks that evaluate is configured with.

    Raises:
        Refusal: if params.yaml has no such section, or it isn't valid.
    """
    section = read_params().get("evaluate")
    given = section.get("tasks", ()) if isinstance(section, dict) else ()
    return parse_params(_Tasks, {"tasks": given}, f"{PARAMS_FILE}: evaluate").tasks


@cache
def wanted_of(tasks: tuple[TaskParams, ...], words: int) -> Wanted:
    """What is looked for of the items of `tasks`, `words` in a row. Read once in a process.

    Raises:
        Refusal: if a file isn't the one that is pinned, or has no items.
    """
    texts = [(task.name, number, text) for task in tasks for number, text in enumerate(item_texts(task))]
    grams = [grams_of_item(text, words) for _, _, text in texts]
    hashes, items = {}, {}
    for size in sorted({size for each in grams for size in each}):
        mine = [(index, each[size]) for index, each in enumerate(grams) if size in each]
        found = np.concatenate([each for _, each in mine])
        owners = np.repeat([index for index, _ in mine], [len(each) for _, each in mine])
        order = np.argsort(found, kind="stable")
        hashes[size], items[size] = found[order], owners[order]
    return Wanted(tuple(task for task, _, _ in texts), tuple(number for _, number, _ in texts), hashes, items)


def item_texts(task: TaskParams) -> list[str]:
    """What a document may hold of each item: context and right continuation, or all text of a row without a layout."""
    if task.layout is not None:
        return [item.text for item in read_items(task)]
    if not task.data.endswith((".jsonl", ".json")):
        raise Refusal(
            f"{PARAMS_FILE}: decontamination reads JSON lines, and evaluate.tasks: {task.name} has {task.data}; "
            f"give its items as .jsonl, or take decontamination out of the source's filter"
        )
    lines = pinned_lines(task.data, task.sha256, f"evaluate.tasks: {task.name}", "items")
    return [" ".join(_strings(_parsed(where, line))) for where, line in lines]


def _parsed(where: str, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        raise Refusal(f"{where} is not JSON; bring the task's items as JSON lines") from None


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
