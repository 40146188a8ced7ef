"""What is around a training step, on values: memory, peaks, settings, averages, the thread that writes."""

import sys
import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
import torch
from damage import DAMAGES
from safetensors.torch import save_file
from torch import nn

from stages.params import Refusal, parse_params
from stages.pretrain import checkpoint, trackers
from stages.pretrain.averaging import average
from stages.pretrain.fitting import largest_that_fits
from stages.pretrain.history import Step, to_tensors
from stages.pretrain.launch import launcher
from stages.pretrain.parallel import read_layout
from stages.pretrain.params import PretrainParams
from stages.pretrain.peaks import peak_flops, utilization
from stages.pretrain.profiler import read_window
from stages.pretrain.state import Share, State
from stages.pretrain.trackers import read_trackers
from stages.pretrain.writer import Writer

VALUES = {
    "model": {"model_type": "llama"},
    "sequence_length": 8,
    "tokens": 1000,
    "tokens_per_step": 64,
    "optimizer": {"name": "muon"},
    "schedule": {"shape": "wsd"},
}


def trainer(fits: int, samples: int = 24, mesh: object = None) -> SimpleNamespace:
    """A trainer with memory for so many samples."""

    def try_out(numbers: range) -> None:
        made.model.weight.grad = torch.ones(2, 2)
        if len(numbers) > fits:
            raise torch.cuda.OutOfMemoryError

    made = SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=1, torch_device_mesh=mesh), steps=[],
        params=SimpleNamespace(samples_per_step=samples), model=nn.Linear(2, 2), try_out=try_out,
    )  # fmt: skip
    return made


@pytest.mark.parametrize(("fits", "found"), [(100, 24), (24, 24), (23, 12), (5, 3), (1, 1)])
def test_the_micro_batch_is_halved_until_it_fits(fits, found):
    tried = trainer(fits)

    assert largest_that_fits(tried) == found
    assert tried.model.weight.grad is None


@pytest.mark.parametrize(
    ("given", "sentence"), [({"fits": 0}, "not even one"), ({"fits": 9, "mesh": "shared"}, "share it")]
)
def test_a_micro_batch_that_cant_be_found_is_refused(given, sentence):
    tried = trainer(**given)

    with pytest.raises(Refusal, match=sentence):
        largest_that_fits(tried)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA L40", None),
        ("", None),
    ],
)
def test_a_device_has_the_peak_of_its_maker_or_none(name, tflops):
    assert peak_flops(name) == (tflops and tflops * 1e12)


def test_utilization_is_a_share_of_all_devices_and_never_more_than_all():
    assert utilization(4e12, 1e13, 2) == pytest.approx(0.2)
    assert utilization(4e12, None, 2) is None
    assert utilization(4e13, 1e13, 2) is None


def test_a_layout_is_read(monkeypatch):
    one = {"dp_replicate": 1, "dp_shard": 1, "cp": 1, "tp": 1}

    assert read_layout("").model_dump() == one
    assert read_layout("dp_replicate=4, dp_shard=8").model_dump() == one | {"dp_replicate": 4, "dp_shard": 8}
    assert read_layout("dp_shard=2,cp=2,tp=8").model_dump() == one | {"dp_shard": 2, "cp": 2, "tp": 8}


@pytest.mark.parametrize(
    "text", ["dp_shard", "pp=2", "dp_shard=0", "dp_shard=two", "dp_replicate=2", "dp_replicate=2,cp=2"]
)
def test_a_layout_that_cant_be_is_refused(text):
    with pytest.raises(Refusal, match=f"PEDIGREE_PARALLEL: '{text}'"):
        read_layout(text)


def test_a_profile_is_of_a_range_of_steps():
    assert read_window("10:20") == range(10, 20)
    assert not read_window("")
    for text in ("10", "20:10", "a:b"):
        with pytest.raises(Refusal, match=f"PEDIGREE_PROFILE: '{text}'"):
            read_window(text)


def test_trackers_are_known_and_installed(monkeypatch):
    monkeypatch.setitem(trackers.PACKAGES, "wandb", "no_such_package")
    monkeypatch.setitem(trackers.PACKAGES, "tensorboard", "torch")

    assert read_trackers("") == []
    assert read_trackers("tensorboard") == ["tensorboard"]
    with pytest.raises(Refusal, match="'board' is unknown"):
        read_trackers("tensorboard, board")
    with pytest.raises(Refusal, match="names wandb, whose package isn't installed; run `pip install"):
        read_trackers("wandb")


@pytest.mark.parametrize(
    ("steps", "powers", "published"),
    [(None, False, []), (5, False, [5, 10, 15]), (None, True, [1, 2, 4, 8, 16]), (6, True, [1, 2, 4, 6, 8, 12, 16])],
)
def test_weights_are_published_by_the_schedule(steps, powers, published):
    given = VALUES | {"checkpoint_steps": steps, "checkpoint_powers": powers}
    params = parse_params(PretrainParams, given, "pretrain")

    assert [step for step in range(1, params.steps + 1) if params.publishes(step)] == published


def test_a_mean_of_more_weights_than_are_published_is_refused():
    with pytest.raises(Refusal, match=r"average_last \(4\) is more than the 3 checkpoints that are published"):
        parse_params(PretrainParams, VALUES | {"checkpoint_steps": 5, "average_last": 4}, "pretrain")


def save_slices(folder: Path, step: int, value: float) -> None:
    """A checkpoint in the slices of two processes: a matrix cut along its rows, and what isn't cut."""
    rows = torch.full((5, 2), value) + torch.arange(5.0)[:, None]
    for number, cut in ((1, rows[3:]), (0, rows[:3])):  # the first process waits for the others
        whole = {"step": torch.tensor(value)} if number == 0 else {}
        history = to_tensors([Step(value, 1.0)] * step) if number == 0 else {}
        parts = {"model": {"w": cut}, "optimizer": {"0.0.momentum": 2 * cut, **whole}, "history": history}
        checkpoint.save(folder, State(step, Share(number, 2), parts), kept=2)


def test_slices_of_two_processes_are_one_checkpoint(tmp_path):
    save_slices(tmp_path, 3, 10.0)

    state = dict(checkpoint.read_newest(tmp_path))

    assert state["model/w"].tolist() == [[10.0 + row] * 2 for row in range(5)]
    assert torch.equal(state["optimizer/0.0.momentum"], 2 * state["model/w"])
    assert state["optimizer/step"] == 10
    assert state["history/loss"].tolist() == [10.0] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_checkpoint_with_a_damaged_slice_is_passed_over(tmp_path, caplog, damage):
    save_slices(tmp_path, 3, 10.0)
    save_slices(tmp_path, 4, 20.0)
    file = tmp_path / "step-00000004" / "optimizer-00002-of-00002.safetensors"
    damage(file)

    state = dict(checkpoint.read_newest(tmp_path))

    assert state["model/w"][0, 0] == 10
    assert f"{file} is damaged, taking the checkpoint before it" in caplog.text


def test_a_checkpoint_that_lacks_the_slices_of_a_process_gets_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARE_SECONDS", 0.05)
    state = State(3, Share(0, 2), {"model": {"w": torch.ones(1)}, "optimizer": {}, "history": {}})

    with pytest.raises(OSError, match="step-00000003: 1 of 2 processes have not written their share"):
        checkpoint.save(tmp_path, state, kept=2)
    checkpoint.sweep(tmp_path)

    assert not list(tmp_path.iterdir())


def test_weights_are_averaged_in_float64(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder, value in zip(folders, (1e8, 1.0, -1e8), strict=True):
        folder.mkdir()
        save_file({"w": torch.full((2,), value), "n": torch.tensor([value])}, folder / "model.safetensors")

    mean = average(folders)

    assert mean["w"].tolist() == pytest.approx([1 / 3] * 2)  # in float32 it would be 0
    assert mean["w"].dtype == torch.float32


def test_one_thing_is_written_at_a_time_and_what_goes_wrong_is_raised():
    writer, go, done = Writer(), Event(), []
    writer.write(lambda: (go.wait(10), done.append("first"))[0])
    busy = writer.idle_seconds
    go.set()
    writer.write(lambda: done.append("second"))
    writer.wait()
    time.sleep(0.01)

    assert busy == 0
    assert done == ["first", "second"]
    assert 0 < writer.idle_seconds < 10
    writer.write(lambda: Path("/nowhere/at/all").touch())
    with pytest.raises(OSError, match="nowhere"):
        writer.wait()


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ("--num_processes 8", "accelerate launch --num_processes 8"),
        ("--cpu", "accelerate launch --cpu"),
        ("--num_processes 2 --cpu", "-m torch.distributed.run --standalone --nproc_per_node=2"),
        (
            "--cpu --num_processes 4 --num_machines 2 --machine_rank 1 --main_process_ip a --main_process_port 5",
            "-m torch.distributed.run --nproc_per_node=2 --nnodes=2 --node_rank=1 --master_addr=a --master_port=5",
        ),
    ],
)
def test_processes_are_started_by_what_can_start_them(arguments, command):
    assert " ".join(launcher(arguments.split())).removeprefix(f"{sys.executable} ") == command
