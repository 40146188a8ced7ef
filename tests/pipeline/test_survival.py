"""A training survives: kills at any moment, signals, other numbers of processes, ways to share the model, hangs."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from damage import flip
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


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_a_training_with_a_checkpoint_of_the_step_at_hand(built, untrained, sent):
    folder = str(untrained.folder)

    codes = train(untrained, Training(folder, stop_after=13, sent=sent), Training(folder))

    assert codes == [[75], [0]]
    assert "going on after step 13," in said(untrained)
    assert made(untrained) == made(built)


def losses(project: Project) -> torch.Tensor:
    return torch.tensor(pl.read_csv(project.folder / "plots/loss.csv")["loss"].to_list())


def base(project: Project) -> dict[str, torch.Tensor]:
    return load_file(project.folder / "models/base/model.safetensors")


def test_sharing_the_model_by_fsdp2_changes_the_loss_by_rounding_only(built, untrained):
    codes = train(untrained, Training(str(untrained.folder), world=2, settings=SHARDED))

    assert codes == [[0, 0]], said(untrained)
    assert torch.allclose(losses(untrained), losses(built), atol=2e-3)
    one, two = base(built), base(untrained)
    assert {name: tensor.shape for name, tensor in one.items()} == {name: tensor.shape for name, tensor in two.items()}
    assert all(torch.allclose(one[name], two[name], atol=0.02) for name in one)
    config = "models/base/config.json"
    assert (untrained.folder / config).read_bytes() == (built.folder / config).read_bytes()


@pytest.mark.parametrize(
    ("world", "parallel"),
    [
        (2, "tp=2"),
        (2, "cp=2"),
        pytest.param(4, "dp_shard=2,tp=2", marks=pytest.mark.long),
        pytest.param(4, "dp_shard=2,cp=2", marks=pytest.mark.long),
        pytest.param(4, "dp_replicate=2,dp_shard=2", marks=pytest.mark.long),
    ],
)
def test_sharing_layers_or_samples_changes_the_loss_by_rounding_only(built, untrained, world, parallel):
    settings = {"PEDIGREE_PARALLEL": parallel}
    folder = str(untrained.folder)

    codes = train(
        untrained, Training(folder, world=world, settings=settings, stop_after=20),
        Training(folder, world=world, settings=settings),
    )  # fmt: skip

    assert codes == [[75] * world, [0] * world], said(untrained)
    assert torch.allclose(losses(untrained), losses(built), atol=2e-3)
    one, shared = base(built), base(untrained)
    assert one.keys() == shared.keys()
    assert all(torch.allclose(one[name], shared[name], atol=0.02) for name in one)


def test_processes_that_each_have_the_model_find_what_fits_together(built, untrained):
    settings = {"PEDIGREE_MICRO_BATCH": "auto"}

    codes = train(untrained, Training(str(untrained.folder), world=2, settings=settings, stop_after=3))

    assert codes == [[75, 75]], said(untrained)
    assert "pretrain: 4 samples at once" in said(untrained)


def test_a_training_goes_on_with_another_number_of_processes_and_back(built, untrained):
    folder = str(untrained.folder)

    codes = train(
        untrained,
        Training(folder, stop_after=10),
        Training(folder, world=2, settings=SHARDED, stop_after=20),
        Training(folder, world=2, stop_after=30),
        Training(folder),
    )

    assert codes == [[75], [75, 75], [75, 75], [0]], said(untrained)
    assert "going on after step 30," in said(untrained)
    assert torch.allclose(losses(untrained), losses(built), atol=2e-3)


@pytest.mark.long
def test_a_damaged_slice_of_the_newest_checkpoint_costs_time_and_no_bit(untrained, tmp_path):
    folder, settings = str(untrained.folder), SHARDED | EACH_STEP
    undisturbed = Project(tmp_path / "undisturbed")
    shutil.copytree(untrained.folder, undisturbed.folder, symlinks=True)
    (whole,) = train(undisturbed, Training(str(undisturbed.folder), world=2, settings=settings))

    (stopped,) = train(untrained, Training(folder, world=2, settings=settings, stop_after=20))
    newest = max(untrained.folder.glob("scratch/pretrain/*/step-????????"))
    flip(newest / "optimizer-00002-of-00002.safetensors")
    (ended,) = train(untrained, Training(folder, world=2, settings=settings))

    assert (whole, stopped, ended) == ([0, 0], [75, 75], [0, 0]), said(untrained)
    assert "optimizer-00002-of-00002.safetensors" in said(untrained)
    assert made(untrained) == made(undisturbed)


def test_a_step_that_hangs_ends_with_the_stacks_of_all_threads_and_is_tried_again(built, untrained):
    folder = str(untrained.folder)
    hung, ended = train(
        untrained,
        Training(folder, settings=EACH_STEP | {"PEDIGREE_HANG_SECONDS": "3"}, hangs_after=20),
        Training(folder),
    )

    assert (hung, ended) == ([75], [0])
    assert "going on after step 20," in said(untrained)
    assert made(untrained) == made(built)


def test_published_weights_follow_the_powers_of_two_and_the_base_model_is_their_mean(untrained):
    untrained.set("pretrain.tokens", 9 * 256)
    untrained.set("pretrain.checkpoint_steps", None)
    untrained.set("pretrain.checkpoint_powers", True)
    untrained.set("pretrain.average_last", 2)

    codes = train(untrained, Training(str(untrained.folder), settings={"PEDIGREE_PROFILE": "2:4"}))

    assert codes == [[0]], said(untrained)
    published = sorted((untrained.folder / "models/checkpoints").iterdir())
    assert [path.name for path in published] == [f"step-{step:08d}" for step in (1, 2, 4, 8)]
    fourth, eighth = (load_file(path / "model.safetensors") for path in published[2:])
    mean = {name: ((fourth[name].double() + eighth[name].double()) / 2).float() for name in fourth}
    assert all(torch.equal(mean[name], tensor) for name, tensor in base(untrained).items())
    assert "mean of those after steps 4, 8" in (untrained.folder / "models/base/README.md").read_text()
    (trace,) = untrained.folder.glob("scratch/pretrain/*/profile-0.json")
    assert '"traceEvents"' in trace.read_text()


def test_a_launched_training_that_is_asked_to_stop_ends_with_75_too(untrained):
    environment = untrained.environment(checkpoint_seconds=0, launch="--num_processes 2 --cpu")
    with (untrained.folder / "said").open("w") as file:
        launched = subprocess.Popen(
            [sys.executable, "-m", "stages.pretrain"], cwd=untrained.folder, env=environment, stdout=file, stderr=file
        )
    while launched.poll() is None and not list(untrained.folder.glob("scratch/pretrain/*/step-????????")):
        time.sleep(0.01)
    launched.send_signal(signal.SIGUSR1)

    assert launched.wait(60) == 75
    assert "run again to go on" in (untrained.folder / "said").read_text()


def test_a_longer_budget_begins_where_the_way_of_a_shorter_one_parts(built, untrained):
    folder = str(untrained.folder)
    untrained.set("pretrain.tokens", 26 * 256)
    untrained.set("pretrain.schedule.decay", 0.1)
    (shorter,) = train(untrained, Training(folder))
    untrained.set("pretrain.tokens", 40 * 256)
    untrained.set("pretrain.schedule.decay", None)

    (longer,) = train(untrained, Training(folder))

    assert (shorter, longer) == ([0], [0])
    assert "begins from what another budget has reached" in said(untrained)
    assert "going on after step 23," in said(untrained)
    assert made(untrained) == made(built)


def test_a_shorter_budget_does_not_begin_after_its_own_rate_falls(built, untrained):
    train(untrained, Training(str(untrained.folder)))
    shutil.rmtree(untrained.folder / "scratch/pretrain")
    untrained.set("pretrain.tokens", 30 * 256)

    train(untrained, Training(str(untrained.folder)))

    assert "going on" not in said(untrained)
