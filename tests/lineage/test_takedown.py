"""What must go is found in every build, and is gone from the one that follows."""

import json
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace

import polars as pl
import pytest
import yaml
from tiny import Project

from flows.takedown import take_down
from lineage.history import Build, build_at
from lineage.sources import renamed, source_names
from lineage.takedown.answer import answer
from lineage.takedown.question import entry_of, read_question
from lineage.takedown.show import sentences
from stages.documents import document_id
from stages.order import Order, count_windows
from stages.params import Refusal
from stages.takedown import Entry, Takedown, read_takedown
from stages.tokens import TokenStream, load_tokenizer

STORY = document_id("stories", "stories.jsonl#3")
ITS_COPY = document_id("stories", "stories.jsonl#60")
WORDS = 5  # that follow each other: as many as a window of 32 tokens can hold


def asked(*ids):
    return Takedown(tuple(Entry(id=id) for id in ids))


def pedigree(project, *arguments):
    done = project.run(sys.executable, "-m", "pedigree", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(project, stage, kind):
    return pl.read_parquet(project.folder / f"data/{stage}/stories/{kind}-*.parquet")


def training(project):
    """The order of the samples, the stream of each source, and how many samples there are, as the trainer has them."""
    params, mixture = project.params["pretrain"], project.params["mixture"]
    streams = {name: TokenStream.open(project.folder / "data/tokenize" / name) for name in mixture}
    length = params["sequence_length"]
    windows = {name: count_windows(len(stream), length) for name, stream in streams.items()}
    shares = {name: weight / sum(mixture.values()) for name, weight in mixture.items()}
    return Order(0, params["block_samples"], windows, shares), streams, length, params["tokens"] // length


def shingles(text):
    words = text.split()
    return {" ".join(words[begin : begin + WORDS]) for begin in range(len(words) - WORDS + 1)}


def shingles_in_windows(project):
    """All that can be read in any window of any source, drawn or not."""
    order, streams, length, _ = training(project)
    tokenizer, _ = load_tokenizer(project.folder / "models/tokenizer")
    found = set()
    for name, stream in streams.items():
        for window in range(order.windows[name]):
            found |= shingles(tokenizer.decode(stream.read(window * length, (window + 1) * length + 1).tolist()))
    return found


@pytest.fixture(scope="module")
def own(committed):
    """Words that follow each other in the story, and in no other document but its copy."""
    texts = dict(rows(committed, "extract", "documents").select("id", "text").iter_rows())
    others = set().union(*(shingles(text) for id, text in texts.items() if id not in (STORY, ITS_COPY)))
    return shingles(texts[STORY]) - others


@pytest.fixture(scope="module")
def rebuilt(committed, tmp_path_factory):
    """A project that took the story and its copy down, and built again; both builds are in git."""
    folder = tmp_path_factory.mktemp("rebuilt") / "project"
    shutil.copytree(committed.folder, folder, symlinks=True)
    project = Project(folder)
    (folder / "asked.txt").write_text(f"{STORY}\n")
    said = pedigree(project, "takedown", "asked.txt", "--copies", "--apply", "--reason", "its author asked", "--json")
    (folder / "asked.json").write_text(said)
    project.repro("pretrain")
    for command in (["add", "--all"], ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "without it"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return project


# ---- before, and after -------------------------------------------------------------------------------------


def test_what_a_checkpoint_saw_is_what_its_samples_hold(committed):
    order, _, length, samples = training(committed)
    document = rows(committed, "tokenize", "documents").row(by_predicate=pl.col("id") == STORY, named=True)
    begin, end = document["first_token"], document["first_token"] + document["tokens"]  # the tiny stories are one shard
    windows = tokens = 0
    steps = []
    for number in range(samples):
        sample = order.sample(number)
        first = sample.window * length
        if sample.source == "stories" and first < end and first + length >= begin:
            windows += 1
            tokens += min(end, first + length + 1) - max(begin, first + 1)
            steps.append(number // 8 + 1)

    [found] = answer(committed.folder, asked(STORY)).builds

    base = found.checkpoints[-1]
    assert (base.samples, base.tokens, base.of) == (windows, max(tokens, 0), samples * length)
    assert windows > 0
    assert found.first_step == min(steps)
    [source] = found.sources
    assert (source.name, source.fates, source.tokens) == ("stories", {"trained on": 1}, document["tokens"])


def test_after_a_takedown_no_window_holds_anything_of_the_document(committed, rebuilt, own):
    assert len(own & shingles_in_windows(committed)) > len(own) / 3  # the others lie across windows

    assert not own & shingles_in_windows(rebuilt)


def test_the_ledger_says_takedown_and_nothing_else_of_it(committed, rebuilt):
    before, after = (rows(project, "dedup", "decisions") for project in (committed, rebuilt))
    down = after.filter(pl.col("id").is_in([STORY, ITS_COPY]))

    assert down.select("keep", "rule", "value", "threshold", "duplicate_of", "split").unique().rows() == [
        (False, "takedown", None, None, None, None)
    ]
    others = ~pl.col("id").is_in([STORY, ITS_COPY])
    assert after.filter(others).equals(before.filter(others))
    assert rebuilt.outs()["data/filter/scripts"] == committed.outs()["data/filter/scripts"]
    assert rebuilt.outs()["models/base"] != committed.outs()["models/base"]


def test_why_says_that_it_is_gone(rebuilt):
    assert "takedown" in pedigree(rebuilt, "why", STORY)


def test_the_new_build_is_clean_and_the_old_one_is_not(rebuilt):
    found = answer(rebuilt.folder, asked(STORY, ITS_COPY))

    assert [each.status for each in found.builds] == ["clean", "has"]
    build, checkpoint = found.newest_clean
    assert build.build.lock == build_at(rebuilt.folder).lock
    assert checkpoint.is_clean
    assert (found.copies, found.unmatched) == ((), ())
    assert found.cost.stages == {}


def test_what_a_build_without_it_costs_is_all_that_follows_from_the_filters(committed):
    found = answer(committed.folder, asked(STORY))

    assert list(found.cost.stages) == [
        "filter@stories", "filter@scripts", "dedup", "tokenizer", "tokenize@stories", "tokenize@scripts", "pretrain",
        "evaluate",
    ]  # fmt: skip
    assert found.cost.tokens == 40 * 256
    assert found.newest_clean is None


def test_a_document_that_no_build_has_costs_the_filters_alone(committed):
    found = answer(committed.folder, asked("0" * 32))

    assert list(found.cost.stages) == ["filter@stories", "filter@scripts"]
    assert [each.status for each in found.builds] == ["clean"]
    assert [entry.value for entry in found.unmatched] == ["0" * 32]


def test_a_copy_is_named_and_asked_for_if_one_wants(committed):
    alone, both = (answer(committed.folder, asked(STORY), with_copies) for with_copies in (False, True))

    assert [(copy.id, copy.similarity) for copy in alone.copies] == [(ITS_COPY, 1.0)]
    assert any(ITS_COPY in sentence and "--copies" in sentence for sentence in sentences(alone))
    assert not any("synthetic" in sentence for sentence in sentences(alone))
    written = replace(alone, copies=tuple(replace(copy, synthetic=True) for copy in alone.copies))
    assert any("(synthetic)" in sentence for sentence in sentences(written))
    assert (both.documents, both.copies) == (2, ())
    assert [copy.id for copy in answer(committed.folder, asked(ITS_COPY)).copies] == [STORY]


def test_the_list_says_what_when_and_why_and_says_it_once(rebuilt):
    path = rebuilt.folder / "takedown.jsonl"
    before = path.read_bytes()

    again = pedigree(rebuilt, "takedown", "asked.txt", "--copies", "--apply", "--json")

    assert path.read_bytes() == before
    lines = [json.loads(line) for line in before.decode().splitlines()]
    assert [line["id"] for line in lines] == [STORY, ITS_COPY]
    assert lines[0]["reason"] == "its author asked"
    assert len(lines[0]["date"]) == len("2026-11-24")
    assert json.loads(again)["newest_clean"]["checkpoint"] == "models/base"


def test_why_each_stage_ran_again_leads_back_to_the_list(rebuilt):
    found = json.loads(pedigree(rebuilt, "diff", "HEAD~1", "HEAD", "--json"))

    assert {stage["stage"] for stage in found["stages"]} >= {"filter@stories", "dedup", "tokenizer", "pretrain"}
    assert {cause["what"] for stage in found["stages"] for cause in stage["roots"]} == {"takedown.jsonl"}
    assert [(each["old"], each["new"], each["documents"]) for each in found["moved"]] == [
        ("exact_duplicate", "takedown", 1),
        ("trained on", "takedown", 1),
    ]


# ---- history as it is --------------------------------------------------------------------------------------


def test_a_missing_object_is_named_and_nothing_is_called_clean(repository):
    out = build_at(repository.folder).outs["data/tokenize/stories"]
    (repository.folder / ".dvc/cache/files/md5" / out.md5[:2] / out.md5[2:]).unlink()
    shutil.rmtree(repository.folder / "data/tokenize/stories")

    found = answer(repository.folder, asked(document_id("stories", "stories.jsonl#62")))

    assert [each.status for each in found.builds] == ["unknown"]
    assert found.newest_clean is None
    [said] = [sentence for sentence in sentences(found) if sentence.startswith("Unknown")]
    assert f"object {out.md5} of data/tokenize/stories" in said
    assert "build that commit again" in said


def test_a_shallow_clone_says_that_it_is_one(rebuilt, tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{rebuilt.folder}", str(clone)], check=True)
    (clone / ".dvc/config.local").write_text(f"[cache]\n    dir = {rebuilt.folder}/.dvc/cache\n")

    found = answer(clone, asked(STORY))

    assert [each.status for each in found.builds] == ["clean"]  # the one that had it is not here
    assert any("shallow" in sentence for sentence in sentences(found))


def test_a_build_from_before_the_list_is_read_and_gets_one(repository):
    folder = repository.folder
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    for stage in lock["stages"].values():
        stage["deps"] = [dep for dep in stage.get("deps", []) if "takedown" not in dep["path"]]
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    (folder / "takedown.jsonl").unlink()

    found = answer(folder, asked(STORY))
    added = take_down(found.question.entries, folder)

    assert [each.status for each in found.builds] == ["has", "has"]
    assert added == 1
    assert [entry.value for entry in read_takedown(folder / "takedown.jsonl").entries] == [STORY]


def test_a_renamed_source_has_the_document_under_another_id(repository):
    params = repository.params
    params["sources"] = {"tales": params["sources"]["stories"], "scripts": params["sources"]["scripts"]}
    (repository.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    repository.lock()
    repository.repro("extract@tales")
    lock = yaml.safe_load((repository.folder / "dvc.lock").read_text())
    assert "extract@stories" in lock["stages"]  # DVC leaves it there
    lock["stages"] = {name: lock["stages"][name] for name in ("download@tales", "extract@tales")}
    (repository.folder / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))

    found = answer(repository.folder, asked(STORY))

    assert [[source.name for source in each.sources] for each in found.builds] == [["tales"], ["stories"]]
    assert found.question.named("id") == [STORY, document_id("tales", "stories.jsonl#3")]


def test_two_sources_of_one_build_with_the_same_files_are_no_renamed_source():
    build = Build(lock({"one": "a", "two": "a"}), "c", "d", ())
    later = Build(lock({"three": "a"}), "c", "d", ())

    assert renamed([build]) == {"one": set(), "two": set()}
    assert renamed([build, later]) == {"one": {"three"}, "two": {"three"}, "three": {"one", "two"}}


def test_a_source_that_the_model_was_not_trained_on_is_none_of_the_build():
    assert source_names(Build(lock({"one": "a", "gone": "b"}, mixture={"one": 1}), "c", "d", ())) == ["one"]
    assert source_names(Build(lock({"one": "a", "gone": "b"}), "c", "d", ())) == ["one", "gone"]


def lock(sources, mixture=None):
    stages = {
        f"download@{name}": {"cmd": "x", "outs": [{"path": f"data/download/{name}", "md5": md5}]}
        for name, md5 in sources.items()
    }
    if mixture:
        stages["pretrain"] = {"cmd": "x", "params": {"params.yaml": {"mixture": mixture}}}
    return yaml.safe_dump({"stages": stages}, sort_keys=False)


# ---- the question ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kind", "value"),
    [
        ("a" * 32, "id", "a" * 32),
        ("https://a.example/x?y=1", "url", "https://a.example/x?y=1"),
        ("https://a.example/x/*", "url_prefix", "https://a.example/x/"),
        (f"sha256:{'0' * 64}", "sha256", "0" * 64),
        ('{"url_prefix": "https://a.example/", "reason": "asked"}', "url_prefix", "https://a.example/"),
    ],
)
def test_a_line_is_understood_as_it_is_written(line, kind, value):
    entry = entry_of(line, "x line 1")

    assert (entry.kind, entry.value) == (kind, value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# nothing\n\n", "asks for nothing"),
        (f"{'a' * 32}\n\nabc\n", "line 3 is 'abc'; give an id"),
        ("sha256:abc\n", "line 1 is 'sha256:abc'; give an id"),
        ('{"id": "abc"}\n', "line 1: id is 'abc'; it must be 32 hexadecimal digits"),
    ],
)
def test_what_asks_for_nothing_that_is_known_is_refused(tmp_path, text, sentence):
    path = tmp_path / "asked.txt"
    path.write_text(text)

    with pytest.raises(Refusal, match=sentence):
        read_question(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(Refusal, match=r"nowhere\.txt can't be read"):
        read_question(tmp_path / "nowhere.txt")


ADD = """
import sys
from pathlib import Path
from flows.takedown import take_down
from stages.takedown import Entry
print("ready", flush=True)
while not Path("go").exists():
    pass
for id in sys.argv[1:]:
    take_down([Entry(id=id)])
"""


def test_many_that_add_to_the_list_at_once_lose_nothing(tmp_path):
    ids = [f"{number:032x}" for number in range(40)]
    with ExitStack() as stack:
        halves = [
            stack.enter_context(
                subprocess.Popen([sys.executable, "-c", ADD, *part], cwd=tmp_path, stdout=subprocess.PIPE)
            )
            for part in (ids[::2], ids[1::2])
        ]
        for half in halves:
            half.stdout.readline()  # it has loaded all that it needs
        (tmp_path / "go").touch()

        assert [half.wait(timeout=120) for half in halves] == [0, 0]
    assert sorted(read_takedown(tmp_path / "takedown.jsonl").named("id")) == ids
