"""Tiny projects that are git repositories: lineage reads the builds of their history."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import Project


def commit(project: Project, message: str) -> str:
    """Commit all that stands in `project`; the commit."""
    author = ["-c", "user.name=tiny", "-c", "user.email=tiny@localhost"]
    for command in (["add", "--all"], [*author, "commit", "--quiet", "--message", message]):
        subprocess.run(["git", *command], cwd=project.folder, check=True, capture_output=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project.folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def with_git(project: Project) -> Project:
    """`project`, as a git repository with one commit."""
    config = project.folder / ".dvc/config"
    config.write_text(config.read_text().replace("no_scm = True", ""))
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main"], cwd=project.folder, check=True)
    commit(project, "built")
    return project


@pytest.fixture(scope="session")
def committed(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A built and committed tiny project, which tests must not change."""
    folder = tmp_path_factory.mktemp("committed") / "project"
    shutil.copytree(built.folder, folder, symlinks=True)
    return with_git(Project(folder))


@pytest.fixture
def repository(committed: Project, tmp_path: Path) -> Iterator[Project]:
    """A built and committed tiny project of the test's own."""
    folder = tmp_path / "repository"
    shutil.copytree(committed.folder, folder, symlinks=True)
    yield Project(folder)
    shutil.rmtree(folder, ignore_errors=True)
