"""What two builds came to: their tokenizers and their metrics.

models/tokenizer, metrics/evaluate.json, metrics/pretrain.json  ->  Vocabulary, Score
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lineage.history import Build
from lineage.objects import Objects
from stages.params import Refusal

EVALUATION, TRAINING = "metrics/evaluate.json", "metrics/pretrain.json"
COUNTS = ("loss", "tokens", "steps", "parameters", "flops")
Interval = tuple[float, float]  # 95%: low, high
Metric = tuple[float | None, Interval | None]


@dataclass(frozen=True)
class Vocabulary:
    """Two vocabularies: their sizes, the tokens that only the old one has, and those that only the new one has."""

    old: int
    new: int
    gone: tuple[str, ...]
    came: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """A metric of both builds, with its interval where there is one; None where a build hasn't it."""

    name: str
    old: float | None
    new: float | None
    old_interval: Interval | None
    new_interval: Interval | None

    @property
    def overlap(self) -> bool | None:
        """Whether the intervals have a value in common; None if there aren't two."""
        if self.old_interval is None or self.new_interval is None:
            return None
        return self.old_interval[0] <= self.new_interval[1] and self.new_interval[0] <= self.old_interval[1]


def scores(old: Mapping[str, Metric], new: Mapping[str, Metric]) -> Iterator[Score]:
    """The metrics of both, side by side."""
    for name in {**old, **new}:
        (before, low), (after, high) = old.get(name, (None, None)), new.get(name, (None, None))
        yield Score(name, before, after, low, high)


def metrics_of(shelf: Objects, build: Build) -> dict[str, Metric]:
    """The metrics of `build` by name, with their intervals.

    Raises:
        Refusal: if they can't be read; it says how to get them.
    """
    evaluation, training = (read_json(shelf, build, path) for path in (EVALUATION, TRAINING))
    intervals = evaluation.get("intervals") or {}
    metrics: dict[str, Metric] = {}
    if "model" in evaluation.get("bits_per_byte", {}):
        metrics["bits per byte"] = evaluation["bits_per_byte"]["model"], _interval(intervals.get("all"))
    for source, values in evaluation.get("sources", {}).items():
        bounds = intervals.get("sources", {}).get(source)
        metrics[f"bits per byte of {source}"] = values.get("model"), _interval(bounds)
    for name, task in evaluation.get("tasks", {}).items():
        metrics[f"task {name}"] = task.get("value"), _interval(task)
    return metrics | {name: (training[name], None) for name in COUNTS if name in training}


def vocabulary_of(shelf: Objects, build: Build) -> set[str]:
    """The tokens that the tokenizer of `build` has.

    Raises:
        Refusal: if it can't be read; it says how to get it.
    """
    vocabulary = read_json(shelf, build, "models/tokenizer", "tokenizer.json").get("model", {}).get("vocab", {})
    return {token if isinstance(token, str) else str(token[0]) for token in vocabulary}  # Unigram: [token, score]


def read_json(shelf: Objects, build: Build, path: str, within: str = "") -> dict[str, Any]:
    """The JSON object in that file of an out of `build`; nothing if the build has no such out.

    Raises:
        Missing: if it isn't here.
        Refusal: if it is something else.
    """
    if path not in build.outs:
        return {}
    file = shelf.file(build, path, within)
    try:
        loaded = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        loaded = type(error).__name__
    if not isinstance(loaded, dict):
        raise Refusal(f"{path} of {build.title} is no JSON object ({loaded}): it can't be compared")
    return loaded


def figures(training: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What a table of builds tells of a model, by its two metrics: None is unknown."""
    interval = (evaluation.get("intervals") or {}).get("all") or {}
    return {
        "parameters": training.get("parameters"),
        "tokens": training.get("tokens"),
        "flops": training.get("flops"),
        "bits_per_byte": (evaluation.get("bits_per_byte") or {}).get("model"),
        "low": interval.get("low"),
        "high": interval.get("high"),
    }


def _interval(bounds: Mapping[str, float] | None) -> Interval | None:
    return (bounds["low"], bounds["high"]) if bounds else None
