"""A stage is handed over: a commit of the working tree, the store, a machine that has nothing else, and back."""

import platform
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from threading import Event

import fsspec
import pytest
import yaml

from flows.places import Errand, failure
from flows.places.errands import Errands
from flows.places.handover import commit_tree, fetch_log, make_errand
from flows.places.settings import KubernetesResources
from flows.stage import Children, StageFailed, StageRefused
from flows.work import build_locally
from stages.params import Refusal

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

ELSEWHERE = KubernetesResources(place="kubernetes", image="none")


class Node:
    """A machine that runs an errand at once, in a folder of its own, with nothing but the store's credentials."""

    def __init__(self, folder, environment):
        self.folder = folder
        self.environment = environment
        self.errands: list[Errand] = []

    def run(self, errand, resources, tell, stopping):
        self.errands.append(errand)
        self.done = self.command(errand.command())
        if self.done.returncode:
            raise StageFailed(self.done.stderr)

    def command(self, command):
        self.folder.mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, "-m", *command], cwd=self.folder, capture_output=True, text=True,
            env={
                "PATH": "/usr/bin:/bin", "HOME": str(self.folder), "PEDIGREE_FLOW_NODE_FOLDER": str(self.folder),
                "DVC_SITE_CACHE_DIR": str(self.folder / "site"), **self.environment,
            },
        )  # fmt: skip


@pytest.fixture
def stored(toy_of, s3, monkeypatch):
    """Two stages of a git repository whose remote is in the S3 server."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    toy = toy_of({"top": [], "bottom": ["top"]})
    toy.share(s3.url())
    return toy


@pytest.fixture
def shared(toy_of, tmp_path):
    """One stage of a git repository whose remote is a folder that the node sees, too."""
    toy = toy_of({"alone": []})
    toy.share(str(tmp_path / "store"))
    return toy


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path / "node", {})


def errands(node, root):
    """The errands of a build whose only other place is `node`."""
    made = Errands(root, Children(), Event())
    made._places["kubernetes"] = node
    return made


def silent(line):
    pass


def test_a_machine_with_nothing_but_the_store_runs_a_stage_and_it_is_restored_here(stored, node, s3):
    node.environment = s3.environment
    build_locally(["top"])
    (stored.root / "fate/bottom").write_text("chatter")  # untracked, and no stage depends on it: it stays here
    stored.change("bottom", "as it is in the working tree")
    before = stored.git("status", "--porcelain"), stored.git("log", "--all", "--format=%H")

    ended = errands(node, stored.root).run("bottom", ("top",), ELSEWHERE, silent)

    assert ended.outcome == "restored"
    assert (stored.root / "out/bottom").read_text() == "as it is in the working tree"
    assert stored.pid("bottom") is None  # it never ran here
    (errand,) = node.errands
    assert "bottom" in node.done.stderr
    assert "ran in" in node.done.stderr
    assert (
        stored.git("status", "--porcelain").replace(" M dvc.lock\n", ""),
        stored.git("log", "--all", "--format=%H"),
    ) == before
    assert not list((node.folder / "clones").glob("*bottom*/"))  # the clone is gone, the cache is kept
    cached = {path.name for path in (node.folder / "cache").rglob("*") if path.is_file()}
    lock = yaml.safe_load((stored.root / "dvc.lock").read_text())["stages"]["bottom"]
    assert {out["md5"][2:] for out in lock["outs"]} <= cached
    with fsspec.open(f"{errand.remote}/handover/{errand.commit}/bottom.log", use_listings_cache=False) as log:
        assert b"Running stage 'bottom'" in log.read()

    shutil.rmtree(stored.root / ".dvc/cache")
    (stored.root / "out/bottom").unlink()
    (stored.root / "dvc.lock").unlink()
    again = errands(node, stored.root).run("bottom", ("top",), ELSEWHERE, silent)

    assert again.outcome == "restored"
    assert len(node.errands) == 1  # its result was in the store


def test_a_folder_that_both_see_is_a_store_as_well_and_the_node_says_what_it_saw(shared, node):
    ended = errands(node, shared.root).run("alone", (), ELSEWHERE, silent)

    assert ended.outcome == "restored"
    assert ended.seen.machine["python"] == platform.python_version()
    assert ended.seen.began <= ended.seen.finished
    assert ended.seen.peak_bytes > 2**20


def test_what_is_in_the_cache_here_is_not_sent_anywhere(shared, node):
    Children().repro("alone", shared.root, silent)
    shared.change("alone", "something else")
    Children().repro("alone", shared.root, silent)
    shared.change("alone", "alone")

    assert errands(node, shared.root).run("alone", (), ELSEWHERE, silent).outcome == "restored"
    assert not node.errands


def test_a_result_of_inputs_that_have_changed_meanwhile_is_not_taken(shared, node):
    run = node.run
    node.run = lambda *given: (run(*given), shared.change("alone", "edited meanwhile"))

    with pytest.raises(StageFailed, match=r"alone: what it depends on was changed while it ran"):
        errands(node, shared.root).run("alone", (), ELSEWHERE, silent)

    assert shared.pid("alone") is None  # nor is it run here


def test_a_refusal_there_is_its_own_sentence_here(shared, node):
    shared.fate("alone", "refuse")
    shared.git("add", "fate")  # in the working tree, but in no commit
    errand = make_errand("alone", shared.root)

    done = node.command(errand.command())

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: alone: the toy is broken; mend it"
    fetch_log(errand)
    refused = failure(errand, done.returncode, "node 7")
    assert isinstance(refused, StageRefused)
    assert str(refused) == "alone: the toy is broken; mend it"


def test_a_second_machine_runs_the_command_beside_the_first_and_keeps_nothing(toy_of, node, tmp_path):
    toy = toy_of({"top": [], "bottom": ["top"]})
    toy.share(str(tmp_path / "store"))
    toy.fate("bottom", "chatter")
    toy.git("add", "fate")
    Children().repro("top", toy.root, silent)
    Children().push(["top"], toy.root, silent)
    errand = make_errand("bottom", toy.root)
    before = sorted((tmp_path / "store").rglob("*"))

    done = node.command([*errand.command(), "--machine", "1"])

    assert done.returncode == 0, done.stderr
    assert "999" in done.stdout  # the stage itself, with what top made in its place
    assert sorted((tmp_path / "store").rglob("*")) == before


def test_a_commit_that_the_store_does_not_have_is_refused(shared, node, tmp_path):
    done = node.command(["pedigree", "stage", "c0ffee", "alone", "--remote", str(tmp_path / "store")])

    assert done.returncode == 2
    assert re.search(r"error: .*/store/handover/c0ffee.bundle: there is no such hand-over; `pedigree run`", done.stderr)


def test_a_node_with_wrong_credentials_says_so_and_nothing_of_them(s3, node):
    node.environment = s3.environment | {"AWS_SECRET_ACCESS_KEY": "mistaken"}

    done = node.command(["pedigree", "stage", "c0ffee", "alone", "--remote", s3.url()])

    assert done.returncode == 2
    assert "refuses these credentials" in done.stderr
    assert "mistaken" not in done.stderr
    assert s3.environment["AWS_ACCESS_KEY_ID"] not in done.stderr


def test_a_store_that_does_not_answer_is_worth_another_try(s3, node):
    node.environment = s3.environment | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}

    done = node.command(["pedigree", "stage", "c0ffee", "alone", "--remote", s3.url()])

    assert done.returncode == 75
    assert "does not answer" in done.stderr


def test_the_same_files_make_the_same_commit_and_the_repository_stays_as_it_was(shared, tmp_path):
    (shared.root / "in/alone").unlink()
    shared.git("rm", "--quiet", "--cached", "in/alone")
    shared.change("alone", "an input that is not tracked")
    (shared.root / "notes").write_text("untracked, and no stage's")
    (shared.root / ".git/hooks/pre-commit").write_text("#!/bin/sh\nexit 1\n")
    before = state(shared)

    first, second = (bundled(shared, tmp_path / name) for name in ("first", "second"))
    shared.change("alone", "another")
    third = bundled(shared, tmp_path / "third")

    assert first == second != third
    assert state(shared) == before
    subprocess.run(
        ["git", "clone", "--quiet", "--branch", "handover", tmp_path / "third/bundle", tmp_path / "clone"], check=True
    )
    assert (tmp_path / "clone/in/alone").read_text() == "another"
    assert not (tmp_path / "clone/notes").exists()


def bundled(toy, folder):
    folder.mkdir()
    return commit_tree(toy.root, {"in/alone", "dvc.yaml"}, folder / "bundle")


def cloned(bundle, folder):
    subprocess.run(["git", "clone", "--quiet", "--branch", "handover", bundle, folder], check=True)


def state(toy):
    objects = toy.git("count-objects", "-v")
    return objects, toy.git("status", "--porcelain"), toy.git("for-each-ref"), (toy.root / ".git/index").read_bytes()


def test_a_project_of_a_folder_in_a_repository_is_handed_over_alone(shared, tmp_path):
    outer = tmp_path / "outer"
    outer.mkdir()
    (shared.root / ".git").rename(outer / ".git")
    shared.root.rename(outer / "toy")
    (outer / "beside").write_text("not of the project")
    inner = replace(shared, root=outer / "toy")
    subprocess.run(["git", "add", "."], cwd=outer, check=True)

    bundled(inner, tmp_path / "one")

    subprocess.run(
        ["git", "clone", "--quiet", "--branch", "handover", tmp_path / "one/bundle", tmp_path / "clone"], check=True
    )
    assert (tmp_path / "clone/dvc.yaml").exists()
    assert not (tmp_path / "clone/beside").exists()


@pytest.mark.parametrize(
    ("breaking", "sentence"),
    [
        ("git", r"to run a stage elsewhere takes a git repository"),
        ("remote", r".dvc/config: there is no default remote, .*add one: dvc remote add --default store s3://"),
        ("persist", r"dvc.yaml: stages.alone has no place in DVC's run-cache, so it can't run elsewhere; give it"),
    ],
)
def test_what_a_hand_over_lacks_is_one_sentence(shared, breaking, sentence):
    match breaking:
        case "git":
            shutil.rmtree(shared.root / ".git")
            config = shared.root / ".dvc/config"
            config.write_text(config.read_text().replace("[core]\n", "[core]\n    no_scm = true\n"))
        case "remote":
            (shared.root / ".dvc/config").write_text("[core]\n    analytics = false\n")
        case "persist":
            pipeline = yaml.safe_load((shared.root / "dvc.yaml").read_text())
            pipeline["stages"]["alone"]["outs"] = [{"out/alone": {"persist": True}}]
            (shared.root / "dvc.yaml").write_text(yaml.safe_dump(pipeline))

    with pytest.raises(Refusal, match=sentence):
        make_errand("alone", shared.root)
