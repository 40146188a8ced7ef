"""The summary says where every document went, and shows hostile text as text."""

import io
import json

import pytest
from rich.console import Console

from lineage.plain import plain
from lineage.summary import Source, print_summary, read_summary, show, to_json
from stages.params import Refusal

HOSTILE = "[red]bold[/red] \x1b[2J\x07 \u202eabc :smile:\nnext"


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def counts(root, stage, source, **values):
    write(root / "data" / stage / source / "manifest.json", {"counts": values, "shards": []})


@pytest.fixture
def build(tmp_path):
    """Two sources, wiki with every fate, code without a loss; a model, its evaluation, one hostile sample."""
    (tmp_path / "params.yaml").write_text("sources: {wiki: {}, code: {}}\n")
    counts(tmp_path, "extract", "wiki", read=100, kept=90, dropped={"empty": 10}, bytes=1, languages={})
    counts(tmp_path, "filter", "wiki", read=90, kept=60, dropped={"too_short": 20, "too_long": 7, "language": 3})
    counts(
        tmp_path, "dedup", "wiki", read=60, kept=52, dropped={"exact_duplicate": 5, "near_duplicate": 3},
        held_out=2, train=50,
    )  # fmt: skip
    counts(tmp_path, "tokenize", "wiki", documents=50, tokens=3000, bytes=9000)
    counts(tmp_path, "extract", "code", read=10, kept=10, dropped={}, bytes=1, languages={})
    counts(tmp_path, "filter", "code", read=10, kept=10, dropped={})
    counts(tmp_path, "dedup", "code", read=10, kept=10, dropped={}, held_out=0, train=10)
    counts(tmp_path, "tokenize", "code", documents=10, tokens=1000, bytes=3000)
    write(
        tmp_path / "metrics/pretrain.json",
        {"parameters": 1_300_000, "tokens": 8192, "steps": 4, "loss": 2.5, "flops": 1e12, "epochs": {"wiki": 1.5}},
    )
    write(
        tmp_path / "metrics/evaluate.json",
        {
            "bits_per_byte": {"model": 1.5, "untrained": 8.0, "xz": 2.1, "xz_primed": 1.6, "order2": 2.9},
            "sources": {"wiki": {"bytes": 9, "documents": 2, "model": 1.5, "untrained": 8.0, "xz": 2.1, "order2": 2.9}},
            "intervals": {"all": {"low": 1.4, "high": 1.6}, "sources": {"wiki": None}},
        },
    )
    write(tmp_path / "models/samples.json", [{"prompt": "The", "temperature": 0.8, "text": HOSTILE}])
    return tmp_path


def test_a_source_that_a_language_model_wrote_is_marked(build):
    write(build / "data/download/wiki/manifest.json", {"counts": {}, "shards": [], "about": {"synthetic": True}})

    assert [source.synthetic for source in read_summary(build).sources] == [True, False]
    assert "wiki (synthetic)" in shown(build)


def shown(root):
    output = io.StringIO()
    show(read_summary(root), Console(file=output, width=140, markup=False, emoji=False, highlight=False))
    return output.getvalue()


def cells(page, first):
    """The cells of the row that begins with `first`."""
    line = next(line for line in page.splitlines() if first in line.split()[:2])
    return [cell.strip() for cell in line.replace("│", "┃").strip("┃ ").split("┃")]


def test_the_rows_add_up(build):
    page = shown(build)

    assert cells(page, "wiki") == ["wiki", "100", "10", "30", "5", "3", "2", "50", "3,000", "75.0%"]
    assert cells(page, "all") == ["all", "110", "10", "30", "5", "3", "2", "60", "4,000", "100.0%"]
    assert all(source.unaccounted == 0 for source in read_summary(build).sources)
    assert "wiki       too_short 20, empty 10, too_long 7\n" in page
    assert "code       nothing was dropped\n" in page
    assert "have no fate" not in page


def test_a_document_without_a_fate_is_said(build):
    counts(build, "dedup", "code", read=9, kept=9, dropped={}, held_out=0, train=9)

    assert "code: 1 documents have no fate" in shown(build)


def test_model_references_and_places_are_shown(build):
    page = shown(build)

    assert "1,300,000 parameters, trained on 8,192 tokens in 4 steps to a loss of 2.500" in page
    assert cells(page, "wiki")[0] == "wiki"
    assert "1.400 to 1.600" in page
    assert "1.600" in page
    assert "token shards       data/tokenize" in page
    assert "models/base" not in page  # it isn't there


def test_tasks_and_the_probe_are_shown_if_there_are_any(build):
    assert "Tasks" not in shown(build)
    metrics = json.loads((build / "metrics/evaluate.json").read_text())
    task = {"n": 1000, "value": 0.75, "low": 0.7, "high": 0.8, "centred": 0.5}
    metrics |= {
        "tasks": {"copa": task, HOSTILE: {"n": 9, "value": 2.5, "low": 2.4, "high": 2.6, "lower_is_better": True}},
        "task_mean": {"value": 0.5},
        "contamination": {"copa": {"clean": {"n": 990, "value": 0.749}, "contaminated": {"n": 0}}},
        "probe": {
            "n": 20,
            "steps": [4, 8],
            "models": {n: {"accuracy": [0.5, a]} for n, a in (("base", 0.9), ("untrained", 0.6))},
        },
    }
    write(build / "metrics/evaluate.json", metrics)

    page = shown(build)

    assert cells(page, "copa") == ["copa", "1,000", "0.750", "0.700 to 0.800", "0.500", "0.749 of 990", "–"]
    assert (
        "after 8 steps of fine-tuning, 0.900 of 20 texts are labelled right; an untrained twin comes to 0.600" in page
    )
    assert not {"\x1b", "\x07", "\u202e"} & set(page)


def test_hostile_text_is_shown_as_text(build):
    page = shown(build)

    assert "[red]bold[/red]" in page
    assert ":smile:" in page
    assert not {"\x1b", "\x07", "\u202e"} & set(page)
    assert plain("a\x00b\u2066c\nd\te") == "a\ufffdb\ufffdc\nd\te"


def test_what_is_not_built_yet_is_unknown_not_zero(build):
    (build / "data/tokenize/wiki/manifest.json").unlink()
    (build / "data/dedup/wiki/manifest.json").unlink()

    assert cells(shown(build), "wiki")[4:] == ["–", "–", "–", "–", "–", "–"]


def test_nothing_built_is_refused(tmp_path):
    (tmp_path / "params.yaml").write_text("sources: {wiki: {}}\n")

    with pytest.raises(Refusal, match="nothing is built here yet"):
        read_summary(tmp_path)


def test_a_broken_manifest_is_refused_by_name(build):
    (build / "data/filter/wiki/manifest.json").write_text("{")

    with pytest.raises(Refusal, match=r"data/filter/wiki/manifest\.json is not JSON"):
        read_summary(build)


def test_json_has_all_of_it(build, capsys):
    print_summary(as_json=True, root=build)

    written = json.loads(capsys.readouterr().out)
    assert written == json.loads(json.dumps(to_json(read_summary(build))))
    assert written["sources"][0]["share"] == 0.75
    assert written["sources"][1]["unaccounted"] == 0
    assert written["samples"][0]["text"] == HOSTILE


def test_a_source_accounts_for_each_document_that_came_in():
    assert (
        Source("s", read=5, unextracted={"a": 1}, filtered={"b": 1}, duplicates={}, held_out=1, trained=2).unaccounted
        == 0
    )
    assert Source("s", read=5, unextracted={"a": 1}).unaccounted == 4
