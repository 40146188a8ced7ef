"""An empty project in which one source, `texts`, is locked and downloaded."""

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from flows.lock import write_lock
from stages import remote
from stages.download.__main__ import main
from stages.lock import entry_of
from stages.locked import Locked, read_lock
from stages.params import parse_params


@pytest.fixture
def empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, with pip cut off from whatever index this machine is set up for."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in list(os.environ):
        if name.startswith(("PIP_", "PEDIGREE_", "AWS_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setattr(remote, "FIRST_WAIT_SECONDS", 0.001)
    return folder


def choose(section: dict[str, object]) -> None:
    """Have params.yaml say that `texts` is downloaded by `section`."""
    Path("params.yaml").write_text(yaml.safe_dump({"sources": {"texts": {"download": section}}}))


def lock(section: dict[str, object]) -> Locked:
    """Lock `texts` as it is now."""
    choose(section)
    write_lock(Path(), {"texts": entry_of("texts")})
    return parse_params(Locked, read_lock()["texts"], "sources.lock")


def download(section: dict[str, object]) -> Path:
    """The folder that the stage fills, from the source as it was locked."""
    choose(section)
    arguments, sys.argv = sys.argv, ["download", "texts"]
    try:
        main()
    finally:
        sys.argv = arguments
    return Path("data/download/texts")


def fetched(section: dict[str, object]) -> Path:
    """The folder that the stage fills, from the source as it is now."""
    lock(section)
    return download(section)


def forget() -> None:
    """Empty scratch."""
    for path in sorted(Path("scratch").rglob("*"), reverse=True):
        with suppress(IsADirectoryError, PermissionError):
            path.unlink()


def sha256(content: bytes) -> str:
    """The digest, in hex."""
    return hashlib.sha256(content).hexdigest()
