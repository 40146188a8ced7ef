"""The training loop. Accelerate places the model; the data, their order and the state are ours.

Step s trains on the samples [s·B, (s + 1)·B) of stages/order.py, whatever the number of processes;
so a resumed run is the run that it continues.
"""

import hashlib
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import torch
import transformers

from stages.documents import read_manifest, source_folders, write_json
from stages.params import load_mixture, load_params, read_params
from stages.pretrain import checkpoint, guard, memory, numerics
from stages.pretrain.card import write_card
from stages.pretrain.curve import smooth, write_curve
from stages.pretrain.model import (
    count_parameters,
    flops_per_token,
    write_base,
    write_weights,
)
from stages.pretrain.parallel import any_of_us, start_accelerate
from stages.pretrain.params import PretrainParams
from stages.pretrain.progress import Progress
from stages.pretrain.trainer import TOKENIZER, TOKENS, Trainer
from stages.process import log, run
from stages.settings import settings

if TYPE_CHECKING:
    from stages.pretrain.remote import Remote

ROOM = Path(__file__).resolve().parents[1]
COME_AGAIN = 75  # EX_TEMPFAIL: the flow runs the stage again
CODE = (ROOM / "pretrain", ROOM / "order.py", ROOM / "tokens.py")


def main() -> None:
    """Train the base model of params.yaml, from the newest checkpoint in scratch if there is one."""
    params, mixture = load_params(PretrainParams, "pretrain"), load_mixture()
    numerics.pin(params)
    if settings().launch and "ACCELERATE_MIXED_PRECISION" not in os.environ:
        os.execvp("accelerate", ["accelerate", "launch", *shlex.split(settings().launch), "-m", "stages.pretrain"])
    memory.keep()
    accelerator = start_accelerate(params)
    scratch = settings().scratch_folder / "pretrain" / fingerprint()
    with held(scratch) if accelerator.is_main_process else nullcontext() as remote:
        trainer = Trainer(params, mixture, accelerator)
        train(trainer, scratch, remote)
        if accelerator.is_main_process:
            write_outs(trainer, scratch)
    accelerator.end_training()


@contextmanager
def held(scratch: Path) -> "Iterator[Remote | None]":
    """Hold `scratch` for this process, and its place on an object store if it has one.

    What is newer there is here then.

    Raises:
        Refusal: if another trainer holds it.
    """
    with checkpoint.take_lease(scratch) as lock:
        if not (url := settings().scratch_url):
            yield None
            return
        from stages.pretrain.remote import Unreachable, held_remote  # its client takes half a second to load

        try:
            with held_remote(f"{url}/pretrain/{scratch.name}", scratch, lock) as remote:
                remote.fetch()
                yield remote
        except Unreachable as error:
            log.error("error: %s; run again when it does", error)
            sys.exit(COME_AGAIN)


def fingerprint() -> str:
    """The digest of all that the result depends on: params, tokens, tokenizer, code, libraries."""
    params = read_params()
    parts = [json.dumps({name: params[name] for name in ("pretrain", "mixture")}, sort_keys=True)]
    for folder in [*source_folders(TOKENS).values(), TOKENIZER]:
        parts.append(json.dumps(read_manifest(folder)["shards"], sort_keys=True))  # noqa: PERF401
    files = [file for place in CODE for file in sorted([*place.glob("*.py")] or [place])]
    parts += [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    parts += [torch.__version__, transformers.__version__]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def train(trainer: Trainer, scratch: Path, remote: "Remote | None" = None) -> None:
    """Bring `trainer` to the end of its budget, with checkpoints in `scratch` (and `remote`) on the way.

    SIGTERM ends it after the step at hand with a checkpoint and exit code 75. So does the loss of `remote` to
    another trainer, which then has the checkpoints that count.
    """
    params, stop = trainer.params, catch_sigterm()
    # The first process has the checkpoints; the others may be on nodes with another disk.
    trainer.resume(checkpoint.read_newest(scratch) if trainer.accelerator.is_main_process else {})
    if trainer.steps:
        log.info("pretrain: going on after step %d, from %s", len(trainer.steps), scratch)
    progress = Progress(trainer)
    saved = time.monotonic()
    while len(trainer.steps) < params.steps:
        first = len(trainer.steps) * params.samples_per_step
        step = trainer.train_step(range(first, first + params.samples_per_step), settings().micro_batch)
        trainer.steps.append(step)
        guard.check(trainer.steps, params.guard, trainer.documents)
        done = len(trainer.steps)
        progress.report(step.loss)
        lost = remote is not None and remote.lost
        ending = any_of_us(trainer.accelerator, stop.is_set or lost)
        due = time.monotonic() - saved >= settings().checkpoint_seconds or done == params.steps or ending
        publish_now = params.checkpoint_steps and done % params.checkpoint_steps == 0
        if trainer.accelerator.is_main_process:
            if publish_now:
                publish_weights(trainer, scratch / "published")
            if due:
                in_use = remote.in_use if remote else ()
                newest = checkpoint.save(scratch, trainer.model, trainer.optimizers, trainer.steps, in_use)
                if remote:
                    remote.send(newest)
                saved = time.monotonic()
        if ending and done < params.steps:
            if lost:
                log.warning("pretrain: another trainer has taken over %s", scratch)
            log.warning("pretrain: stopped after step %d; run again to go on", done)
            sys.exit(COME_AGAIN)


class catch_sigterm:  # noqa: N801 - reads as a verb where it is used
    """Remembers SIGTERM, so that the loop ends between two steps."""

    def __init__(self) -> None:
        self.is_set = False
        signal.signal(signal.SIGTERM, self._set)

    def _set(self, _signal: int, _frame: FrameType | None) -> None:
        self.is_set = True


def publish_weights(trainer: Trainer, folder: Path) -> None:
    """Write the weights after this step into `folder`, to be published at the end."""
    checkpoint.publish_folder(
        checkpoint.step_folder(folder, len(trainer.steps)),
        lambda partial: write_weights(trainer.model, trainer.config, partial),
    )


def write_outs(trainer: Trainer, scratch: Path) -> None:
    """Write the base model with its card, the published checkpoints, metrics and curve."""
    params = trainer.params
    base, published = Path("models/base"), Path("models/checkpoints")
    for folder in (base, published):
        shutil.rmtree(folder, ignore_errors=True)
    published.mkdir(parents=True)
    write_base(trainer.model, trainer.config, TOKENIZER, base)
    for folder in sorted((scratch / "published").glob("step-*")):
        if folder.suffix != checkpoint.PARTIAL:
            shutil.copytree(folder, published / folder.name)
    losses = [step.loss for step in trainer.steps]
    skipped = sum(step.skipped for step in trainer.steps)
    smoothed = smooth(losses)
    tokens = params.steps * params.tokens_per_step
    drawn = trainer.order.drawn(params.steps * params.samples_per_step)
    metrics = {
        "parameters": count_parameters(trainer.model),
        "tokens": tokens,
        "steps": params.steps,
        "skipped_steps": skipped,
        "loss": round(smoothed[-1], 4),
        "flops": flops_per_token(trainer.model, trainer.config, params.sequence_length) * tokens,
        "epochs": {name: round(count / trainer.order.windows[name], 4) for name, count in drawn.items()},
    }
    write_json(Path("metrics/pretrain.json"), metrics)
    write_card(base, TOKENS, trainer.order, params, metrics)
    write_curve(losses, smoothed, params.tokens_per_step, Path("plots/loss.csv"))
    log.info("pretrain: %d tokens, loss %.3f, in %s", tokens, smoothed[-1], base)


if __name__ == "__main__":
    run(main)
