"""A document that holds an item of an evaluation is dropped, and the item is named."""

import hashlib
import json

import polars as pl
import pytest

from stages.documents import DECISION_SCHEMA
from stages.evaluate.contamination import Fate, fates
from stages.filter.decontamination import HIT_SCHEMA, drop_hit, hit_table, hits_in, item_texts, wanted_of
from stages.items import TaskParams
from stages.params import Refusal

ISHMAEL = "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse"
MOTTO = "all happy families are alike and each unhappy one"
ITEMS = [
    {"context": "Call me Ishmael. Some years ago, never mind how long precisely, having", "continuation": "little"},
    {"context": "All happy families are alike; and each", "continuation": "unhappy one"},
    {"context": "too short to", "continuation": "say"},
]


@pytest.fixture
def tasks(tmp_path):
    """A task with a layout, and one with a definition, which only the harness could read."""

    def task(name, rows, **how):
        data = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        (tmp_path / f"{name}.jsonl").write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        return TaskParams(name=name, data=str(tmp_path / f"{name}.jsonl"), sha256=sha256, **how)

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
    assert hits_in(["some other text", text], wanted_of(tasks, 13)) == [(1, item) for item in items]


def test_a_hit_names_the_document_and_the_item_in_its_task(tasks):
    documents = pl.DataFrame({"id": ["a", "b", "c"], "text": [MOTTO, "nothing", f"{MOTTO}. {ISHMAEL}"]})

    hits = hit_table(documents, wanted_of(tasks, 13))

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
    hit = {text for text, _ in hits_in(texts, wanted_of(tasks[:1], 13))}
    monkeypatch.setattr("stages.evaluate.contamination.training_shards", lambda sources: [(0, 0)])
    monkeypatch.setenv("PEDIGREE_WORKERS", "1")

    def fates_of(kept):
        frame = pl.DataFrame({"text": kept})
        monkeypatch.setattr("stages.evaluate.contamination.kept_of_shard", lambda *_: frame)
        return fates({"ends": item_texts(tasks[0])}, [])["ends"]

    assert hit == {0, 1}
    assert fates_of(texts) == [Fate.CONTAMINATED, Fate.CONTAMINATED, Fate.SHORT]
    assert fates_of(texts[2:]) == [Fate.CLEAN, Fate.CLEAN, Fate.SHORT]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [(b"not JSON\n", "line 1 is not JSON; bring"), (b"\n", "own.jsonl is empty"), (b"x", "has sha256")],
)
def test_items_that_cant_be_read_are_refused(tasks, tmp_path, data, sentence):
    (tmp_path / "own.jsonl").write_bytes(data)
    sha256 = "0" * 64 if data == b"x" else hashlib.sha256(data).hexdigest()

    with pytest.raises(Refusal, match=sentence):
        item_texts(tasks[1].model_copy(update={"sha256": sha256}))


def test_items_in_another_format_than_json_lines_are_refused(tasks):
    with pytest.raises(Refusal, match=r"evaluate\.tasks: own has items\.csv; give its items as \.jsonl"):
        item_texts(tasks[1].model_copy(update={"data": "items.csv"}))
