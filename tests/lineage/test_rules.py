"""What each rule drops, in numbers that agree with filter's decisions, and what another threshold would change."""

import json
import math

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from lineage.rules.bins import cut_of, edges_of
from lineage.rules.change import as_set
from pedigree import app
from stages.documents import DOCUMENT_SCHEMA, document_id, shard_name, write_manifest, write_shard
from stages.extract.signals import measure
from stages.filter import FilterParams, Rule, decide, rules
from stages.filter.measured import read_signals
from stages.params import Refusal, parse_params

SECTION = {
    "language": {"allowed": ["en"]},
    "gopher_quality": {"min_words": 20, "min_stop_words": None, "max_mean_word_length": None},
}
LONG = "Nobody remembers which of the two names of the river came first, "
# Words, language: 0 to 28 words in steps of seven, one of them German, one hostile.
TEXTS = [("", "en"), ("a b c d e f g", "en"), (LONG, "de"), (LONG * 2, "en"), ("\x1b[31m‮evil " + LONG * 3, "en")]


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A project with a source `web` in two shards; the current folder."""
    monkeypatch.chdir(tmp_path)
    params = {"sources": {"web": {"filter": SECTION}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "takedown.jsonl").write_text("\n")
    folder = tmp_path / "data/extract/web"
    folder.mkdir(parents=True)
    for number, part in enumerate((TEXTS[:3], TEXTS[3:])):
        texts = [text for text, _ in part]
        rows = [
            {**dict.fromkeys(DOCUMENT_SCHEMA), "id": document_id("web", text), "text": text, "meta": "{}",
             "origin": f"{number}!{place}", "language": language}
            for place, (text, language) in enumerate(part)
        ]  # fmt: skip
        documents = pl.DataFrame(rows, schema=DOCUMENT_SCHEMA)
        own = documents.select("id", language_score=pl.lit(0.9))
        write_shard(folder / shard_name("documents", number), documents)
        write_shard(folder / shard_name("signals", number), pl.concat([own, measure(texts)], how="horizontal"))
    write_manifest(folder, {})
    return tmp_path


def asked(*arguments):
    done = CliRunner().invoke(app, ["rules", "web", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def answer(*arguments):
    return json.loads(asked(*arguments, "--json"))


def test_every_rule_has_what_it_drops_and_what_only_it_drops(web):
    found = answer()

    by_name = {each["rule"]: each for each in found["rules"]}
    assert found["read"]["documents"] == 5
    assert found["kept"] == {"documents": 2, "bytes": sum(len(text.encode()) for text, _ in TEXTS[3:]), "tokens": None}
    assert by_name["gopher_quality.min_words"]["break"]["documents"] == 3
    assert by_name["gopher_quality.min_words"]["break_no_other"]["documents"] == 0
    assert by_name["language.allowed"]["break"] == {"documents": 1, "bytes": len(LONG), "tokens": None}
    assert by_name["language.allowed"]["said"] == {"en": 4, "de": 1}
    assert list(by_name) == [rule.name for rule in rules(parse_params(FilterParams, SECTION, "test"))]


def test_the_bars_of_a_rule_hold_all_documents_and_are_cut_at_the_threshold(web):
    [rule] = answer("--rule", "gopher_quality.min_words")["rules"]

    cut = rule["edges"].index(20.0) + 1
    assert sum(rule["bars"]) == len(TEXTS)
    assert sum(rule["bars"][:cut]) == rule["break"]["documents"] == 3


def test_samples_are_the_nearest_to_the_threshold_on_either_side(web):
    [rule] = answer("--rule", "gopher_quality.min_words")["rules"]

    assert [each["value"] for each in rule["samples"]["dropped"]] == [12.0, 7.0, 0.0]
    assert [each["value"] for each in rule["samples"]["not_dropped"]] == [24.0, 38.0]
    assert rule["samples"]["dropped"][0] == {
        "id": document_id("web", LONG), "origin": "0!2", "value": 12.0, "text": LONG[:80],
        "synthetic": False,
    }  # fmt: skip


def test_a_sample_that_a_language_model_wrote_is_marked(web):
    path = web / "data/extract/web/documents-00001.parquet"
    documents = pl.read_parquet(path)
    write_shard(path, documents.with_columns(meta=pl.Series(["{}", '{"synthetic": true}'])))
    write_manifest(path.parent, {})

    [rule] = answer("--rule", "gopher_quality.min_words")["rules"]

    assert [each["synthetic"] for each in rule["samples"]["not_dropped"]] == [False, True]
    assert asked("--rule", "gopher_quality.min_words").count("1!1 (synthetic)") == 1


def test_what_is_taken_down_is_asked_no_rule(web):
    (web / "takedown.jsonl").write_text(json.dumps({"id": document_id("web", "")}) + "\n")

    found = answer("--rule", "gopher_quality.min_words")

    assert found["taken_down"]["documents"] == 1
    assert found["read"]["documents"] == 5
    assert found["rules"][0]["break"]["documents"] == 2


def test_tokens_are_estimated_by_those_of_the_source(web):
    (web / "data/tokenize/web").mkdir(parents=True)
    write_manifest(web / "data/tokenize/web", {"tokens": 50, "bytes": 100})

    found = answer()

    assert found["read"]["tokens"] == round(found["read"]["bytes"] / 2)
    assert "estimated, at 2.00 bytes each" in asked()


@pytest.mark.parametrize(
    ("settings", "more", "fewer"),
    [
        (["gopher_quality.min_words=10"], {}, {}),  # the next one is German
        (["gopher_quality.min_words=10", "language=null"], {"language.allowed": 1}, {}),
        (["gopher_quality.min_words=null", "gopher_quality.min_mean_word_length=null", "language.allowed=[de, en]"],
         {"gopher_quality.min_words": 1, "language.allowed": 1}, {}),
        (["gopher_quality.min_words=30"], {}, {"gopher_quality.min_words": 1}),
        (["c4={}", "gopher_quality=null"], {}, {"c4.min_sentences": 2}),
        (["c4={}", "c4.min_sentences=1", "gopher_quality={}", "gopher_quality.min_words=0"], {}, {}),
    ],
)  # fmt: skip
def test_a_change_says_what_is_kept_more_and_fewer_as_filter_would_decide(web, settings, more, fewer):
    found = answer(*(f"--set={setting}" for setting in settings))

    after = rules(parse_params(FilterParams, as_set(SECTION, settings), "test"))
    folder = web / "data/extract/web"
    kept = sum(
        decide(read_signals(folder / f"documents-0000{n}.parquet", folder / f"signals-0000{n}.parquet", after), after)[
            "keep"
        ].sum()
        for n in (0, 1)
    )
    assert found["after"]["documents"] == kept == 2 + sum(more.values()) - sum(fewer.values())
    assert {rule: each["documents"] for rule, each in found["kept_more"].items()} == more
    assert {rule: each["documents"] for rule, each in found["kept_fewer"].items()} == fewer


def test_nothing_is_written(web):
    before = {path: path.stat().st_mtime_ns for path in web.rglob("*")}

    asked("--set", "gopher_quality.min_words=10")
    asked()

    assert {path: path.stat().st_mtime_ns for path in web.rglob("*")} == before


def test_text_from_the_web_steers_no_terminal(web):
    said = asked("--rule", "gopher_quality.min_words")

    assert "evil" in said
    assert "\x1b[31m" not in said
    assert "‮" not in said


def test_pages_for_people_have_bars_and_thresholds(web):
    everything, one = asked(), asked("--rule", "gopher_quality.min_words")
    change = asked("--set", "gopher_quality.min_words=30")

    assert "min_words" in everything
    assert "≥ 20" in everything
    assert "┃━━ at least 20" in one
    assert "documents that break it: 3 (60.0%)" in one
    assert "kept: 2 documents before, 1 after (-1)" in change


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["wob"], "params.yaml has no source wob; name one of web"),
        (["web", "--rule", "min_words"], "asks no rule min_words; name one of these: language.allowed, "),
        (["web", "--set", "min_words"], "--set min_words is no RULE=VALUE"),
        (["web", "--set", "gopher_quality.min_words=[1"], r"is no RULE=VALUE"),
        (["web", "--set", "fineweb.max_list_ratio=1"], "fineweb is off; switch it on before, by --set fineweb={}"),
        (["web", "--set", "gopher_quality.min_words=few"], "as set.gopher_quality.min_words is 'few'"),
        (["web", "--set", "gopher_quality.min_wrods=1"], "min_wrods is not a parameter"),
        (["web", "--set", "gopher_quality.min_words.x=1"], "min_words is 20, which has nothing inside"),
        (["web", "--set", "quality={min_score: 0.5}"], "asks for quality_score, which"),
    ],
)
def test_a_question_without_an_answer_is_refused_in_a_sentence(web, arguments, sentence):
    done = CliRunner().invoke(app, ["rules", *arguments])

    assert done.exit_code == 2
    assert sentence in done.output


@pytest.mark.parametrize(
    ("values", "cut", "is_count"),
    [
        ([], 0.5, False),
        ([math.nan], None, False),
        ([0.0] * 9, 0.1, False),
        ([0.25, 0.5, 0.75], 0.3, False),
        (list(range(30)), 7.0, True),
        ([1.0, 5.0, 1e6], 50.0, True),
        ([-3.0, 1e-9, 1e12], 0.2, False),
    ],
)
def test_edges_ascend_and_have_the_threshold_among_them(values, cut, is_count):
    edges = edges_of(np.array(values, np.float64), cut, is_count)

    assert (np.diff(edges) > 0).all()
    assert cut is None or cut in edges
    assert 1 <= len(edges) < 60


def test_a_value_that_is_its_threshold_is_on_the_kept_side():
    least, most = Rule("a", "x", at_least=0.5), Rule("b", "x", at_most=0.5)

    assert cut_of(least) == 0.5
    assert 0.5 < cut_of(most) < 0.5 + 1e-12
    assert cut_of(Rule("c", "language", one_of=("en",))) is None


def test_a_set_rule_stands_for_params_and_leaves_them_alone():
    section = {"c4": {"min_sentences": 3}}

    assert as_set(section, ["c4.min_sentences=null", "fineweb={}"]) == {"c4": {"min_sentences": None}, "fineweb": {}}
    assert section == {"c4": {"min_sentences": 3}}
    with pytest.raises(Refusal, match="c4 is off"):
        as_set({"c4": None}, ["c4.min_sentences=1"])
