"""`pedigree lock` writes down what the sources are, and shows what differs from what they were."""

import subprocess
import sys

import pytest
import yaml
from tiny import ROOT, Project

from flows.lock import lock_sources, unlocked
from stages.locked import read_lock
from stages.params import Refusal


def pedigree(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return project.run(sys.executable, "pedigree.py", *arguments)


def test_a_drifted_source_is_shown_file_by_file_and_is_built_again_once_it_is_locked(project):
    project.repro("download")
    stories, scripts = project.folder / "corpus/stories.jsonl", project.folder / "corpus/scripts"
    with stories.open("a") as file:
        file.write('{"text": "One more."}\n')
    (scripts / "script_00.py").unlink()
    (scripts / "new.py").write_text("pass\n")
    refused = project.stage("download", "stories")

    locked = pedigree(project, "lock")
    again = pedigree(project, "lock")

    assert refused.returncode == 2
    assert "stories.jsonl has " in refused.stderr
    shown = locked.stdout.splitlines()
    assert [line.partition(" (")[0] for line in shown[1:]] == [
        "scripts: new.py is new",
        "scripts: script_00.py is gone",
    ]
    assert shown[0].startswith(f"stories: stories.jsonl has {stories.stat().st_size} bytes, sha256 ")
    assert again.stdout == "sources.lock: nothing has changed\n"
    assert "download@stories" in project.run("dvc", "status").stdout
    assert project.stage("download", "stories").returncode == 0


def test_only_the_sources_that_are_named_are_asked(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    before = read_lock()
    for path in ("corpus/stories.jsonl", "corpus/scripts/script_00.py"):
        (project.folder / path).write_text("")
    said: list[str] = []

    changed = lock_sources(["scripts"], tell=said.append)

    assert changed
    assert [line.partition(" has ")[0] for line in said] == ["scripts: script_00.py"]
    assert read_lock()["stories"] == before["stories"]
    assert list(read_lock()) == list(before)


def test_a_source_that_cannot_be_asked_costs_no_other_its_lock(project):
    (project.folder / "corpus/stories.jsonl").unlink()
    (project.folder / "corpus/scripts/script_00.py").write_text("pass")

    done = pedigree(project, "lock")

    assert done.returncode == 2
    assert (
        done.stderr == "error: stories: corpus/stories.jsonl: there is no such file; correct the URL in params.yaml\n"
    )
    assert "scripts: script_00.py has 4 bytes" in done.stdout
    assert project.stage("download", "scripts").returncode == 0


def test_an_unknown_source_is_refused(project, monkeypatch):
    monkeypatch.chdir(project.folder)

    with pytest.raises(Refusal, match=r"params.yaml has no source novels; it has stories, scripts"):
        lock_sources(["novels"])


def test_a_source_that_params_yaml_lost_leaves_the_lock(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    project.set("sources.scripts", None)

    lock_sources(["stories"], tell=lambda line: None)

    assert list(read_lock()) == ["stories"]


@pytest.mark.parametrize("command", ["check", "run", "doctor"])
def test_a_source_without_a_lock_is_one_sentence_before_anything_runs(project, command):
    lock = project.folder / "sources.lock"
    entries = yaml.safe_load(lock.read_text())
    lock.write_text(yaml.safe_dump({"stories": entries["stories"]}))

    done = pedigree(project, command)

    assert done.returncode == (1 if command == "doctor" else 2)
    assert "sources.lock" in done.stdout + done.stderr
    assert "has no source scripts; run `pedigree lock scripts`" in (done.stdout + done.stderr).replace("it ", "")


def test_the_sources_of_params_yaml_are_locked(monkeypatch):
    monkeypatch.chdir(ROOT)

    assert unlocked() == []
