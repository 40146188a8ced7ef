"""A document that holds an item of an evaluation is dropped, and the item is named."""

import hashlib
import io
import json

import polars as pl
import pytest

from stages.documents import DECISION_SCHEMA
from stages.evaluate.contamination import Fate, fates
from stages.filter.decontamination import (
    HIT_SCHEMA,
    EvaluationSets,
    drop_hit,
    hit_table,
    hits_in,
    item_texts,
    read_sets,
    task_texts,
    wanted_of,
)
from stages.items import ProbeParams, TaskParams, read_rows
from stages.params import Refusal

ISHMAEL = "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse"
MOTTO = "all happy families are alike and each unhappy one"
ITEMS = [
    {"context": "Call me Ishmael. Some years ago, never mind how long precisely, having", "continuation": "little"},
    {"context": "All happy families are alike; and each", "continuation": "unhappy one"},
    {"context": "too short to", "continuation": "say"},
]


def lines(rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def written(path, data):
    """`data` in a file, as parameters name it."""
    path.write_bytes(data)
    return {"data": str(path), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.fixture
def tasks(tmp_path):
    """A task with a layout, and one with a definition, of which the harness makes questions."""

    def task(name, rows, **how):
        return TaskParams(name=name, **written(tmp_path / f"{name}.jsonl", lines(rows)), **how)

    return (
        task("ends", ITEMS, layout="language_modeling"),
        task("own", [{"q": {"text": "What is it that"}, "a": ["nobody ever", "said of the old mill"], "n": 3}],
             definition="own.yaml", definition_sha256="0" * 64),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "items"),
    [
        (ISHMAEL, [0]),
        (ISHMAEL.upper().replace(",", " --"), [0]),
        ("Some years ago, never mind how long precisely, having little or no money", []),  # 13 of them, another 13
        (f"And so: {MOTTO}; who said that?", [1]),
        (f"{ISHMAEL} {MOTTO}", [0, 1]),
        ("too short to say", []),
        ("What is it that nobody ever said of the old mill?", [3]),
        ("", []),
    ],
)
def test_the_items_that_a_text_holds_are_found(tasks, text, items):
    assert hits_in(["some other text", text], wanted_of(EvaluationSets(tasks=tasks), 13)) == [
        (1, item) for item in items
    ]


def test_a_hit_names_the_document_and_the_item_in_its_task(tasks):
    documents = pl.DataFrame({"id": ["a", "b", "c"], "text": [MOTTO, "nothing", f"{MOTTO}. {ISHMAEL}"]})

    hits = hit_table(documents, wanted_of(EvaluationSets(tasks=tasks), 13))

    assert hits.schema == HIT_SCHEMA
    assert hits.rows() == [("a", "ends", 1), ("c", "ends", 0), ("c", "ends", 1)]


def test_a_hit_document_is_dropped_with_the_number_of_items():
    ids = ["a", "b", "c"]
    kept = [{**dict.fromkeys(DECISION_SCHEMA), "id": name, "keep": True} for name in ids]
    hits = pl.DataFrame({"id": ["c", "a", "c"], "task": ["t"] * 3, "item": [0, 1, 2]}, schema=HIT_SCHEMA)

    decisions = drop_hit(pl.DataFrame(kept, schema=DECISION_SCHEMA), hits)

    assert decisions.schema == DECISION_SCHEMA
    assert decisions.select("id", "keep", "rule", "value", "threshold").rows() == [
        ("a", False, "decontamination", 1.0, 0.0),
        ("b", True, None, None, None),
        ("c", False, "decontamination", 2.0, 0.0),
    ]


def test_what_is_left_is_clean_for_evaluate(tasks, tmp_path, monkeypatch):
    texts = [ISHMAEL, f"{MOTTO}, and so on", "Some years ago, never mind how long precisely, having little or no money"]
    hit = {text for text, _ in hits_in(texts, wanted_of(EvaluationSets(tasks=tasks[:1]), 13))}
    monkeypatch.setattr("stages.evaluate.contamination.training_shards", lambda sources: [(0, 0)])
    monkeypatch.setenv("PEDIGREE_WORKERS", "1")

    def fates_of(kept):
        frame = pl.DataFrame({"text": kept})
        monkeypatch.setattr("stages.evaluate.contamination.kept_of_shard", lambda *_: frame)
        return fates({"ends": task_texts(tasks[0])}, [])["ends"]

    assert hit == {0, 1}
    assert fates_of(texts) == [Fate.CONTAMINATED, Fate.CONTAMINATED, Fate.SHORT]
    assert fates_of(texts[2:]) == [Fate.CLEAN, Fate.CLEAN, Fate.SHORT]


OF_ROWS = pl.DataFrame({"question": [ISHMAEL, "Who said it?"], "answer": ["nobody", MOTTO], "gold": [0, 1]})


def csv(rows):
    return rows.write_csv().encode()


def parquet(rows):
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    return buffer.getvalue()


FORMATS = {
    "items.jsonl": lambda rows: lines(rows.to_dicts()),
    "items.json": lambda rows: json.dumps(rows.to_dicts(), indent=1).encode(),
    "lines.json": lambda rows: lines(rows.to_dicts()),
    "items.csv": csv,
    "items.parquet": parquet,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_that_evaluate_reads_is_searched_for(tmp_path, name):
    pinned = written(tmp_path / name, FORMATS[name](OF_ROWS))
    task = TaskParams(name="own", definition="own.yaml", definition_sha256="0" * 64, **pinned)

    hits = hits_in([f'"Who said it?" {MOTTO}', MOTTO, ISHMAEL], wanted_of(EvaluationSets(tasks=(task,)), 13))

    assert [row for _, row in read_rows(*pinned.values(), "evaluate.tasks: own", "items")] == OF_ROWS.to_dicts()
    assert hits == [(0, 1), (2, 0)]


@pytest.mark.parametrize("name", ["texts.csv", "texts.jsonl"])
def test_the_texts_of_the_probe_are_searched_for_too(tmp_path, tasks, name):
    rows = pl.DataFrame({"text": ["nothing much", MOTTO], "label": [MOTTO.upper(), "novel"]})
    probe = ProbeParams(**written(tmp_path / name, FORMATS["items" + name[5:]](rows)))
    sets = EvaluationSets(tasks=tasks[:1], probe=probe)

    hits = hit_table(pl.DataFrame({"id": ["a"], "text": [f"He wrote: {MOTTO}"]}), wanted_of(sets, 13))

    assert hits.rows() == [("a", "ends", 1), ("a", "evaluate.probe", 1)]
    assert dict(item_texts(sets))["evaluate.probe"] == ["nothing much", MOTTO]


def test_what_else_evaluate_is_told_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    probe = {"data": "labels.csv", "sha256": "0" * 64, "steps": 3}
    for evaluate, sets in (({"stride": -1, "probe": probe}, EvaluationSets(probe=ProbeParams(**probe))),
                           ({"probe": None}, EvaluationSets()), (None, EvaluationSets())):  # fmt: skip
        (tmp_path / "params.yaml").write_text(json.dumps({"evaluate": evaluate}))

        assert read_sets() == sets


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("own.jsonl", b"not JSON\n", r"own\.jsonl, line 1 is not JSON \(.+\); bring JSON lines"),
        ("own.jsonl", b'{"q": "\\ud800"}\n', "line 1 is not JSON"),
        ("own.jsonl", b"[" * 9999, "own.jsonl is not JSON"),
        ("own.json", b'[{"q": "a"}, "b"]', "row 2 is no JSON object"),
        ("own.jsonl", b"\n", r"own\.jsonl is empty"),
        ("own.csv", b"", r"own\.csv is empty"),
        ("own.csv", b"q\n", r"own\.csv is empty"),
        ("own.csv", b"a,b\n1,2,3\n", r"own\.csv can't be read as csv"),
        ("own.parquet", b"not Parquet", r"own\.parquet can't be read as parquet"),
        ("own.xlsx", b"x", r"evaluate\.tasks: own: .+own\.xlsx must end in one of \.jsonl, \.json, \.csv, \.parquet"),
        ("own.jsonl", None, "has sha256"),
    ],
)
def test_items_that_cant_be_read_are_refused(tasks, tmp_path, name, data, sentence):
    pinned = written(tmp_path / name, data or b"x")
    sha256 = pinned["sha256"] if data is not None else "0" * 64

    with pytest.raises(Refusal, match=sentence):
        task_texts(tasks[1].model_copy(update={**pinned, "sha256": sha256}))
