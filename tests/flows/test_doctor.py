"""Each thing that the doctor knows is made in a toy project, and found."""

import json
import os
import socket
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flows.doctor import diagnose, show, surroundings

HEALTHY = {
    "stages": {
        "make": {
            "foreach": ["a", "b"],
            "do": {"cmd": "exec python -m code.make ${item}", "deps": ["code"], "outs": ["data/make/${item}"]},
        },
        "join": {"cmd": "exec python join.py", "deps": ["join.py", "data/make"], "outs": ["data/join"]},
    }
}
CONFIG = "[core]\n    no_scm = true\n    analytics = false\n"


class Sick:
    """A healthy project, to be made sick."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, text in {
            "code/__init__.py": '"""Code."""\n',
            "code/make.py": "from code import shared\n",
            "code/shared.py": "",
            "join.py": "import json\n",
            ".dvcignore": "__pycache__\n",
            ".dvc/config": CONFIG,
            "requirements.lock": "",
        }.items():
            self.write(name, text)
        self.set(HEALTHY)

    def write(self, name: str, text: str) -> None:
        """Give the file `name` this text."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def set(self, pipeline: dict[str, object]) -> None:
        """Give the project this dvc.yaml."""
        self.write("dvc.yaml", yaml.safe_dump(pipeline, sort_keys=False))

    def join(self, **changed: object) -> None:
        """Change what dvc.yaml says of the stage `join`; None takes it out."""
        stage = {**HEALTHY["stages"]["join"], **changed}
        kept = {name: value for name, value in stage.items() if value is not None}
        self.set({"stages": {**HEALTHY["stages"], "join": kept}})

    def remote(self, url: str, more: str = "", default: str = "") -> None:
        """Have a remote `r`."""
        core = f"    remote = {default}\n" if default else ""
        self.write(".dvc/config", f"{CONFIG}{core}['remote \"r\"']\n    url = {url}\n    {more}\n")

    def rwlock(self, pid: int) -> None:
        """Leave an entry of this process in DVC's list of who reads what."""
        self.write(".dvc/tmp/rwlock", json.dumps({"read": {"x": [{"pid": pid, "cmd": "dvc repro"}]}, "write": {}}))


@pytest.fixture
def sick(tmp_path, monkeypatch) -> Sick:
    project = Sick(tmp_path / "project")
    monkeypatch.chdir(project.root)
    return project


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def lock_with(size: int, files: int) -> str:
    """A dvc.lock in which the out of `join` is so large."""
    out = {"path": "data/join", "hash": "md5", "md5": "0" * 32 + ".dir", "size": size, "nfiles": files}
    return yaml.safe_dump({"schema": "2.0", "stages": {"join": {"cmd": "exec python join.py", "outs": [out]}}})


def test_a_healthy_project_has_notes_only(sick, capsys):
    findings = diagnose()

    assert [(each.level, each.where) for each in findings] == [("note", ".dvc/config"), ("note", "git")]
    assert show(findings, as_json=False) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 errors, 0 warnings, 2 notes"


def test_the_tiny_project_is_healthy(project, monkeypatch):
    monkeypatch.chdir(project.folder)

    assert problems() == ""


JOIN = "dvc.yaml: join"
CASES: dict[str, tuple[Callable[[Sick], object], str, str, str]] = {
    "persist": (
        lambda sick: sick.join(outs=[{"data/join": {"persist": True}}]), "error", JOIN, "kept between runs (persist)"
    ),
    "uncached out": (
        lambda sick: sick.join(outs=[{"data/join": {"cache": False}}]), "error", JOIN, "out data/join is not cached"
    ),
    "uncached metric": (
        lambda sick: sick.join(metrics=[{"m.json": {"cache": False}}]), "error", JOIN, "out m.json is not cached"
    ),
    "uncached plot": (
        lambda sick: sick.join(plots=[{"p.csv": {"cache": False}}]), "error", JOIN, "out p.csv is not cached"
    ),
    "external out": (
        lambda sick: sick.join(outs=["data/join", str(sick.root.parent / "far")]), "error", JOIN, "outside the project"
    ),
    "external dep": (
        lambda sick: sick.join(deps=["join.py", str(sick.root.parent)]), "warning", JOIN, "no run-cache"
    ),
    "many files": (
        lambda sick: sick.write("dvc.lock", lock_with(10, 2001)), "warning", JOIN, "has 2001 files"
    ),
    "always changed": (lambda sick: sick.join(always_changed=True), "warning", JOIN, "it is always changed"),
    "no deps": (lambda sick: sick.join(cmd="true", deps=None), "warning", JOIN, "neither deps nor params"),
    "frozen": (lambda sick: sick.join(frozen=True), "note", JOIN, "it is frozen"),
    "script not a dep": (lambda sick: sick.join(deps=["data/make"]), "error", JOIN, "it runs join.py"),
    "import not a dep": (
        lambda sick: sick.write("join.py", "def late():\n    from code.shared import x\n"), "error", JOIN,
        "it runs code/shared.py, a change of which goes unseen; add code/shared.py to its deps",
    ),
    "pycache": (lambda sick: sick.write(".dvcignore", ""), "error", ".dvcignore", "the dep code changes by being run"),
    "stranger": (
        lambda sick: (sick.root / "data/make/gone").mkdir(parents=True), "error", "data/make/gone",
        "belongs to no source",
    ),
    "version aware": (
        lambda sick: sick.remote("s3://b/p", "version_aware = true"),
        "error", ".dvc/config", "the remote r is version_aware",
    ),
    "worktree": (
        lambda sick: sick.remote("s3://b/p", "worktree = true"),
        "error", ".dvc/config", "the remote r is worktree",
    ),
    "remote folder": (
        lambda sick: sick.remote("/no/such/folder", default="r"),
        "error", ".dvc/config", "the folder is not there",
    ),
    "hardlink lock": (
        lambda sick: sick.write(".dvc/config", CONFIG + "    hardlink_lock = true\n"), "warning", ".dvc/config",
        "core.hardlink_lock leaves a lock behind",
    ),
    "rwlock of the dead": (lambda sick: sick.rwlock(dead_pid()), "note", ".dvc/tmp/rwlock", "and is dead"),
    "rwlock of another": (lambda sick: sick.rwlock(1), "error", ".dvc/tmp/rwlock", "DVC waits for process 1"),
    "rwlock cut short": (lambda sick: sick.write(".dvc/tmp/rwlock", '{"read"'), "error", ".dvc/tmp/rwlock", "can't be"),
    "disk": (lambda sick: sick.write("dvc.lock", lock_with(10**15, 2)), "error", "the cache and the workspace", "free"),
    "another version": (
        lambda sick: sick.write("requirements.lock", "pyyaml==1.0\n"), "error", "requirements.lock", "pyyaml 1.0 is"
    ),
    "absent package": (
        lambda sick: sick.write("requirements.lock", "nosuchpackage==1.0\n"), "warning", "requirements.lock", "absent"
    ),
    "package for others": (
        lambda sick: sick.write("requirements.lock", "nosuchpackage==1.0 ; python_version < '3'\n"), "note", "git", ""
    ),
    "no lock": (lambda sick: (sick.root / "requirements.lock").unlink(), "warning", "requirements.lock", "is missing"),
    "Python": (
        lambda sick: sick.write("pyproject.toml", '[project]\nrequires-python = ">=4"\n'), "error", "Python", ">=4 is"
    ),
    "clock": (
        lambda sick: os.utime(sick.root / "join.py", (time.time() + 9999,) * 2), "note", "clock", "the future: join.py"
    ),
    "dvc.yaml": (lambda sick: sick.write("dvc.yaml", "stages: ["), "error", "dvc.yaml", "DVC can't read the project"),
    "dvc.lock": (lambda sick: sick.write("dvc.lock", "schema: ["), "error", "dvc.yaml", "DVC can't read the project"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_found(sick, case):
    make_sick, level, where, what = CASES[case]
    make_sick(sick)

    findings = diagnose()

    found = [each for each in findings if (each.level, each.where.startswith(where)) == (level, True)]
    assert any(what in str(each) for each in found), "\n".join(map(str, findings))
    if level != "error":
        assert show(findings, as_json=True) == 0
    assert "\n" not in "".join(map(str, findings))


def test_a_lock_that_a_dead_process_holds_is_found(sick):
    sick.write(".dvc/config", CONFIG + "    hardlink_lock = true\n")
    pid = dead_pid()
    sick.write(".dvc/tmp/lock", f"{sick.root}/.dvc/tmp/lock|host|{pid}|12345")

    assert f"process {pid} has left it locked, and is dead" in problems()


def test_an_unknown_setting_is_found(sick, monkeypatch):
    monkeypatch.setenv("PEDIGREE_WORKRES", "3")

    assert any("PEDIGREE_WORKRES is unknown" in str(each) and each.level == "error" for each in diagnose())


def test_a_place_that_cannot_be_written_to_is_found(sick, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who can write anywhere

    assert {"the cache", "the workspace", "scratch"} <= {each.where for each in diagnose() if each.level == "error"}


def test_a_disk_with_room_for_the_last_build_is_none(sick, monkeypatch):
    sick.write("dvc.lock", lock_with(10**9, 2))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(surroundings.shutil, "disk_usage", lambda path: usage(10**12, 0, 3 * 10**9))

    assert not [each for each in diagnose() if each.level == "error"]


def test_git_that_is_not_installed_is_found(sick, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    assert ("error", "git") in {(each.level, each.where) for each in diagnose()}


@pytest.fixture
def with_remote(sick, s3, monkeypatch) -> Sick:
    """A project whose default remote is the S3 server."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    sick.remote(s3.url(), default="r")
    return sick


def problems() -> str:
    return "\n".join(str(each) for each in diagnose() if each.level != "note")


def test_a_remote_that_answers_is_no_problem(with_remote, s3, monkeypatch):
    monkeypatch.setenv("PEDIGREE_SCRATCH", s3.url("scratch"))

    assert problems() == ""


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [
        ("AWS_SECRET_ACCESS_KEY", "a-wrong-secret", "refuses these credentials"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "does not answer"),
    ],
)
def test_a_remote_that_cannot_be_used_is_found_and_no_key_is_told(with_remote, monkeypatch, variable, value, what):
    monkeypatch.setenv("PEDIGREE_SCRATCH", "s3://pedigree/scratch")
    monkeypatch.setenv(variable, value)

    found = problems()

    assert "error: .dvc/config" in found
    assert what in found
    assert "error: PEDIGREE_SCRATCH" in found
    assert "a-wrong-secret" not in found


def test_scratch_on_a_store_that_is_not_s3_is_found(sick, monkeypatch):
    monkeypatch.setenv("PEDIGREE_SCRATCH", "memory://scratch")

    assert "memory://scratch is no S3 object store" in problems()


def test_a_remote_that_keeps_silent_is_not_waited_for(sick, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(surroundings, "REMOTE_SECONDS", 0.5)
    sick.remote("s3://pedigree/dvc", default="r")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")

        assert "the default remote does not answer within 0.5 s" in problems()
