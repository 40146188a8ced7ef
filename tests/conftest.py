"""Fixtures of the tiny project, see tests/tiny.py."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import Project, make_project, with_git

pytest_plugins = [
    "fetching",
    "servers.chromium",
    "servers.hub",
    "servers.kubernetes_api",
    "servers.prefect_server",
    "servers.s3",
    "servers.postgres",
    "servers.slurm",
    "servers.web",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the fault campaign is."""
    parser.addoption("--builds", type=int, default=3, help="builds of the fault campaign")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A tiny project, not built yet."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A tiny project, built once for all tests, which must not change it."""
    project = make_project(tmp_path_factory.mktemp("built") / "project")
    project.repro(workers=1)
    return project


@pytest.fixture
def copy(built: Project, tmp_path: Path) -> Iterator[Project]:
    """A built tiny project of the test's own."""
    folder = tmp_path / "copy"
    shutil.copytree(built.folder, folder, symlinks=True)
    yield Project(folder)
    shutil.rmtree(folder, ignore_errors=True)


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


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes don't name a test: packed ones hold the time, and two processes would collect different tests."""
    return argname if isinstance(val, bytes) else None
