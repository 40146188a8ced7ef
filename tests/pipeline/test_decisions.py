"""Measure, then decide: a threshold and a takedown change decisions, and of the rest only what they must."""

import hashlib
import json
import re
import shutil

import polars as pl
import pytest
from tiny import Project

TOKENS = ("tokenize@stories", "tokenize@scripts")


def ran(said: str) -> set[str]:
    """The stages that `dvc repro` says it ran."""
    return set(re.findall(r"Running stage '(.+?)'", said))


def shards(project: Project) -> dict[tuple[str, str], str]:
    """The digest of every shard of decisions and of tokens, by folder and file."""
    folders = [
        f"data/{stage}/{source}" for stage in ("filter", "dedup", "tokenize") for source in ("stories", "scripts")
    ]
    return {
        (folder, entry["path"]): entry["sha256"]
        for folder in folders
        for entry in project.json(f"{folder}/manifest.json")["shards"]
    }


@pytest.fixture
def pinned(copy: Project) -> Project:
    """A built project whose tokenizer is an existing one: it doesn't change with the documents."""
    shutil.copytree(copy.folder / "models/tokenizer", copy.folder / "tokenizer")
    sha256 = hashlib.sha256((copy.folder / "tokenizer/tokenizer.json").read_bytes()).hexdigest()
    copy.set("tokenizer", {"existing": {"name": "tokenizer", "sha256": sha256}})
    copy.repro(*TOKENS)
    return copy


def test_a_document_that_is_taken_down_changes_one_shard_of_decisions_and_one_of_tokens(pinned):
    before = shards(pinned)
    owners = sorted((pinned.folder / "data/tokenize/scripts").glob("documents-*.parquet"))
    taken = pl.read_parquet(owners[1])["id"][0]

    (pinned.folder / "takedown.jsonl").write_text(json.dumps({"id": taken}) + "\n", encoding="utf-8")
    stages = ran(pinned.repro(*TOKENS))

    assert len(owners) > 2
    assert stages == {"filter@stories", "filter@scripts", "dedup", "tokenizer", "tokenize@scripts"}
    after = shards(pinned)
    assert {key for key in before if before[key] != after[key]} == {
        ("data/filter/scripts", "decisions-00001.parquet"),
        ("data/dedup/scripts", "decisions-00001.parquet"),
        ("data/tokenize/scripts", "documents-00001.parquet"),
        ("data/tokenize/scripts", "tokens-00001.bin"),
        ("data/tokenize/scripts", "tokens-00001.idx"),
    }
    assert taken not in pl.read_parquet(owners[1])["id"]


def test_a_threshold_and_a_list_of_tasks_leave_what_was_extracted_alone(copy):
    extracted = {path: digest for path, digest in copy.outs().items() if path.startswith("data/extract")}
    item = pl.read_parquet(copy.folder / "data/extract/stories/documents-00000.parquet")["text"][0].split(".")[0]
    rows = json.dumps({"sentence_good": item, "sentence_bad": "No."}) + "\n"
    (copy.folder / "items.jsonl").write_text(rows, encoding="utf-8")
    task = {"name": "pairs", "data": "items.jsonl", "layout": "minimal_pairs"}
    copy.set("evaluate.tasks", [{**task, "sha256": hashlib.sha256(rows.encode()).hexdigest()}])
    copy.set(
        "sources.stories.filter", {"gopher_quality": {"min_words": 2, "min_stop_words": None}, "decontamination": {}}
    )

    stages = ran(copy.repro("filter"))
    copy.set("evaluate.stride", 8)
    again = ran(copy.repro("filter"))

    assert (stages, again) == ({"filter@stories", "filter@scripts"}, set())
    assert {path: digest for path, digest in copy.outs().items() if path.startswith("data/extract")} == extracted
    dropped = copy.json("data/filter/stories/manifest.json")["counts"]["dropped"]
    assert dropped == {"decontamination": 1}
    hits = pl.read_parquet(copy.folder / "data/filter/stories/hits-00000.parquet")
    assert hits.select("task", "item").rows() == [("pairs", 0)]
