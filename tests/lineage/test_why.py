"""A document is found however it is named, and its way is told, or why it can't be."""

import io
import json
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from rich.console import Console
from tiny import ROOT, Project

from lineage.documents import EXTRACT, Place, find, row_of
from lineage.history import Build, build_at
from lineage.steps import Plan, drawn
from lineage.training import instructions, plan_of
from lineage.why.answer import Answer, answer_of
from lineage.why.query import located
from lineage.why.show import facts, outcome, show
from lineage.why.way import Way, fate, file_and_member, file_of
from stages.documents import (
    DECISION_SCHEMA,
    DOCUMENT_SCHEMA,
    document_id,
    shard_name,
    write_json,
    write_manifest,
    write_shard,
)
from stages.order import count_windows
from stages.params import Refusal

ORIGINS = ("crawl.warc.gz#0", "crawl.warc.gz#1", "pages.zip!docs/a.html", "pages.zip!docs/b.html")
URLS = ("https://one.example/", 'https://one.example/page?q="ü"', "https://two.example", "https://one.example/pa")


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """The documents of a build, by hand: four with URLs, in two shards of the source web."""
    folder = tmp_path / "data/extract/web"
    folder.mkdir(parents=True)
    rows = [
        {"id": document_id("web", origin), "origin": origin, "meta": json.dumps({"url": url}, ensure_ascii=False)}
        for origin, url in zip(ORIGINS, URLS, strict=True)
    ]
    for number in (0, 1):
        table = pl.DataFrame(rows[2 * number :][:2], schema=DOCUMENT_SCHEMA)
        write_shard(folder / f"documents-{number:05d}.parquet", table)
    write_manifest(folder, {})
    return tmp_path


def test_a_build_with_other_columns_is_asked_for_what_it_has(shelf):
    [place] = find(shelf, pl.col("origin") == ORIGINS[0])
    for path in (shelf / "data/extract/web").glob("*.parquet"):
        pl.read_parquet(path).rename({"meta": "about"}).write_parquet(path)
    write_manifest(shelf / "data/extract/web", {})

    assert find(shelf, pl.col("origin") == ORIGINS[0]) == [place]
    assert row_of(shelf, EXTRACT, "documents", place, ["origin", "meta"]) == {"origin": ORIGINS[0]}
    with pytest.raises(Refusal, match=r"data/extract/web/documents-00000.parquet of that build can't be asked .*meta"):
        find(shelf, pl.col("meta").is_not_null())


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (document_id("web", ORIGINS[2]), [2]),
        (document_id("web", ORIGINS[3])[:8].upper(), [3]),
        (ORIGINS[1], [1]),
        ("docs/b.html", [3]),
        ("b.html", [3]),
        (".html", []),
        ("https://one.example", [0]),
        (URLS[1], [1]),
        ("https://two.example/", [2]),
        ("https://two.exampl", []),
        ("0" * 32, []),
    ],
)
def test_a_document_is_named_by_id_origin_or_url(shelf, query, found):
    places = located(shelf, query)

    assert [place.origin for place in places] == [ORIGINS[number] for number in found]
    assert [(place.shard, place.row) for place in places] == [divmod(number, 2) for number in found]


@pytest.mark.parametrize(
    ("origin", "parts"),
    [
        ("a.whl!docs/x.html", ("a.whl", "docs/x.html", None)),
        ("a!b.jsonl#12", ("a!b.jsonl", None, 12)),
        ("a.tar!x#y.txt", ("a.tar", "x#y.txt", None)),
        ("unknown.zip!x.xml#0", ("unknown.zip", "x.xml", 0)),
    ],
)
def test_an_origin_is_taken_apart_at_the_file_that_was_downloaded(origin, parts):
    told = file_and_member(origin, {name: {"sha256": "1"} for name in ("a.whl", "a!b.jsonl", "a.tar")})

    assert (told["file"], told["member"], told["record"]) == parts
    assert (told["sha256"] is None) == (parts[0] == "unknown.zip")


@pytest.mark.parametrize(
    ("pins", "shown"),
    [
        ({"sha256": "5a1d"}, "https://x.example/a.jsonl  sha256 5a1d"),
        ({"etag": "91cc", "version_id": "7f"}, "https://x.example/a.jsonl  ETag 91cc  version 7f"),
    ],
)
def test_a_file_by_reference_is_shown_as_it_was_locked(tmp_path, pins, shown):
    folder = tmp_path / "data/download/web"
    reference = {"path": "a.jsonl", "bytes": 9, "url": "https://x.example/a.jsonl", **pins}
    write_json(folder / "manifest.json", {"counts": {}, "shards": [], "references": [reference]})
    out = {"path": "data/download/web", "md5": f"{'0' * 32}.dir", "size": 9, "nfiles": 1}
    build = Build(yaml.safe_dump({"stages": {"download@web": {"cmd": "x", "outs": [out]}}}), None, None, ())
    place = Place("0" * 32, "web", "a.jsonl#3", 0, 0)

    told = file_of(tmp_path, build, tmp_path, place, [])

    assert (told["file"], told["member"], told["record"]) == ("a.jsonl", None, 3)
    assert dict(facts(Way(place.id, place.source, place.origin, **told)))["file"] == shown


def test_what_is_cut_from_a_document_is_told_and_that_dedup_dropped_what_was_left(tmp_path):
    decision = dict.fromkeys(DECISION_SCHEMA) | {"id": "a", "keep": False, "rule": "spans.min_characters_left"}
    decision |= {"cuts": [0, 20, 30, 35], "value": 3.0, "threshold": 4.0}
    (tmp_path / "data/dedup/web").mkdir(parents=True)
    shard = tmp_path / "data/dedup/web" / shard_name("decisions", 0)
    write_shard(shard, pl.DataFrame([decision], DECISION_SCHEMA))
    write_manifest(shard.parent, {})

    ended, split, cuts = fate(tmp_path, Place("a", "web", "x#0", 0, 0), [])
    told = dict(outcome(Way("a", "web", "x#0", ended=ended, split=split, cuts=cuts)))

    assert told == {
        "cut": "25 characters that web has elsewhere, too: 0 to 19, 30 to 34",
        "ended in": "data/dedup, by spans.min_characters_left: 3, where the threshold is 4",
    }


# ---- a built project -------------------------------------------------------------------------------------------


def texts(project: Project) -> dict[str, str]:
    """The texts of the stories, by origin."""
    lines = (project.folder / "corpus/stories.jsonl").read_text(encoding="utf-8").splitlines()
    return {f"stories.jsonl#{number}": json.loads(line)["text"] for number, line in enumerate(lines)}


def answer(project: Project, query: str | None = None, text: str | None = None, at: str | None = None) -> Answer:
    """What a build of `project` knows."""
    return answer_of(project.folder, build_at(project.folder, at), query, text)


def test_a_pasted_text_is_found_whatever_its_case_and_white_space(committed):
    text = texts(committed)["stories.jsonl#7"]

    found = answer(committed, text=f"\n {text.upper()} ".replace(" ", " \t "))

    assert [way.origin for way in found.ways] == ["stories.jsonl#7"]
    assert not found.nearest


def test_a_changed_text_is_found_by_its_shingles_with_its_similarity(committed):
    text = texts(committed)["stories.jsonl#7"]
    half = text[: len(text) // 2]

    changed = answer(committed, text=text.replace(" and it ", " but it ", 1))
    part = answer(committed, text=half)

    assert changed.nearest[0].origin == changed.ways[0].origin == "stories.jsonl#7"
    assert 0.8 < changed.nearest[0].similarity < 1
    assert part.nearest[0].origin == "stories.jsonl#7"
    assert part.nearest[0].contained > 0.95
    assert 0.3 < part.nearest[0].similarity < 0.7
    assert part.compared == part.documents


def test_an_excerpt_is_found_by_its_phrases_in_a_document_of_another_length(committed, monkeypatch):
    monkeypatch.setattr("lineage.why.text.CHARACTERS", 200)  # so that its length leads to no more than two documents
    excerpt = "\n".join(texts(committed)["stories.jsonl#7"].split()[30:60])

    found = answer(committed, text=excerpt)

    assert found.compared < found.documents / 4
    assert (found.nearest[0].origin, found.nearest[0].contained) == ("stories.jsonl#7", 1)
    assert found.nearest[0].similarity < 0.5


def test_a_text_that_no_document_is_like_is_refused_in_one_sentence(committed):
    with pytest.raises(Refusal, match=r"none of the 8[0-9] compared shares 5 words"):
        answer(committed, text="Nothing that any of these documents says is like what stands here, not at all.")


def test_rules_are_shown_with_value_and_threshold_and_the_first_broken_one_decides(committed):
    way = answer(committed, "stories.jsonl#62").ways[0]  # "Too short."

    broken = [(each.rule, each.relation, each.threshold) for each in way.rules if not each.holds]
    assert broken[:2] == [("language.min_score", "at least", 0.65), ("gopher_quality.min_words", "at least", 50)]
    assert {each.rule: each.measured for each in way.rules}["gopher_quality.min_words"] == 2
    assert (way.ended.stage, way.ended.rule, way.ended.threshold) == ("data/filter", "language.min_score", 0.65)
    assert (way.file, way.record, len(way.sha256)) == ("stories.jsonl", 62, 64)
    assert way.tokens is way.trained is way.split is None


def test_a_duplicate_names_the_document_that_was_kept(committed):
    way = answer(committed, "stories.jsonl#60").ways[0]
    kept = way.ended.duplicate_origin

    assert {way.origin, kept} == {"stories.jsonl#60", "stories.jsonl#3"} or answer(committed, kept).ways[0].split


def test_the_answer_loads_neither_torch_nor_prefect_nor_dvc(committed):
    ask = "import sys, pedigree; sys.argv = ['pedigree', *{}]; pedigree.app(standalone_mode=False); print(*sys.modules)"
    for command in (["why", "stories.jsonl#7"], ["trace", "--step", "1"]):
        done = committed.run(sys.executable, "-c", ask.format(command))

        assert done.returncode == 0, done.stderr
        loaded = set(done.stdout.splitlines()[-1].split())
        assert "polars" in loaded
        assert not loaded & {"torch", "transformers", "prefect", "dvc", "scipy"}


# ---- builds of the history, as they are ------------------------------------------------------------------------


def test_a_missing_object_is_named_with_how_to_get_it(repository):
    out = build_at(repository.folder).outs["data/extract/stories"]
    shutil.rmtree(repository.folder / "data/extract/stories")
    (repository.folder / ".dvc/cache/files/md5" / out.md5[:2] / out.md5[2:]).unlink()

    done = repository.run(sys.executable, "pedigree.py", "why", "stories.jsonl#7")

    assert done.returncode == 2
    assert done.stderr.startswith(f"error: object {out.md5} of data/extract/stories")
    assert len(done.stderr.splitlines()) == 1


def without(project: Project, *kinds: str) -> None:
    """Take the stages of these kinds out of dvc.lock."""
    path = project.folder / "dvc.lock"
    lock = yaml.safe_load(path.read_text(encoding="utf-8"))
    lock["stages"] = {name: stage for name, stage in lock["stages"].items() if name.split("@")[0] not in kinds}
    path.write_text(yaml.safe_dump(lock, sort_keys=False), encoding="utf-8")


@pytest.mark.parametrize(
    ("gone", "unknown"),
    [
        (["pretrain"], "nothing was trained"),
        (["tokenize", "pretrain"], "its tokens and steps are unknown"),
        (["dedup", "tokenize", "pretrain"], "has no data/dedup/stories"),
        (["filter", "dedup", "tokenize", "pretrain"], "has no filter@stories: its rules are unknown"),
        (["download"], "the digest of the file is unknown"),
    ],
)
def test_what_a_build_without_a_stage_cannot_tell_is_said_to_be_unknown(repository, gone, unknown):
    origin = next(way.origin for way in trained(repository))
    without(repository, *gone)

    way = answer(repository, origin).ways[0]

    assert any(unknown in sentence for sentence in way.unknown)
    assert way.trained is None or gone == ["download"]


def trained(project: Project) -> list[Way]:
    """A story that was trained on."""
    return [
        way for number in range(5) for way in answer(project, f"stories.jsonl#{number}").ways if way.split == "train"
    ]


def test_rules_of_another_version_are_said_to_be_unknown_and_the_decision_stays(repository):
    path = repository.folder / "dvc.lock"
    path.write_text(path.read_text(encoding="utf-8").replace("gopher_quality: {}", "gopher_quality: {min_wards: 3}"))

    way = answer(repository, "stories.jsonl#62").ways[0]

    assert not way.rules
    assert way.ended.rule == "language.min_score"
    assert "min_wards" in way.unknown[0]


@pytest.mark.parametrize(
    ("read", "unknown"),
    [("stages/order.py", "another stages/order.py"), ("data/tokenize", "shards that its model wasn't trained on")],
)
def test_steps_of_another_order_or_of_other_tokens_are_not_told(repository, read, unknown):
    origin = trained(repository)[0].origin
    path = repository.folder / "dvc.lock"
    lock = yaml.safe_load(path.read_text(encoding="utf-8"))
    dep = next(dep for dep in lock["stages"]["pretrain"]["deps"] if dep["path"] == read)
    dep["md5"] = "0" * 32
    path.write_text(yaml.safe_dump(lock, sort_keys=False), encoding="utf-8")

    way = answer(repository, origin).ways[0]

    assert way.trained is None
    assert any(unknown in sentence for sentence in way.unknown)


def trained_with(repository: Project, mixture: dict[str, object], changed: str = "") -> Plan:
    """What dvc.lock says was trained on, with another `mixture` in it and another digest of the file `changed`."""
    path = repository.folder / "dvc.lock"
    lock = yaml.safe_load(path.read_text(encoding="utf-8"))
    stage = lock["stages"]["pretrain"]
    stage["params"]["params.yaml"]["mixture"] = mixture
    for dep in stage["deps"]:
        dep["md5"] = "0" * 32 if dep["path"] == changed else dep["md5"]
    path.write_text(yaml.safe_dump(lock, sort_keys=False), encoding="utf-8")
    return plan_of(repository.folder, build_at(repository.folder), repository.folder)


def test_steps_of_a_build_with_epochs_are_those_of_the_shares_that_they_came_to(repository):
    tokens = repository.json("data/tokenize/scripts/manifest.json")["counts"]["tokens"]

    plan = trained_with(repository, {"stories": 7, "scripts": {"epochs": 0.5}})

    half = count_windows(tokens, 32) / 2 / (40 * 8)
    assert plan.order.mixture == pytest.approx({"scripts": half, "stories": 1 - half})
    assert drawn(plan.order, 0, plan.samples)["scripts"].each.sum() == pytest.approx(half * 320, abs=10)


def test_what_epochs_come_to_is_asked_of_the_version_that_trained(repository):
    weights, epochs = {"stories": 7, "scripts": 1}, {"stories": 7, "scripts": {"epochs": 0.5}}

    assert trained_with(repository, weights, changed="stages/mixture.py").order.mixture["stories"] == 0.875
    with pytest.raises(Refusal, match=r"was trained with another stages/mixture\.py than this version's"):
        trained_with(repository, epochs, changed="stages/mixture.py")


def test_an_order_that_differs_in_its_comments_is_the_same():
    code = (ROOT / "stages/order.py").read_text(encoding="utf-8")

    assert instructions(code) == instructions(code.replace('"""Where the', '"""Whither the') + "\n# The end.\n")
    assert instructions(code) != instructions(code.replace("ROUNDS = 6", "ROUNDS = 7"))


def test_a_document_of_a_source_that_was_renamed_is_found_under_its_old_id(repository):
    old = find(repository.folder, pl.col("origin") == "stories.jsonl#7")[0]
    lock = (repository.folder / "dvc.lock").read_text(encoding="utf-8")
    (repository.folder / "dvc.lock").write_text(lock.replace("stories", "tales"), encoding="utf-8")
    for stage in ("download", "extract", "filter", "dedup", "tokenize"):
        (repository.folder / "data" / stage / "stories").rename(repository.folder / "data" / stage / "tales")
    rename_documents(repository.folder / "data/extract/tales")

    with pytest.raises(Refusal) as refused:
        answer(repository, old.id)

    assert f"the build main has it (stories: {old.origin}): ask with --at main" in str(refused.value)
    assert f"here the same origin is {document_id('tales', old.origin)} of tales" in str(refused.value)
    assert answer(repository, old.id, at="main").ways[0].origin == old.origin


def rename_documents(folder: Path) -> None:
    """Give the documents in `folder` the ids that they have in the source tales, and dvc.lock another digest of it."""
    for path in folder.glob("documents-*.parquet"):
        table = pl.read_parquet(path)
        path.unlink()  # it is a link into the cache
        ids = [document_id("tales", origin) for origin in table["origin"]]
        write_shard(path, table.with_columns(id=pl.Series(ids), source=pl.lit("tales")))
    (folder / "manifest.json").unlink()
    write_manifest(folder, {})
    lock = folder.parents[2] / "dvc.lock"
    values = yaml.safe_load(lock.read_text(encoding="utf-8"))
    values["stages"]["extract@tales"]["outs"][0]["md5"] = "0" * 32 + ".dir"
    lock.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


# ---- what is shown ---------------------------------------------------------------------------------------------


def test_what_comes_from_the_web_does_not_steer_the_terminal():
    hostile = "\x1b]0;owned\x07[red]\u202e\x9b31m"
    way = Way("0" * 32, f"s{hostile}", f"o{hostile}", file=hostile, member=hostile, license=hostile, language=hostile,
              meta={f"title{hostile}": hostile}, snippet=hostile, unknown=[hostile])  # fmt: skip
    out = io.StringIO()

    show(
        Answer(hostile, None, hostile, [way]), Console(file=out, markup=False, emoji=False, highlight=False, width=200)
    )

    assert "[red]" in out.getvalue()
    assert not set(out.getvalue()) & set("\x1b\x07\u202e\x9b")
