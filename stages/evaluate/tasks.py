"""What a model scores in the tasks: accuracy, how sure it is, and how far above guessing.

items, log-likelihoods  ->  right or wrong  ->  scores

An interval is Wilson's (1927, JASA 22, 209-212): it stays within 0 and 1, and has a width when every item is right. It
says how much other items of the same kind would change the score. The mean over tasks is chance-centred, as in CORE
(Li et al. 2024, arXiv:2406.11794, appendix G): 0 is guessing, 1 is all right.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.evaluate.contamination import Fate
from stages.evaluate.likelihood import Likelihoods
from stages.items import Item, TaskParams

Bools = NDArray[np.bool_]

Z = 1.959964  # of a 95% interval
PLACES = 4


def right(items: Sequence[Item], found: Likelihoods) -> Bools:
    """Whether each item was answered right: the best of its candidates is taken, which follow each other in `found`."""
    ends = np.cumsum([len(item.candidates) for item in items])
    answers = []
    for item, end in zip(items, ends, strict=True):
        mine = slice(end - len(item.candidates), end)
        if len(item.candidates) == 1:
            answers.append(bool(found.is_greedy[mine][0]))
        else:
            # Of equals the first, as lm-evaluation-harness takes it.
            answers.append(int(np.argmax(found.nats[mine] / np.array(item.lengths))) == item.right)
    return np.array(answers, np.bool_)


def accuracy(answers: Bools) -> dict[str, Any]:
    """The share of right answers, its standard error and 95% interval, of how many; only the number if it is 0."""
    count = len(answers)
    if not count:
        return {"n": 0}
    value = float(answers.mean())
    low, high = wilson(int(answers.sum()), count)
    return {
        "n": count,
        "value": round(value, PLACES),
        "standard_error": round(standard_error(value, count), PLACES),
        "low": round(low, PLACES),
        "high": round(high, PLACES),
    }


def standard_error(share: float, count: int) -> float:
    """Of a share among `count` items: the deviation of the sample divided by the root of `count`."""
    return math.sqrt(share * (1 - share) / max(count - 1, 1))


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share of `hits` in `count`."""
    share, weight = hits / count, Z * Z / count
    middle = (share + weight / 2) / (1 + weight)
    half = Z * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def chance_of(task: TaskParams, items: Sequence[Item]) -> float:
    """What guessing scores in `task`."""
    return task.chance if task.chance is not None else math.fsum(item.chance for item in items) / len(items)


def centred(value: float, chance: float) -> float:
    """`value` on a scale on which guessing is 0 and all right is 1."""
    return (value - chance) / (1 - chance)


def task_score(task: TaskParams, items: Sequence[Item], answers: Bools) -> dict[str, Any]:
    """The entry of `task` in metrics/evaluate.json."""
    chance = chance_of(task, items)
    return {
        **accuracy(answers),
        "layout": task.layout,
        "chance": round(chance, PLACES),
        "centred": round(centred(float(answers.mean()), chance), PLACES),
        "sha256": task.sha256,
    }


def by_fate(answers: Bools, fates: Sequence[Fate]) -> dict[str, Any]:
    """The accuracy on clean items, on contaminated ones, and on those that are too short to say."""
    kinds = np.array([fate.value for fate in fates])
    return {fate.value: accuracy(answers[kinds == fate.value]) for fate in Fate}


def mean(scores: Mapping[str, Mapping[str, Any]], tasks: Iterable[TaskParams]) -> dict[str, Any] | None:
    """The chance-centred mean of `scores` over `tasks`, those of a group as one; None if no score is centred."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for task in tasks:
        score = scores.get(task.name, {})
        if "centred" in score:
            error = score["standard_error"] / (1 - score["chance"])
            groups.setdefault(task.group or f"task {task.name}", []).append((score["centred"], error))
    if not groups:
        return None
    count = len(groups)
    value = math.fsum(math.fsum(value for value, _ in each) / len(each) for each in groups.values()) / count
    # The tasks' items are independent, so their squares of errors add up.
    squares = math.fsum(math.fsum(error**2 for _, error in each) / len(each) ** 2 for each in groups.values())
    error = math.sqrt(squares) / count
    return {
        "value": round(value, PLACES),
        "standard_error": round(error, PLACES),
        "low": round(value - Z * error, PLACES),
        "high": round(value + Z * error, PLACES),
        "n": count,
    }
