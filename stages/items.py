"""What evaluate asks, of files that the user names: the items of tasks, and the texts of the probe.

a pinned file (JSON lines, JSON, CSV, Parquet)  ->  rows  ->  items: candidates, and which of them is right

All who ask for a row read it here: our scorer, lm-evaluation-harness, the probe, and filter's decontamination.

The layouts are those of BLiMP (Warstadt et al. 2020, arXiv:1912.00582) and of llm-foundry's local data, which has
the tasks of CORE (Li et al. 2024, arXiv:2406.11794) as multiple choice, schema and language modeling. How context and
continuation are joined is lm-evaluation-harness' way, so that its scores are the same: harness.py has its definitions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import from_json

from stages.params import PARAMS_FILE, Refusal, StageParams
from stages.pinned import SHA256, pinned

Pair = tuple[str, str]  # context, continuation
Row = tuple[str, dict[str, Any]]  # where it stands; its fields

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
PROBE = "evaluate.probe"


class TaskParams(StageParams):
    """A task: items in a file, and how they are read and asked."""

    name: str = Field(pattern=r"^[\w.-]+$", description="of its score, among those of other tasks")
    data: str = Field(
        min_length=1, description="the file of its items, from the project's folder: .jsonl, .json, .csv or .parquet"
    )
    sha256: str = Field(pattern=SHA256, description="of that file: another one is refused")
    layout: Literal["minimal_pairs", "multiple_choice", "schema", "language_modeling"] | None = Field(
        None, description="the fields of an item, and what is asked: docs/evaluation.md"
    )
    definition: str | None = Field(
        None, description="instead of a layout: a task of lm-evaluation-harness in YAML, which scores the base model"
    )
    definition_sha256: str | None = Field(None, pattern=SHA256, description="of the definition: another one is refused")
    shots: int = Field(
        0, ge=0, description="examples before each item: the first ones of the file, but for the item itself"
    )
    group: str | None = Field(None, description="tasks of one group count as one in the mean; null: it counts alone")
    chance: float | None = Field(
        None, ge=0, lt=1, description="what guessing scores; null: one in the number of choices, 0 without choices"
    )

    @model_validator(mode="after")
    def _one_way(self) -> "TaskParams":
        if (self.layout is None) == (self.definition is None):
            raise ValueError(f"task {self.name} needs a layout or a definition, and not both")
        if (self.definition is None) != (self.definition_sha256 is None):
            raise ValueError(f"task {self.name}: definition and definition_sha256 come together")
        if self.shots and self.layout not in ("multiple_choice", "schema", "language_modeling"):
            raise ValueError(
                f"task {self.name} has shots, which go with questions and answers; leave them out of minimal_pairs, "
                f"and give a definition its own num_fewshot"
            )
        return self


class ProbeParams(StageParams):
    """A short fine-tuning of every published checkpoint, on texts with labels."""

    data: str = Field(min_length=1, description="a file of text and label, from the project's folder, as a task's data")
    sha256: str = Field(pattern=SHA256, description="of that file: another one is refused")
    steps: int = Field(32, ge=1, description="of the fine-tuning")
    batch: int = Field(16, ge=1, description="texts in a step")
    learning_rate: float = Field(1e-3, gt=0, description="of AdamW, for the model and for what is put on it")
    seed: int = Field(0, ge=0, description="of the order of the texts, and of which of them test")


@dataclass(frozen=True)
class Item:
    """One question. With one candidate, it is right if the model would have written it."""

    candidates: tuple[Pair, ...]
    right: int  # which candidate
    lengths: tuple[int, ...]  # by which each candidate's log-likelihood is divided; 1: as it is

    @property
    def text(self) -> str:
        """Context and right continuation: what a training document may hold."""
        return "".join(self.candidates[self.right])

    @property
    def chance(self) -> float:
        """How often guessing is right; 0 if there is nothing to choose from."""
        return 1 / len(self.candidates) if len(self.candidates) > 1 else 0.0


class MinimalPair(BaseModel):
    """A row of BLiMP: the better of two sentences must be the likelier one."""

    sentence_good: str = Field(min_length=1)
    sentence_bad: str = Field(min_length=1)

    def item(self) -> Item:
        """What is asked."""
        return Item((("", f" {self.sentence_good}"), ("", f" {self.sentence_bad}")), 0, (1, 1))


class MultipleChoice(BaseModel):
    """A query and its answers: the right one must be likeliest per character."""

    query: str
    choices: list[str] = Field(min_length=2)
    gold: int = Field(ge=0)

    def item(self) -> Item:
        """What is asked."""
        pairs = tuple((self.query, f" {choice}") for choice in self.choices)
        return Item(pairs, _within(self.gold, self.choices), tuple(max(1, len(choice)) for choice in self.choices))


class Schema(BaseModel):
    """Contexts that end alike, as Winograd's: after the right one, the continuation must be likeliest."""

    context_options: list[str] = Field(min_length=2)
    continuation: str = Field(min_length=1)
    gold: int = Field(ge=0)

    def item(self) -> Item:
        """What is asked."""
        pairs = tuple((context, f" {self.continuation}") for context in self.context_options)
        return Item(pairs, _within(self.gold, self.context_options), (1,) * len(pairs))


class Continuation(BaseModel):
    """A text and its end, as LAMBADA's: the model must write every token of the end by itself."""

    context: str
    continuation: str = Field(min_length=1)

    def item(self) -> Item:
        """What is asked."""
        return Item(((self.context, f" {self.continuation}"),), 0, (1,))


LAYOUTS: dict[str, type[MinimalPair] | type[MultipleChoice] | type[Schema] | type[Continuation]] = {
    "minimal_pairs": MinimalPair,
    "multiple_choice": MultipleChoice,
    "schema": Schema,
    "language_modeling": Continuation,
}


def read_items(task: TaskParams) -> list[Item]:
    """The items of a `task` that has a layout, in the order of its file.

    Raises:
        Refusal: as read_rows; or if a row has not the layout's fields.
    """
    assert task.layout is not None
    items = []
    for where, row in read_task(task):
        try:
            items.append(LAYOUTS[task.layout].model_validate(row).item())
        except ValidationError as error:
            problem = error.errors()[0]
            found = "" if problem["type"] == "missing" else f" ({problem['input']!r:.60})"
            field = ".".join(map(str, problem["loc"]))
            raise Refusal(f"{where}: {field}{found}: {problem['msg']} (layout {task.layout})") from None
        except ValueError as error:
            raise Refusal(f"{where}: {error} (layout {task.layout})") from None
    return items


def read_task(task: TaskParams) -> list[Row]:
    """The rows of `task`, whatever they hold.

    Raises:
        Refusal: as read_rows.
    """
    return read_rows(task.data, task.sha256, f"evaluate.tasks: {task.name}", "items")


def read_labelled_texts(probe: ProbeParams) -> list[tuple[str, str]]:
    """Text and label of each row of the probe.

    Raises:
        Refusal: as read_rows; or if a row has no text and label.
    """
    rows = read_rows(probe.data, probe.sha256, PROBE, "texts")
    for where, row in rows:
        absent = [name for name in ("text", "label") if row.get(name) is None]
        if absent:
            raise Refusal(f"{where} has no {absent[0]}; each row of {PROBE} needs text and label")
    return [(str(row["text"]), str(row["label"])) for _, row in rows]


def read_rows(path: str, sha256: str, key: str, what: str) -> list[Row]:
    """The rows of the file at `path`, which the parameter `key` pins, in their order; its ending names the format.

    Raises:
        Refusal: as pinned; if the ending is none of ENDINGS, or the file isn't what its ending says; or if there is
            no row in it, which says `what` there should be.
    """
    ending = Path(path).suffix
    if ending not in ENDINGS:
        raise Refusal(f"{PARAMS_FILE}, {key}: {path} must end in one of {', '.join(ENDINGS)}")
    data = pinned(path, sha256, key)
    rows = _json_rows(path, data) if ending in (".jsonl", ".json") else _table_rows(path, data, ending)
    if not rows:
        raise Refusal(f"{path} is empty; {PARAMS_FILE}, {key} needs {what} in it")
    for where, row in rows:
        if not isinstance(row, dict):
            raise Refusal(f"{where} is no JSON object; {PARAMS_FILE}, {key} needs {what} with named fields")
    return rows


def _json_rows(path: str, data: bytes) -> list[tuple[str, Any]]:
    """Those of an array of objects, or of lines."""
    text = data.decode("utf-8-sig", "replace")
    if text.lstrip().startswith("["):
        return [(f"{path}, row {number}", row) for number, row in enumerate(_parsed(path, text), 1)]
    lines = [(f"{path}, line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [(where, _parsed(where, line)) for where, line in lines]


def _parsed(where: str, text: str) -> Any:
    try:
        return from_json(text)  # refuses half a surrogate pair, which no tokenizer takes
    except ValueError as error:
        raise Refusal(f"{where} is not JSON ({error}); bring JSON lines, or an array of objects") from None


def _table_rows(path: str, data: bytes, ending: str) -> list[tuple[str, Any]]:
    try:
        table = pl.read_parquet(data) if ending == ".parquet" else pl.read_csv(data, infer_schema_length=None)
    except pl.exceptions.NoDataError:
        return []
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise Refusal(f"{path} can't be read as {ending[1:]} ({reason}); bring the file that its ending says") from None
    return [(f"{path}, row {number}", row) for number, row in enumerate(table.iter_rows(named=True), 1)]


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `items`, evenly spread over them, in their order."""
    if len(items) <= count:
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]


def _within(gold: int, choices: Sequence[str]) -> int:
    if gold >= len(choices):
        raise ValueError(f"gold is {gold}, of {len(choices)} choices counted from 0")
    return gold
