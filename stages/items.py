"""The items of a task: what is asked, of a file that the user names.

JSON lines in the layout of the task  ->  items: candidates, and which of them is right

The layouts are those of BLiMP (Warstadt et al. 2020, arXiv:1912.00582) and of llm-foundry's local data, which has
the tasks of CORE (Li et al. 2024, arXiv:2406.11794) as multiple choice, schema and language modeling. How context and
continuation are joined is lm-evaluation-harness' way, so that its scores are the same: harness.py has its definitions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from stages.params import Refusal, StageParams
from stages.pinned import SHA256, pinned_lines

Pair = tuple[str, str]  # context, continuation


class TaskParams(StageParams):
    """A task: items in a file, and how they are read and asked."""

    name: str = Field(pattern=r"^[\w.-]+$", description="of its score, among those of other tasks")
    data: str = Field(min_length=1, description="the file of its items, JSON lines, from the project's folder")
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
        Refusal: if the file isn't the one that was pinned, or a line has not the layout's fields.
    """
    assert task.layout is not None
    items = []
    for where, line in pinned_lines(task.data, task.sha256, f"evaluate.tasks: {task.name}", "items"):
        try:
            items.append(LAYOUTS[task.layout].model_validate_json(line).item())
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(map(str, problem["loc"]))
            found = "" if problem["type"] == "missing" or not field else f" ({problem['input']!r:.60})"
            raise Refusal(f"{where}: {field or 'it'}{found}: {problem['msg']} (layout {task.layout})") from None
        except ValueError as error:
            raise Refusal(f"{where}: {error} (layout {task.layout})") from None
    return items


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `items`, evenly spread over them, in their order."""
    if len(items) <= count:
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]


def _within(gold: int, choices: Sequence[str]) -> int:
    if gold >= len(choices):
        raise ValueError(f"gold is {gold}, of {len(choices)} choices counted from 0")
    return gold
