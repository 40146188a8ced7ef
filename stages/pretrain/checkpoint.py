"""Checkpoints in scratch: all it takes to go on from a step, whole or not there at all.

    scratch/pretrain/<digest of the inputs>/
        lease                     locked by the one trainer that may write here
        step-00000120/            model.safetensors, optimizer.safetensors, history.safetensors, manifest.json
        published/step-00000200/  weights that become models/checkpoints

A checkpoint is written beside its place and renamed when every byte is on disk; the manifest holds the
digest of each file. A kill at any moment leaves whole checkpoints and a partial folder that is swept.
remote.py keeps the same on an object store, if scratch is one.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from stages.documents import describe, read_manifest, write_manifest
from stages.params import Refusal
from stages.pretrain.history import Step, from_tensors, to_tensors
from stages.process import log

KEPT = 2
PARTIAL = ".partial"
FILES = ("model.safetensors", "optimizer.safetensors", "history.safetensors")


def take_lease(folder: Path) -> IO[str]:
    """Hold `folder` for this process until the returned file is closed, or the process dies.

    Raises:
        Refusal: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lease = (folder / "lease").open("a+")
    try:
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lease.seek(0)
        holder = lease.read().strip() or "unknown"
        lease.close()
        raise Refusal(
            f"{folder} is in use by another pretrain (process {holder}); wait for it, or stop it, and run again"
        ) from None
    lease.truncate(0)
    lease.write(f"{os.getpid()}\n")
    lease.flush()
    return lease


def publish_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a partial folder, and give it the name `folder` when all of it is on disk."""
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    for path in partial.iterdir():
        _sync(path)
    _sync(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def step_folder(parent: Path, step: int) -> Path:
    """Where the state after `step` steps lies in `parent`."""
    return parent / f"step-{step:08d}"


def step_of(name: str) -> int:
    """The step that the folder `name` of a checkpoint is of."""
    return int(name.removeprefix("step-"))


def save(
    parent: Path, model: nn.Module, optimizers: list[Optimizer], steps: Sequence[Step], in_use: Collection[Path] = ()
) -> Path:
    """Write the state after these `steps`; drop all but the newest few, and those `in_use`. Return its folder."""

    def write(folder: Path) -> None:
        save_file(weights(model), folder / "model.safetensors")
        save_file(_optimizer_tensors(optimizers), folder / "optimizer.safetensors")
        save_file(to_tensors(steps), folder / "history.safetensors")
        write_manifest(folder, {"steps": len(steps)})

    folder = step_folder(parent, len(steps))
    publish_folder(folder, write)
    for old in checkpoints(parent)[KEPT:]:
        if old not in in_use:
            shutil.rmtree(old)
    return folder


def read_newest(parent: Path) -> dict[str, bytes]:
    """The files of the newest whole checkpoint, by name; none if there is no checkpoint.

    One that isn't whole is named, and the one before it is taken.
    """
    for folder in checkpoints(parent):
        if not (damage := damaged(folder)):
            return {name: (folder / name).read_bytes() for name in FILES}
        log.warning("pretrain: %s is damaged, taking the checkpoint before it", damage)
    return {}


def load(files: dict[str, bytes], model: nn.Module, optimizers: list[Optimizer]) -> list[Step]:
    """Put a checkpoint into `model` and `optimizers`; return the steps that it is of.

    Without files nothing is changed and there are no steps: training starts at step 0.
    """
    if not files:
        return []
    _set_weights(model, safetensors.torch.load(files["model.safetensors"]))
    _set_optimizer_tensors(optimizers, safetensors.torch.load(files["optimizer.safetensors"]))
    return from_tensors(safetensors.torch.load(files["history.safetensors"]))


def damaged(folder: Path) -> str | None:
    """What is wrong with the checkpoint `folder`, or None if every file has its digest."""
    try:
        entries = read_manifest(folder)["shards"]
    except Refusal:
        return f"{folder}/manifest.json"
    return next((str(folder / entry["path"]) for entry in entries if not is_whole(folder, entry)), None)


def is_whole(folder: Path, entry: dict[str, Any]) -> bool:
    """Whether the file that `entry` of a manifest is about is in `folder`, with its digest."""
    path = folder / entry["path"]
    return path.is_file() and bool(describe(path)["sha256"] == entry["sha256"])


def checkpoints(parent: Path) -> list[Path]:
    """The checkpoints in `parent`, the newest first."""
    found = [path for path in parent.glob("step-*") if path.suffix != PARTIAL]
    return sorted(found, reverse=True)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and persistent buffers of `model`, each tensor once."""
    state, seen, unique = model.state_dict(), set(), {}
    for name, tensor in state.items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            unique[name] = tensor.detach().cpu().contiguous()
        seen.add(tensor.data_ptr())
    return unique


def _set_weights(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


def _optimizer_tensors(optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """The optimizers' state as flat tensors: `<optimizer>.<parameter>.<name>`."""
    return {
        f"{number}.{index}.{name}": tensor.detach().cpu().contiguous()
        for number, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }


def _set_optimizer_tensors(optimizers: list[Optimizer], tensors: dict[str, Tensor]) -> None:
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for key, tensor in tensors.items():
        number, index, name = key.split(".", 2)
        states[int(number)].setdefault(int(index), {})[name] = tensor
    for optimizer, state in zip(optimizers, states, strict=True):
        # The groups are those of the params: a learning rate is never read out of a checkpoint.
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
