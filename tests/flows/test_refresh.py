"""A refresh takes what is newest, publishes what isn't worse, and leaves the clone as the branch is."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import ROOT
from versioned import Clone, copy_of, make_clone

from flows.pins import Pins, changes, with_entries, with_pins
from flows.publication.publish import publish
from flows.publication.versions import current
from flows.refresh import MARK, Refreshed, markdown, refresh_here
from flows.work import build_locally
from stages.locked import read_lock
from stages.params import Refusal

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

KILLED = """
import os, signal
from pathlib import Path
from flows.refresh import refresh_here

refresh_here(lambda: os.kill(os.getpid(), signal.SIGKILL), Path(), print)
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A toy with one version, v1.0.0."""
    clone = make_clone(tmp_path_factory.mktemp("toy"))
    clone.build()
    publish(root=clone.root)
    return clone


@pytest.fixture
def clone(published: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    """The same, for one test, which works in its folder."""
    clone = copy_of(published, tmp_path / "toy")
    monkeypatch.chdir(clone.root)
    return clone


def refreshed(clone: Clone) -> Refreshed:
    """What a refresh without Prefect comes to."""
    return refresh_here(lambda: build_locally(root=clone.root), clone.root, lambda line: None)


def pinned(clone: Clone, source: str) -> str:
    """The digest that params.yaml pins for the file of `source`."""
    [digest] = yaml.safe_load((clone.root / "params.yaml").read_text())["sources"][source]["download"][
        "sha256"
    ].values()
    return str(digest)


def assert_as_the_branch(clone: Clone) -> None:
    assert clone.git("status", "--porcelain", "--", ".", ":(exclude)records") == ""
    assert clone.run("dvc", "status") == "Data and pipelines are up to date."
    assert clone.head() == clone.head(there=True)
    assert not (clone.root / MARK).exists()


def test_better_sources_become_a_version_and_then_there_is_nothing_to_do(clone):
    clone.bits("wiki", 1.8)
    other = clone.another("other")
    other.commit("notes", "theirs")
    other.git("push", "--quiet")

    done, again = refreshed(clone), refreshed(clone)

    assert (done.outcome, done.sources) == ("published", ("wiki",))
    assert current(clone.root).name == "v1.1.0"
    assert "# what the model is made of" in (clone.root / "params.yaml").read_text()
    assert (clone.root / "notes").exists()
    assert (again.outcome, again.sentence) == ("idle", "nothing is new: this build is base@v1.1.0")
    assert_as_the_branch(clone)


def test_worse_sources_become_a_candidate_and_no_failure(clone, prefect, caplog):
    from prefect.client.orchestration import get_client

    from flows.refresh import refresh

    clone.bits("wiki", 2.4)

    state = refresh(return_state=True)

    assert state.is_completed()
    done = state.result()
    assert done.outcome == "refused"
    assert state.message == done.sentence
    assert current(clone.root).name == "v1.0.0"
    assert clone.git("ls-remote", "origin", f"refs/heads/{done.candidate}")
    assert f"candidate: not published, it is the branch {done.candidate}" in caplog.text
    assert_as_the_branch(clone)
    with get_client(sync_client=True) as client:
        tables = [artifact.data for artifact in client.read_artifacts() if artifact.key == "refresh"]
    assert len(tables) == 1
    assert "| wiki | 2.1207 | 2.5207 |" in tables[0]


def test_what_ran_in_a_refused_refresh_keeps_its_record_and_the_next_one_goes_on(clone):
    clone.bits("wiki", 2.43)  # as in no other test, which would have left it in the store
    refused = refreshed(clone)
    clone.bits("wiki", 1.73)

    done = refreshed(clone)

    assert (refused.outcome, done.outcome) == ("refused", "published")
    committed = clone.git("ls-tree", "-r", "--name-only", "HEAD", "records/evaluate").split()
    assert len(committed) == 2
    assert clone.git("status", "--porcelain") == ""


def test_a_source_that_cannot_be_asked_keeps_its_pin_and_is_reported(clone, caplog):
    before = pinned(clone, "wiki")
    kept = clone.root / "scratch/download" / before  # as download keeps it
    kept.parent.mkdir(parents=True)
    (clone.root.parent / "corpus/wiki.txt").rename(kept)
    clone.bits("code", 1.2)

    done = refreshed(clone)

    assert (done.outcome, done.sources) == ("published", ("code",))
    assert pinned(clone, "wiki") == before
    assert (
        "source wiki keeps its revision, as the newest can't be asked for: ../corpus/wiki.txt: there is no"
        in caplog.text
    )
    assert "* wiki couldn't be asked" in markdown(done)


READ = """
import sys
from pathlib import Path

import yaml

[url] = yaml.safe_load(Path("params.yaml").read_text())["sources"][sys.argv[1]]["download"]["urls"]
try:
    value = float(Path(url).read_text())
except ValueError:
    print(f"error: {url} has no number", file=sys.stderr)
    sys.exit(2)
Path("read").mkdir(exist_ok=True)
Path("read", sys.argv[1]).write_text(str(value))
"""
READING = {
    "cmd": "exec python read.py ${key}",
    "params": ["sources.${key}"],
    "deps": ["read.py"],
    "outs": ["read/${key}"],
}


@pytest.mark.long
def test_a_source_whose_newest_revision_breaks_keeps_the_old_one_and_the_rest_is_published(clone, caplog):
    pipeline = yaml.safe_load((clone.root / "dvc.yaml").read_text())
    stages = {"read": {"foreach": "${sources}", "do": READING}, **pipeline["stages"]}
    stages["evaluate"]["deps"].append("read")
    (clone.root / "read.py").write_text(READ)
    (clone.root / ".gitignore").write_text((clone.root / ".gitignore").read_text() + "/read\n")
    (clone.root / "dvc.yaml").write_text(yaml.safe_dump({"vars": ["params.yaml"], **pipeline, "stages": stages}))
    clone.build()
    clone.git("add", "--all")
    clone.git("commit", "--quiet", "--message", "Read each source")
    clone.git("push", "--quiet")
    before = pinned(clone, "wiki")
    kept = clone.root / "scratch/download" / before  # as download keeps it
    kept.parent.mkdir(parents=True, exist_ok=True)
    (clone.root.parent / "corpus/wiki.txt").rename(kept)
    (clone.root.parent / "corpus/wiki.txt").write_text("no number\n")
    clone.bits("code", 1.1)

    done, again = refreshed(clone), refreshed(clone)

    assert (done.outcome, done.sources) == ("published", ("code",))
    assert done.held == {"wiki": "read@wiki: ../corpus/wiki.txt has no number"}
    assert "refusal: source wiki keeps its revision, as the newest breaks: read@wiki: " in caplog.text
    assert "* wiki keeps its revision" in markdown(done)
    assert pinned(clone, "wiki") == before
    assert (again.outcome, again.sources, again.held) == ("idle", (), done.held)
    assert_as_the_branch(clone)


def test_a_stage_that_breaks_leaves_the_clone_as_the_branch_is(clone):
    (clone.root.parent / "corpus/wiki.txt").write_text("no number\n")

    with pytest.raises(RuntimeError, match="evaluate: exited with 1"):
        refreshed(clone)

    assert_as_the_branch(clone)


def test_a_refresh_that_was_killed_is_taken_back_by_the_next_one(clone):
    before = pinned(clone, "wiki")
    clone.bits("wiki", 2.2)
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=clone.root, env=os.environ, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert pinned(clone, "wiki") != before
    clone.bits("wiki", 1.7)

    done = refreshed(clone)

    assert done.outcome == "published"
    assert_as_the_branch(clone)


@pytest.mark.parametrize(("path", "text"), [("notes", "mine"), ("params.yaml", "sources: {}\n")])
def test_changes_of_a_person_are_refused_and_stay(clone, path, text):
    (clone.root / path).write_text(text)

    with pytest.raises(Refusal, match=f"{path} changed since the last commit"):
        refreshed(clone)

    assert (clone.root / path).read_text() == text


# ---- pins -------------------------------------------------------------------------------------------------


def sections(params: str) -> dict[str, dict[str, object]]:
    return {name: source["download"] for name, source in yaml.safe_load(params)["sources"].items()}


def test_pins_are_written_and_nothing_else_of_the_default_parameters():
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    lock = read_lock(ROOT / "sources.lock")
    new = {name: Pins(section, lock[name]) for name, section in sections(text).items()}
    new["code"].download["packages"][1] |= {"version": "3.10"}
    new["papers"] = Pins(new["papers"].download, {**lock["papers"], "digest": "f" * 64})

    written = with_pins(ROOT, {name: each.download for name, each in new.items()})
    locked = with_entries(ROOT, new)

    assert list(changes(ROOT, new)) == ["papers", "code"]
    assert locked == (ROOT / "sources.lock").read_text(encoding="utf-8").replace(lock["papers"]["digest"], "f" * 64)
    old_lines, new_lines = text.splitlines(), written.splitlines()
    assert [line for line in new_lines if line not in old_lines] == ['        - {name: networkx, version: "3.10"}']
    assert len(new_lines) == len(old_lines)
    assert sections(written) == {name: each.download for name, each in new.items()}


def test_files_come_and_go_and_comments_stay(tmp_path):
    (tmp_path / "params.yaml").write_text(
        "# ours\nsources:\n  web:\n    download:\n      kind: files  # local\n      urls: [a/*]\n"
        "      sha256:\n        # by hand\n        one: 11\n        two: '22'\n"
    )

    written = with_pins(tmp_path, {"web": {"kind": "files", "urls": ["a/*"], "sha256": {"two": "22", "three": "33"}}})

    assert "# ours\n" in written
    assert "kind: files  # local\n" in written
    assert sections(written)["web"]["sha256"] == {"two": "22", "three": "33"}
