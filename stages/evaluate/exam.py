"""The tasks of this build: read and encoded once, then asked of each model.

params.yaml, files of items  ->  sheets  ->  answers of a model  ->  sections of metrics/evaluate.json
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from torch import nn

from stages.evaluate.contamination import fates
from stages.evaluate.harness import HarnessScore
from stages.evaluate.likelihood import Request, encode, log_likelihoods, pseudo_log_likelihoods
from stages.evaluate.params import EvaluateParams
from stages.evaluate.tasks import PLACES, Bools, Z, accuracy, by_fate, centred, mean, right, task_score
from stages.items import Item, TaskParams, read_items, spread
from stages.params import Refusal

Question = tuple[Item, tuple[Request, ...]]  # one for each candidate


@dataclass(frozen=True)
class Sheet:
    """A task that is ready to be asked."""

    task: TaskParams
    questions: tuple[Question, ...]

    @property
    def items(self) -> list[Item]:
        """What is asked, in the order of the file."""
        return [item for item, _ in self.questions]

    def some(self, count: int) -> "Sheet":
        """At most `count` of its questions, evenly spread over them."""
        return replace(self, questions=tuple(spread(self.questions, count)))

    def answers(self, model: nn.Module, mask: int | None) -> Bools:
        """Whether `model` (masked if there is a `mask`) answers each question right."""
        requests = [request for _, candidates in self.questions for request in candidates]
        found = log_likelihoods(model, requests) if mask is None else pseudo_log_likelihoods(model, requests, mask)
        return right(self.items, found)

    @property
    def is_for_harness(self) -> bool:
        """Whether lm-evaluation-harness can score it: each continuation fits into one window."""
        return all(len(request) == 1 for _, candidates in self.questions for request in candidates)


def prepare(params: EvaluateParams, tokenizer: Tokenizer, separator: int, mask: int | None) -> list[Sheet]:
    """The sheet of each task that has a layout.

    Raises:
        Refusal: as read_items, examples and encode; or if a masked model can't be asked.
    """
    unfit = [task.name for task in params.tasks if task.definition or task.layout == "language_modeling"]
    if mask is not None and (unfit or params.harness):
        raise Refusal(
            f"params.yaml: evaluate.{f'tasks: {unfit[0]}' if unfit else 'harness'} needs a causal model, "
            "and this one is masked; ask it minimal_pairs, multiple_choice or schema, by our own scorer"
        )
    sheets = []
    for task in params.tasks:
        if task.layout is not None:
            items = read_items(task)
            before = examples(task, items)
            pairs = [
                (begin + context, continuation)
                for begin, item in zip(before, items, strict=True)
                for context, continuation in item.candidates
            ]
            requests = iter(encode(tokenizer, separator, pairs, params.sequence_length))
            questions = tuple((item, tuple(next(requests) for _ in item.candidates)) for item in items)
            sheets.append(Sheet(task, questions))
    return sheets


def examples(task: TaskParams, items: Sequence[Item]) -> list[str]:
    """What stands before each of `items`: answered ones of the same file, as lm-evaluation-harness writes them.

    Raises:
        Refusal: if there are too few.
    """
    before = []
    for item in items if task.shots else ():
        shown = list(islice((other.text for other in items if other != item), task.shots))
        if len(shown) < task.shots:
            raise Refusal(
                f"params.yaml, evaluate.tasks: {task.name}: shots is {task.shots}, and an item of {task.data} has only "
                f"{len(shown)} others; lower it"
            )
        before.append("".join(f"{text}\n\n" for text in shown))
    return before or [""] * len(items)


def asked_of_harness(params: EvaluateParams, sheets: Sequence[Sheet]) -> list[TaskParams]:
    """The tasks that lm-evaluation-harness scores: all that have a definition, and those that it can if it is asked."""
    layouts = [sheet.task for sheet in sheets if params.harness and sheet.is_for_harness]
    return [task for task in params.tasks if task.definition or task in layouts]


def sections(
    params: EvaluateParams,
    sheets: Sequence[Sheet],
    answers: Mapping[str, Bools],
    curve: Mapping[int, Mapping[str, Any]],
    harness: Mapping[str, HarnessScore],
    sources: Sequence[str],
) -> dict[str, Any]:
    """The sections `tasks`, `task_mean` and `contamination` of metrics/evaluate.json; none without tasks.

    Args:
        params: of the stage.
        sheets: of the tasks with a layout.
        answers: of the base model, by task.
        curve: accuracy by step and task.
        harness: what lm-evaluation-harness says of the base model, by task.
        sources: whose training documents may hold an item.
    """
    if not params.tasks:
        return {}
    tasks = {sheet.task.name: task_score(sheet.task, sheet.items, answers[sheet.task.name]) for sheet in sheets}
    for task in params.tasks:
        if task.definition:
            tasks[task.name] = _entry(task, harness[task.name])
        elif task.name in harness:
            tasks[task.name]["harness"] = _reference(harness[task.name])
    for name, entry in tasks.items():
        steps = {str(step): scores[name] for step, scores in curve.items() if name in scores}
        entry |= {"checkpoints": steps} if steps else {}
    known = fates({sheet.task.name: [item.text for item in sheet.items] for sheet in sheets}, sources)
    return {
        "tasks": tasks,
        "task_mean": mean(tasks, params.tasks),
        "contamination": {name: by_fate(answers[name], each) for name, each in known.items()},
    }


def accuracies(sheets: Sequence[Sheet], model: nn.Module, mask: int | None) -> dict[str, dict[str, Any]]:
    """The accuracy of `model` in the task of each sheet, with its chance-centred value."""
    scores = {}
    for sheet in sheets:
        answers = sheet.answers(model, mask)
        entry = task_score(sheet.task, sheet.items, answers)
        scores[sheet.task.name] = {**accuracy(answers), "chance": entry["chance"], "centred": entry["centred"]}
    return scores


def _reference(score: HarnessScore) -> dict[str, Any]:
    error = score.standard_error
    known = {} if error is None or np.isnan(error) else {"standard_error": round(error, PLACES)}
    return {"value": round(score.value, PLACES), **known, "n": score.n, "version": score.version}


def _entry(task: TaskParams, score: HarnessScore) -> dict[str, Any]:
    """The entry of a task that lm-evaluation-harness alone can score."""
    reference = _reference(score)
    half = Z * reference.setdefault("standard_error", 0.0)
    entry = {
        **reference,
        "low": round(score.value - half, PLACES),
        "high": round(score.value + half, PLACES),
        "lower_is_better": score.lower_is_better,
        "sha256": task.sha256,
        "definition_sha256": task.definition_sha256,
    }
    if task.chance is not None and not score.lower_is_better:
        entry |= {"chance": task.chance, "centred": round(centred(score.value, task.chance), PLACES)}
    return entry
