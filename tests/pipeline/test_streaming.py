"""Tokens that are read by ranges out of an object store: the same training as from files."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import ROOT, Project
from trainings import Training, train

from infra.store.streaming import object_url, token_map
from stages.params import Refusal
from stages.pretrain import ranges, streaming
from stages.pretrain.ranges import Ranges, StoreAway

MADE = ("models/base", "models/checkpoints", "plots/loss.csv", "metrics/pretrain.json")


def made(project: Project) -> dict[str, bytes]:
    """Everything that pretrain writes."""
    return {
        str(path.relative_to(project.folder)): path.read_bytes()
        for folder in MADE
        for path in [project.folder / folder, *(project.folder / folder).rglob("*")]
        if path.is_file()
    }


def test_a_training_on_tokens_in_an_object_store_is_bitwise_that_on_files(built, tmp_path, s3, faulty):
    remote = s3.url("remote")
    s3.filesystem().put(f"{built.folder}/.dvc/cache/files", f"{remote}/files", recursive=True)
    node = Project(tmp_path / "node")
    without = shutil.ignore_patterns("scratch", "data", "base", "checkpoints", "cache", "loss.csv")
    shutil.copytree(built.folder, node.folder, symlinks=True, ignore=without)
    command = [sys.executable, "-m", "infra.store.streaming", remote]
    environment = node.environment() | s3.environment | {"PYTHONPATH": str(ROOT)}
    with (node.folder / "tokens.json").open("w") as file:
        subprocess.run(command, cwd=node.folder, env=environment, stdout=file, check=True)
    faulty.faults = {"busy": 0.05, "drop": 0.05, "slow": 0.02}

    settings = faulty.environment | {"PEDIGREE_TOKENS": "tokens.json"}
    codes = train(node, Training(str(node.folder), settings=settings))

    assert codes == [[0]], (node.folder / "said-0").read_text()
    assert made(node) == made(built)
    assert not (node.folder / "data").exists()
    assert faulty.counts["busy"] + faulty.counts["drop"] > 10


def test_the_map_names_every_token_file_by_its_digest(built):
    lock = (built.folder / "dvc.lock").read_text()

    places = token_map(lock, f"file://{built.folder}/.dvc/cache")

    files = {
        str(path.relative_to(built.folder / "data/tokenize")) for path in (built.folder / "data/tokenize").rglob("*.*")
    }
    assert set(places) == files
    for name, place in places.items():
        content = (built.folder / "data/tokenize" / name).read_bytes()
        assert Path(place.removeprefix("file://")).read_bytes() == content


def test_a_map_of_what_was_never_pushed_is_refused(built, tmp_path):
    with pytest.raises(Refusal, match=r"lists the files of data/tokenize/\w+; run `dvc push` first"):
        token_map((built.folder / "dvc.lock").read_text(), f"file://{tmp_path}")
    with pytest.raises(Refusal, match=r"dvc\.lock has no tokens"):
        token_map(yaml.safe_dump({"stages": {}}), f"file://{tmp_path}")


def test_an_object_is_named_by_its_digest():
    assert object_url("s3://bucket/prefix/", "0123456789.dir") == "s3://bucket/prefix/files/md5/01/23456789.dir"


@pytest.mark.parametrize("content", [None, "no JSON", "[]", json.dumps({"a": 1})])
def test_what_is_no_map_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "map").write_text(content)

    with pytest.raises(Refusal, match=r"PEDIGREE_TOKENS: .+/map can't be read as a map"):
        streaming.read_map(str(tmp_path / "map"))


@pytest.fixture
def numbers(tmp_path: Path) -> str:
    """The URL of a file with the bytes 0 to 255."""
    (tmp_path / "numbers").write_bytes(bytes(range(256)))
    return f"file://{tmp_path}/numbers"


def test_ranges_are_what_was_asked_for(numbers):
    fetched = Ranges()
    fetched.expect(numbers, 3, 9)

    assert fetched.read(numbers, 3, 9) == bytes(range(3, 9))
    assert fetched.read(numbers, 250, 256) == bytes(range(250, 256))


def test_what_was_used_least_recently_is_forgotten(numbers):
    fetched = Ranges(kept_bytes=100)
    for begin in range(0, 200, 20):
        fetched.expect(numbers, begin, begin + 20)
    kept = [begin for _, begin, _ in fetched._known]

    assert kept == [100, 120, 140, 160, 180]
    assert fetched.read(numbers, 0, 20) == bytes(range(20))  # fetched again


def test_a_range_that_never_comes_whole_is_given_up(numbers, monkeypatch):
    monkeypatch.setattr(ranges, "PAUSE_SECONDS", 0.0)

    with pytest.raises(StoreAway, match="6 bytes came instead of 10"):
        Ranges().read(numbers, 250, 260)
