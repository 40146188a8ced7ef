"""What lm-evaluation-harness says of the base model: the reference for our own scorer, and whatever else it can ask.

It runs in a process of its own, offline, on the files that params.yaml pins; of its tasks' YAML only what says how a
row becomes a question is taken. It is imported there alone: a machine without it scores the other tasks.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from stages.items import TaskParams, read_task
from stages.params import Refusal
from stages.pinned import pinned
from stages.process import die_with_parent

# Each layout as a task of the harness; items.py reads the same rows. `target_delimiter` is a blank unless said.
LAYOUTS: dict[str, dict[str, Any]] = {
    "minimal_pairs": {
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    "multiple_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "query",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}],
    },
    "schema": {  # of a task with several contexts, doc_to_text is the right one's number
        "output_type": "multiple_choice",
        "doc_to_text": "gold",
        "doc_to_choice": "context_options",
        "doc_to_target": "continuation",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    "language_modeling": {
        "output_type": "loglikelihood",
        "doc_to_text": "context",
        "doc_to_target": " {{continuation}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
}
CODE = ("include", "class", "custom_dataset", "use_prompt", "unsafe_code")  # would run or fetch what isn't pinned
BOOTSTRAPS = 1000  # of a metric whose standard error has no formula
QUIET_OFFLINE = {
    "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0",
    "TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}  # fmt: skip


@dataclass(frozen=True)
class HarnessScore:
    """A task's score, and of each item the log-likelihood of each candidate (none if it has other answers)."""

    value: float
    standard_error: float | None
    n: int
    lower_is_better: bool
    version: str  # of the harness
    log_likelihoods: tuple[tuple[float, ...], ...]


def harness_scores(model: Path, tasks: Sequence[TaskParams], length: int, threads: int) -> dict[str, HarnessScore]:
    """The score of the model in the folder `model` in each of `tasks`, as lm-evaluation-harness computes it.

    Args:
        model: a causal model, with its tokenizer.
        tasks: whose data are as pinned.
        length: tokens that the model sees at once.
        threads: of torch; sums may depend on it.

    Raises:
        Refusal: if the harness isn't installed, or can't make a task of a definition.
    """
    if find_spec("lm_eval") is None:
        raise Refusal(
            "evaluate asks lm-evaluation-harness for a score, and it isn't installed; "
            "install lm_eval as requirements.lock has it, or set evaluate.harness to false and use layouts alone"
        )
    configs = [harness_task(task) for task in tasks]
    with (
        TemporaryDirectory() as cache,
        _environment({**QUIET_OFFLINE, "HF_HOME": cache, "HF_DATASETS_CACHE": cache, "OMP_NUM_THREADS": str(threads)}),
        ProcessPoolExecutor(1, get_context("spawn"), initializer=die_with_parent) as pool,
    ):
        return pool.submit(_scores, str(model), configs, length, threads).result()


def harness_task(task: TaskParams) -> dict[str, Any]:
    """`task` as the harness' configuration of a task, which reads the pinned file.

    Raises:
        Refusal: if the file or the definition isn't the pinned one, or the definition would run or fetch other things.
    """
    where = f"evaluate.tasks: {task.name}"
    read_task(task)
    config = LAYOUTS[task.layout] if task.layout else _definition(task, where)
    if task.shots:
        config = {**config, "num_fewshot": task.shots, "fewshot_config": {"sampler": "first_n"}}
    few = {"fewshot_split": "test"} if config.get("num_fewshot") else {}
    return {
        "num_fewshot": 0,
        **{
            key: value for key, value in config.items() if not key.endswith("_split") and not key.startswith("dataset_")
        },
        **few,
        "task": task.name,
        "custom_dataset": partial(_dataset, task),
        "test_split": "test",
    }


def _dataset(task: TaskParams, **_: Any) -> dict[str, Any]:
    """In the harness' own process, which adds its metadata: the rows of `task`, as its data set."""
    from datasets import Dataset

    rows = [row for _, row in read_task(task)]
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    return {"test": Dataset.from_dict(columns, on_mixed_types="use_json")}


def _definition(task: TaskParams, where: str) -> dict[str, Any]:
    assert task.definition is not None
    assert task.definition_sha256 is not None
    text = pinned(task.definition, task.definition_sha256, where)
    try:
        loaded = yaml.safe_load(text)  # refuses !function, which is code
    except yaml.YAMLError as error:
        raise Refusal(f"{task.definition} can't be read ({' '.join(str(error).split())}); no code is run") from None
    unsafe = [key for key in CODE if key in loaded] if isinstance(loaded, dict) else ["no mapping"]
    if unsafe:
        raise Refusal(f"{task.definition} has {unsafe[0]}; a definition may only say how a row becomes a question")
    if len(loaded.get("metric_list") or []) != 1:
        raise Refusal(f"{task.definition} must name one metric in metric_list, the one that is the task's score")
    return dict(loaded)


def _scores(folder: str, configs: Sequence[Mapping[str, Any]], length: int, threads: int) -> dict[str, HarnessScore]:
    """In the harness' own process: the score of each task of `configs`."""
    import torch
    from lm_eval import __version__
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of each context that is cut
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        loaded = TaskManager(include_defaults=False).load([dict(config) for config in configs])
    except Exception as error:
        raise Refusal(f"lm-evaluation-harness can't make tasks of evaluate.tasks ({error!r})") from None
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(0)
    model = HFLM(pretrained=folder, device="cpu", dtype="float32", max_length=length, batch_size=16)
    results = evaluate(lm=model, task_dict=loaded, bootstrap_iters=BOOTSTRAPS, log_samples=True)
    return {config["task"]: _score(results, config, __version__) for config in configs}


def _score(results: Mapping[str, Any], config: Mapping[str, Any], version: str) -> HarnessScore:
    name, metric = config["task"], config["metric_list"][0]["metric"]
    values, rows = results["results"][name], sorted(results["samples"][name], key=lambda row: row["doc_id"])
    [key] = [key for key in values if key.split(",")[0] == metric]
    error = values.get(key.replace(metric, f"{metric}_stderr", 1))
    is_likelihood = config["output_type"] in ("multiple_choice", "loglikelihood")
    return HarnessScore(
        float(values[key]),
        float(error) if isinstance(error, int | float) else None,
        len(rows),
        not results["higher_is_better"][name][metric],
        version,
        tuple(tuple(float(answer[0]) for answer in row["filtered_resps"]) for row in rows) if is_likelihood else (),
    )


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """The environment with `values`, for the processes that begin in it."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
