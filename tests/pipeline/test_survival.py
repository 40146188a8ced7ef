"""A training survives: kills at any moment, signals, other numbers of processes, ways to share the model, hangs."""

import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import Project
from trainings import Training, deaths, train

EACH_STEP = {"PEDIGREE_CHECKPOINT_SECONDS": "0"}
PARTS = ("model", "optimizer", "history")
SHARDED = {"PEDIGREE_PARALLEL": "dp_shard=2"}


@pytest.fixture
def untrained(built: Project, tmp_path: Path) -> Project:
    """The inputs of pretrain, and nothing that it has made."""
    folder = tmp_path / "untrained"
    without = shutil.ignore_patterns("scratch", "base", "checkpoints", "cache", "loss.csv")
    shutil.copytree(built.folder, folder, symlinks=True, ignore=without)
    return Project(folder)


def last(project: Project) -> dict[str, torch.Tensor]:
    """The whole state after the last step, by name."""
    folder = max(project.folder.glob("scratch/pretrain/*/step-????????"))
    return {f"{part}/{name}": t for part in PARTS for name, t in load_file(folder / f"{part}.safetensors").items()}


def made(project: Project) -> dict[str, bytes]:
    """Everything that pretrain writes."""
    return {
        str(path.relative_to(project.folder)): path.read_bytes()
        for folder in ("models/base", "models/checkpoints", "plots/loss.csv", "metrics/pretrain.json")
        for path in [project.folder / folder, *(project.folder / folder).rglob("*")]
        if path.is_file()
    }


def said(project: Project, rank: int = 0) -> str:
    return (project.folder / f"said-{rank}").read_text()


def test_after_any_kill_state_and_losses_are_bitwise_those_of_the_undisturbed_training(built, untrained):
    kills = deaths(untrained.folder, 24, seed=6, settings=EACH_STEP)

    *killed, ended = train(untrained, *kills, Training(str(untrained.folder), settings=EACH_STEP))

    assert ended == [0], said(untrained)
    assert sum(codes == [-signal.SIGKILL] for codes in killed) >= 20
    expected, state = last(built), last(untrained)
    assert expected.keys() == state.keys()
    assert all(torch.equal(expected[name], state[name]) for name in expected)
    assert made(untrained) == made(built)
    assert not list(untrained.folder.glob("scratch/pretrain/**/*.partial"))
