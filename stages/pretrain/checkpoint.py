"""Checkpoints in scratch: all it takes to go on from a step, whole or not there at all.

    scratch/pretrain/<digest of the inputs>/
        lease                     locked by the one trainer that may write here
        step-00000120/            model.safetensors, optimizer.safetensors, history.safetensors, manifest.json;
                                  under FSDP2 model-00001-of-00008.safetensors and so on, one of each process
        published/step-00000200/  weights that become models/checkpoints

A checkpoint is written beside its place and renamed when every byte is on disk; the manifest holds the
digest of each file. A kill at any moment leaves whole checkpoints and a partial folder that is swept.
remote.py keeps the same on an object store, if scratch is one.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from stages.documents import MANIFEST, describe, read_manifest, write_json, write_manifest
from stages.params import Refusal
from stages.pretrain.state import PARTS, State
from stages.process import log

LEASE, PARTIAL = "lease", ".partial"
SHARE_SECONDS = 600.0  # that the first process waits for the others to write their share


def take_lease(folder: Path) -> IO[str]:
    """Hold `folder` for this process until the returned file is closed, or the process dies.

    Raises:
        Refusal: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lease = (folder / LEASE).open("a+")
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
    _rename(partial, folder)


def _rename(partial: Path, folder: Path) -> None:
    """Give `partial`, whose files are on disk, the name `folder`, also in the face of a power cut."""
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


def save(parent: Path, state: State, kept: int, in_use: Callable[[], Collection[Path]] = tuple) -> Path | None:
    """Write `state`; if it is the last share, drop all but the newest `kept` checkpoints, and those `in_use`.

    Return the folder of the checkpoint; None in processes that leave it to the first one to say that it is whole.
    """
    folder = step_folder(parent, state.step)
    if state.share.count == 1:
        publish_folder(folder, lambda partial: _write_whole(partial, state))
    else:
        _write_share(folder.with_name(folder.name + PARTIAL), state)
        if state.share.number:
            return None
        _join_shares(folder, state)
    for old in checkpoints(parent)[kept:]:
        if old not in in_use():
            shutil.rmtree(old)
    return folder


def _write_whole(folder: Path, state: State) -> None:
    for part, tensors in state.parts.items():
        save_file(tensors, folder / f"{part}.safetensors")
    write_manifest(folder, {"steps": state.step})


def _write_share(partial: Path, state: State) -> None:
    """Write this process's slices into the folder that all processes see, and a note that they are on disk."""
    partial.mkdir(parents=True, exist_ok=True)
    number, count = state.share.number + 1, state.share.count
    entries = []
    for part, tensors in state.parts.items():
        path = partial / f"{part}-{number:05d}-of-{count:05d}.safetensors"
        save_file(tensors, path)
        _sync(path)
        entries.append(describe(path))
    write_json(_note(partial, state.share.number), entries)


def _join_shares(folder: Path, state: State) -> None:
    """Give the checkpoint its name when the shares of all processes are on disk.

    The processes tell each other by files: their other ways are taken by the training, which goes on.

    Raises:
        OSError: if a share is missing for long: another process died, or doesn't see this folder.
    """
    partial = folder.with_name(folder.name + PARTIAL)
    notes = [_note(partial, number) for number in range(state.share.count)]
    begin = time.monotonic()
    while missing := [note for note in notes if not note.is_file()]:
        if time.monotonic() - begin > SHARE_SECONDS:
            raise OSError(f"{folder.name}: {len(missing)} of {len(notes)} processes have not written their share")
        time.sleep(0.01)
    shards = [entry for note in notes for entry in json.loads(note.read_text(encoding="utf-8"))]
    write_json(partial / MANIFEST, {"counts": {"steps": state.step}, "shards": shards})
    for note in notes:
        note.unlink()
    _rename(partial, folder)


def _note(partial: Path, number: int) -> Path:
    return partial / f".share-{number:05d}.json"


def sweep(parent: Path) -> None:
    """Remove what a killed training left half written."""
    for path in (*parent.glob(f"step-*{PARTIAL}"), *parent.glob(f"published/step-*{PARTIAL}")):
        shutil.rmtree(path)


def read_newest(parent: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the newest whole checkpoint, each whole and by its name; none if there is no checkpoint.

    One that isn't whole is named, and the one before it is taken.
    """
    for folder in checkpoints(parent):
        if not (damage := damaged(folder)):
            yield from read(folder)
            return
        log.warning("pretrain: %s is damaged, taking the checkpoint before it", damage)


def read(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the checkpoint `folder`, each whole and by its name (state.py): one at a time is in memory."""
    for part in PARTS:
        with ExitStack() as open_files:
            paths = sorted([*folder.glob(f"{part}.safetensors"), *folder.glob(f"{part}-*.safetensors")])
            files = [open_files.enter_context(safe_open(path, "pt")) for path in paths]
            holders: dict[str, list[Any]] = {}
            for file in files:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    holders.setdefault(name, []).append(file)
            for name, held in holders.items():
                slices = [file.get_tensor(name) for file in held]
                yield f"{part}/{name}", torch.cat(slices) if len(slices) > 1 else slices[0]


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
