"""Tasks and a probe in a build: scored for every checkpoint, apart from what the training text holds, and read on."""

import csv
import hashlib
import json

import polars as pl
import pytest

from flows.publication.gate import compare, read_evaluation
from lineage.summary import read_summary

OUTS = ("metrics/evaluate.json", "metrics/held_out.parquet", "models/samples.json", "plots/checkpoints.csv")


def write_rows(project, name, rows):
    """A file of items in the project's folder, as the parameters name it."""
    data = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    (project.folder / "tasks").mkdir(exist_ok=True)
    (project.folder / "tasks" / name).write_bytes(data)
    return {"data": f"tasks/{name}", "sha256": hashlib.sha256(data).hexdigest()}


def training_sentence(project):
    """A sentence of 14 words or more that the model was trained on."""
    documents = pl.read_parquet(project.folder / "data/extract/stories/documents-00000.parquet")
    decisions = pl.read_parquet(project.folder / "data/dedup/stories/decisions-00000.parquet")
    text = documents.filter(decisions["keep"] & (decisions["split"] == "train"))["text"][0]
    return next(each for each in text.split(". ") if len(each.split()) >= 14)


@pytest.fixture
def asked(copy):
    """A built project that has tasks and a probe in its parameters, not evaluated again yet."""
    words = training_sentence(copy).split()
    ends = [{"context": " ".join(words[:-1]), "continuation": words[-1]}]
    clean = "Nobody in this corpus ever wrote that {} of zinc, nor will"
    ends += [{"context": clean.format(word), "continuation": "be"} for word in words[:4]]
    pairs = [
        {"sentence_good": f"The {word} had to be old.", "sentence_bad": f"The had {word} to old be."}
        for word in words[:6]
    ]
    labels = [
        {"text": f"{'def' if number % 2 else 'The'} {word}", "label": number % 2}
        for number in range(4)
        for word in words
    ]
    copy.set(
        "evaluate.tasks",
        [
            {"name": "ends", "layout": "language_modeling", **write_rows(copy, "ends.jsonl", ends)},
            {"name": "pairs", "layout": "minimal_pairs", **write_rows(copy, "pairs.jsonl", pairs)},
        ],
    )
    copy.set("evaluate.checkpoint_items", 3)
    copy.set("evaluate.probe", {**write_rows(copy, "labels.jsonl", labels), "steps": 4, "learning_rate": 0.01})
    return copy


def evaluated(project, **settings):
    """The bytes of what evaluate writes."""
    done = project.stage("evaluate", **settings)
    assert done.returncode == 0, done.stderr
    return [(project.folder / path).read_bytes() for path in OUTS]


def test_tasks_are_scored_and_read_by_all_who_read_an_evaluation(built, asked):
    before = asked.json("metrics/evaluate.json")

    first, second = evaluated(asked, workers=1), evaluated(asked, workers=3)

    assert first == second
    metrics = asked.json("metrics/evaluate.json")
    assert {key: metrics[key] for key in before} == before  # nothing that was there is another
    assert set(metrics) - set(before) == {"tasks", "task_mean", "contamination", "probe"}
    ends = metrics["contamination"]["ends"]
    assert (ends["contaminated"]["n"], ends["clean"]["n"], metrics["contamination"]["pairs"]["short"]["n"]) == (1, 4, 6)
    for task in metrics["tasks"].values():
        assert task["low"] <= task["value"] <= task["high"]
        assert {step: score["n"] for step, score in task["checkpoints"].items()} == {"20": 3, "40": 3}
    assert metrics["tasks"]["pairs"]["value"] > 0.5
    assert list(metrics["probe"]["models"]) == ["base", "step-00000020", "step-00000040", "untrained"]
    assert metrics["probe"]["models"]["base"] == metrics["probe"]["models"]["step-00000040"]
    rows = list(csv.DictReader((asked.folder / "plots/checkpoints.csv").read_text().splitlines()))
    assert list(rows[0]) == ["step", "bits_per_byte", "task_mean", "ends", "pairs"]
    assert float(rows[1]["pairs"]) == metrics["tasks"]["pairs"]["checkpoints"]["40"]["value"]
    evaluation = read_evaluation(metrics, pl.read_parquet(asked.folder / "metrics/held_out.parquet"))
    assert [row.name for row in compare(evaluation, evaluation).rows][-2:] == ["task ends", "task pairs"]
    assert read_summary(asked.folder).evaluate["tasks"] == metrics["tasks"]


def test_another_file_of_items_is_refused_before_anything_is_scored(asked):
    (asked.folder / "tasks/pairs.jsonl").write_text("{}\n")

    done = asked.stage("evaluate")

    assert done.returncode == 2
    assert "error: params.yaml, evaluate.tasks: pairs: tasks/pairs.jsonl has sha256 " in done.stderr
    assert "Traceback" not in done.stderr
