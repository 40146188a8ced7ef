"""Two builds differ in what the difference says, and for the reasons that it gives."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest
import yaml
from rich.console import Console

from lineage.diff.causes import ABSENT, flat, ran_again, roots
from lineage.diff.compare import difference, mixture_changes, source_changes, two_builds
from lineage.diff.documents import Moved, Sample, moved
from lineage.diff.results import Score
from lineage.diff.show import show
from lineage.history import Build, build_at
from stages.documents import DECISION_SCHEMA, write_manifest, write_shard
from stages.params import Refusal

HOSTILE = "[red]x[/red] \x1b[2J\u202e"


def git(folder, *arguments):
    author = ["-c", "user.name=x", "-c", "user.email=x@y"]
    done = subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def stricter(committed, tmp_path_factory):
    """A project whose stories must be longer than before; filter and dedup of it ran, and it isn't committed."""
    import shutil

    from tiny import Project

    folder = tmp_path_factory.mktemp("stricter") / "project"
    shutil.copytree(committed.folder, folder, symlinks=True)
    project = Project(folder)
    project.set("sources.stories.filter.gopher_quality.min_words", 250)
    code = folder / "stages/dedup/split.py"
    code.write_text(code.read_text() + "\n# Another line.\n")
    project.repro("dedup")
    return project


def shown(found):
    output = io.StringIO()
    show(found, Console(file=output, width=160, markup=False, emoji=False, highlight=False))
    return output.getvalue()


# ---- a real one --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(stricter):
    return difference(stricter.folder, *two_builds(stricter.folder, None, None))


def test_parameters_and_code_that_changed_are_told(found):
    key = "sources.stories.filter.gopher_quality.min_words"

    assert found.params == {key: (ABSENT, 250)}
    assert found.code == ["stages/dedup"]
    assert [(file.path, file.added, file.removed) for file in found.files] == [("stages/dedup/split.py", 2, 0)]


def test_why_a_stage_ran_again_is_what_changed_for_it(found):
    again = {each.stage: each for each in found.again}

    assert list(again) == ["filter@stories", "dedup"]
    assert [(cause.kind, cause.what) for cause in again["dedup"].causes] == [
        ("input", "data/filter"),
        ("code", "stages/dedup"),
    ]
    assert again["dedup"].causes[0].because == ("filter@stories",)
    assert {cause.what for cause in roots("dedup", again)} == {
        "sources.stories.filter.gopher_quality.min_words",
        "stages/dedup",
    }


def test_documents_that_left_are_counted_with_their_tokens(committed, stricter, found):
    before, after = (
        pl.read_parquet(each.folder / "data/dedup/stories/decisions-*.parquet") for each in (committed, stricter)
    )
    trained = before.filter(pl.col("split") == "train")["id"]
    left = after.filter(pl.col("id").is_in(trained.to_list()) & (pl.col("rule") == "gopher_quality.min_words"))
    tokens = pl.read_parquet(committed.folder / "data/tokenize/stories/documents-*.parquet")

    [way] = [each for each in found.moved if (each.old, each.new) == ("trained on", "gopher_quality.min_words")]

    assert way.documents == len(left) > 0
    assert way.old_tokens == tokens.filter(pl.col("id").is_in(left["id"].to_list()))["tokens"].sum()
    assert way.samples[0].id in left["id"]
    assert way.samples[0].why == f"gopher_quality.min_words: {left['value'][0]:g}, threshold 250" or len(left) > 1
    assert found.documents["stories"]["gopher_quality.min_words"] == (
        None, len(after.filter(pl.col("rule") == "gopher_quality.min_words"))
    )  # fmt: skip
    assert {each.source for each in found.moved} == {"stories"}


def test_the_sum_of_what_moved_is_what_the_counts_say(found):
    old, new = found.documents["stories"]["trained on"]
    into = sum(each.documents for each in found.moved if each.new == "trained on")
    out = sum(each.documents for each in found.moved if each.old == "trained on")

    assert new - old == into - out != 0


def test_a_page_tells_people_and_json_tells_programs(stricter, found):
    page = shown(found)
    done = stricter.run(sys.executable, "-m", "pedigree", "diff", "--json")

    assert "because filter@stories changed" in page
    assert "stages/dedup/split.py (+2 -0)" in page
    told = json.loads(done.stdout)
    assert told["params"] == {"sources.stories.filter.gopher_quality.min_words": {"old": ABSENT, "new": 250}}
    assert [stage["stage"] for stage in told["stages"]] == ["filter@stories", "dedup"]


def test_a_build_beside_itself_is_the_same(committed):
    here = build_at(committed.folder)

    assert "The two are the same build" in shown(difference(committed.folder, here, here))


# ---- which two ---------------------------------------------------------------------------------------------


def test_the_first_is_head_or_the_build_before_it(stricter, repository):
    head, here = two_builds(stricter.folder, None, None)
    assert (head.title, here.title) == ("HEAD", "the working tree")

    (repository.folder / "dvc.lock").write_text((stricter.folder / "dvc.lock").read_text())
    git(repository.folder, "commit", "-qam", "stricter")
    before, _ = two_builds(repository.folder, None, None)

    assert before.lock == head.lock


def test_a_project_with_one_build_has_none_to_compare_with(committed):
    with pytest.raises(Refusal, match="there is no build before the working tree to compare with; name one"):
        two_builds(committed.folder, None, None)


def test_a_revision_that_is_not_there_is_refused(committed):
    with pytest.raises(Refusal, match="there is no commit nowhere here"):
        two_builds(committed.folder, "nowhere", None)


# ---- history as it is --------------------------------------------------------------------------------------


def test_a_ledger_of_another_schema_is_said_not_to_be_compared(stricter):
    ledger = build_at(stricter.folder, "HEAD").outs["data/dedup"]
    cache = stricter.folder / ".dvc/cache/files/md5"
    entries = json.loads((cache / ledger.md5[:2] / ledger.md5[2:]).read_text())
    [md5] = [entry["md5"] for entry in entries if entry["relpath"] == "stories/decisions-00000.parquet"]
    shard = cache / md5[:2] / md5[2:]
    whole = shard.read_bytes()
    shard.chmod(0o644)
    pl.read_parquet(shard).drop("split", "duplicate_of").write_parquet(shard)
    manifest = next(entry["md5"] for entry in entries if entry["relpath"] == "stories/manifest.json")
    listed = cache / manifest[:2] / manifest[2:]
    listed.chmod(0o644)
    before = listed.read_text()
    values = json.loads(before)
    values["shards"][0]["bytes"] = shard.stat().st_size
    listed.write_text(json.dumps(values))

    try:
        found = difference(stricter.folder, *two_builds(stricter.folder, None, None))
    finally:
        shard.write_bytes(whole)
        listed.write_text(before)

    assert any("has no duplicate_of, split: documents can't be compared" in each for each in found.unknown)
    assert found.params  # the rest is


def test_a_missing_object_is_named(stricter):
    first, second = two_builds(stricter.folder, None, None)
    lost = replace(first, lock=first.lock.replace(first.outs["metrics/evaluate.json"].md5, "a" * 32))

    found = difference(stricter.folder, lost, second)

    assert any(f"object {'a' * 32} of metrics/evaluate.json" in each for each in found.unknown)
    assert found.moved


def build(stages):
    """A build of stages by name: params, deps and outs by path."""
    entries = {
        name: {
            "cmd": "x", "params": {"params.yaml": params},
            "deps": [{"path": path, "md5": md5} for path, md5 in deps.items()],
            "outs": [{"path": path, "md5": md5} for path, md5 in outs.items()],
        }
        for name, (params, deps, outs) in stages.items()
    }  # fmt: skip
    return Build(yaml.safe_dump({"stages": entries}, sort_keys=False), "c" * 40, "2026-01-01", ())


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ({"a": "1"}, {"a": "1"}, []),
        ({"a": "1"}, {"a": "2"}, [("a", "changed", None)]),
        ({"a": "1"}, {"a": "1", "b": "2"}, [("b", "added", None)]),
        ({"a": "1", "b": "2"}, {"a": "1"}, [("b", "removed", None)]),
        ({"a": "1"}, {"b": "1"}, [("b", "renamed", "a")]),
        ({"a": "1"}, {"b": "2"}, [("b", "added", None), ("a", "removed", None)]),
    ],
)
def test_sources_that_came_left_or_have_another_name_are_told(old, new, changes):
    first, second = (
        build({f"download@{name}": ({}, {}, {f"data/download/{name}": md5}) for name, md5 in each.items()})
        for each in (old, new)
    )

    assert [(each.name, each.change, each.was) for each in source_changes(first, second)] == changes


def test_equal_inputs_with_other_outs_are_not_explained_away():
    old, new = (build({"train": ({"a": 1}, {"stages/t.py": "1"}, {"model": md5})}) for md5 in ("1", "2"))

    [again] = ran_again(old, new)

    assert again.is_unexplained
    assert again.changed == ("model",)


def test_stages_that_are_new_or_gone_are_told():
    old, new = build({"a": ({}, {}, {"x": "1"})}), build({"b": ({}, {}, {"y": "1"})})

    assert [(each.stage, each.causes[0].new) for each in ran_again(old, new)] == [("b", "new"), ("a", "gone")]


def test_parameters_are_told_by_their_full_names():
    assert flat({"a": {"b": 1, "c": {"d": [1, {"e": 2}]}}, "f": {}}) == {"a.b": 1, "a.c.d": [1, {"e": 2}], "f": {}}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({"a": 3, "b": 1}, {"a": 6, "b": 2}, {}),
        ({"a": 3, "b": 1}, {"a": 1, "b": 1}, {"a": (0.75, 0.5), "b": (0.25, 0.5)}),
        ({"a": 3, "b": 1}, {"a": 1}, {"a": (0.75, 1.0), "b": (0.25, None)}),
        (
            {"a": 3, "b": 1},
            {"a": {"epochs": 2}, "b": 1},
            {"a": (0.75, "2 epochs"), "b": (0.25, "100.00% of the rest")},
        ),
        ({"a": {"epochs": 2}, "b": 1}, {"a": {"epochs": 2.5}, "b": 1}, {"a": ("2 epochs", "2.5 epochs")}),
    ],
)
def test_shares_and_epochs_that_changed_are_told(found, old, new, told):
    one, other = (build({"pretrain": ({"mixture": each}, {}, {})}) for each in (old, new))

    changed = mixture_changes(one, other)

    assert changed == told
    page = shown(replace(found, mixture=changed))
    assert all(said in page for pair in told.values() for said in pair if isinstance(said, str))


@pytest.mark.parametrize(
    ("old", "new", "overlap"),
    [
        ((1.0, 2.0), (1.5, 3.0), True),
        ((1.0, 2.0), (2.0, 3.0), True),
        ((1.0, 2.0), (2.1, 3.0), False),
        ((2.1, 3.0), (1.0, 2.0), False),
        (None, (1.0, 2.0), None),
    ],
)
def test_intervals_overlap_if_they_have_a_value_in_common(old, new, overlap):
    assert Score("bits", 1.5, 2.5, old, new).overlap is overlap


def test_hostile_text_is_shown_as_text(found):
    way = Moved(HOSTILE, "trained on", HOSTILE, 1, 1, 0, (Sample("0" * 32, HOSTILE, True, HOSTILE),))

    page = shown(replace(found, moved=[way], unknown=[HOSTILE]))

    assert "[red]x[/red]" in page
    assert "(synthetic)" in page
    assert not {"\x1b", "\u202e"} & set(page)


def test_a_ledger_that_does_not_say_what_is_synthetic_is_compared_with_one_that_does(tmp_path):
    kept = dict.fromkeys(DECISION_SCHEMA) | {"id": "a", "origin": "o", "keep": True, "split": "train"}
    ledgers = {
        "old": pl.DataFrame([kept], schema=DECISION_SCHEMA).drop("synthetic"),
        "new": pl.DataFrame([kept | {"split": "held_out", "synthetic": True}], schema=DECISION_SCHEMA),
    }
    for name, ledger in ledgers.items():
        folder = tmp_path / name / "data/dedup/web"
        folder.mkdir(parents=True)
        write_shard(folder / "decisions-00000.parquet", ledger)
        write_manifest(folder, {})
    shelf = SimpleNamespace(folder=lambda build, path: tmp_path / build.title)
    old, new = (SimpleNamespace(title=name, outs={"data/dedup": None}) for name in ledgers)

    [there] = moved(shelf, (old, "web"), (new, "web"))
    [gone] = moved(shelf, (new, "web"), None)
    [came] = moved(shelf, None, (old, "web"))

    assert [each.samples[0].synthetic for each in (there, gone, came)] == [True, True, False]
