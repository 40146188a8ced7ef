"""The training loop. Accelerate places the model; the data, their order and the state are ours.

Step s trains on the samples [s·B, (s + 1)·B) of stages/order.py, whatever the number of processes;
so a resumed run is the run that it continues.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor

from stages.documents import read_manifest, source_folders, write_json
from stages.mixture import load_mixture
from stages.order import WORTHWHILE_EPOCHS
from stages.params import load_params, read_params
from stages.pretrain import checkpoint, guard, memory, numerics
from stages.pretrain.averaging import average
from stages.pretrain.card import read_facts, write_card
from stages.pretrain.curve import smooth, write_curve
from stages.pretrain.fitting import largest_that_fits
from stages.pretrain.launch import COME_AGAIN, is_launched, launch, told
from stages.pretrain.model import architecture, count_parameters, flops_per_token, write_base
from stages.pretrain.parallel import any_of_each, start_accelerate
from stages.pretrain.params import PretrainParams
from stages.pretrain.profiler import Profiler, read_window
from stages.pretrain.progress import Progress
from stages.pretrain.ranges import StoreAway
from stages.pretrain.saver import Saver
from stages.pretrain.signals import Stop
from stages.pretrain.state import whole_weights
from stages.pretrain.streaming import tokens_folder
from stages.pretrain.trackers import trackable
from stages.pretrain.trainer import TOKENIZER, Trainer
from stages.pretrain.trunk import Trunk, trunk_sections, trunk_step
from stages.pretrain.watchdog import Watchdog
from stages.process import log, run
from stages.settings import settings

if TYPE_CHECKING:
    from stages.pretrain.remote import Remote

ROOM = Path(__file__).resolve().parents[1]
CODE = (ROOM / "pretrain", ROOM / "mixture.py", ROOM / "order.py", ROOM / "tokens.py")


def main() -> None:
    """Train the base model of params.yaml, from the newest checkpoint in scratch if there is one."""
    params, mixture = load_params(PretrainParams, "pretrain"), load_mixture()
    numerics.pin(params)
    if settings().launch and not is_launched():
        sys.exit(launch(settings().launch))
    memory.keep()
    accelerator = start_accelerate(params)
    tokens = tokens_folder(settings().scratch_folder)
    sections = {name: read_params()[name] for name in ("pretrain", "mixture")}
    scratch = settings().scratch_folder / "pretrain" / fingerprint(sections, tokens)
    with held(scratch) if accelerator.is_main_process else nullcontext() as remote:
        accelerator.init_trackers("pedigree", trackable(params))
        trainer = Trainer(params, mixture, accelerator, tokens)
        shared = fingerprint(trunk_sections(sections["pretrain"], trainer.order), tokens)
        trunk = Trunk(settings().scratch_folder / "trunks" / shared, trunk_step(params))
        try:
            train(trainer, scratch, trunk, remote)
        except StoreAway as error:
            log.error("error: %s; run again when it answers", error)
            sys.exit(COME_AGAIN)
        weights = whole_weights(trainer.model, accelerator.is_main_process)
        if accelerator.is_main_process:
            write_outs(trainer, scratch, weights, tokens)
    # DDP's reducer goes before the group of processes: as the last that holds it, it would wait for a thread of the
    # group while that waits for Python.
    del trainer
    accelerator.free_memory()
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


def fingerprint(sections: Mapping[str, Any], tokens: Path) -> str:
    """The digest of all that the result depends on: `sections` of params.yaml, tokens, tokenizer, code, libraries."""
    parts = [json.dumps(sections, sort_keys=True)]
    for folder in [*source_folders(tokens).values(), TOKENIZER]:
        parts.append(json.dumps(read_manifest(folder)["shards"], sort_keys=True))  # noqa: PERF401
    files = [file for place in CODE for file in sorted([*place.glob("*.py")] or [place])]
    parts += [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    parts += [torch.__version__, transformers.__version__]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def train(trainer: Trainer, scratch: Path, trunk: Trunk, remote: "Remote | None" = None) -> None:
    """Bring `trainer` to the end of its budget, with checkpoints in `scratch` (and `remote`) on the way.

    If there are none it begins from `trunk`, where another budget has been before.

    SIGTERM and SIGUSR1 end it after the step at hand with a checkpoint and exit code 75. So does the loss of `remote`
    to another trainer, which then has the checkpoints that count.
    """
    params, here, stop = trainer.params, settings(), Stop()
    main = trainer.accelerator.is_main_process
    if main:
        trunk.give(scratch)
    # The first process has the checkpoints; the others may be on nodes with another disk.
    trainer.resume(checkpoint.read_newest(scratch) if main else ())
    for name, epochs in trainer.epochs().items():
        if main and epochs > WORTHWHILE_EPOCHS:
            log.warning("pretrain: %s is seen %.1f times; past %d, more teaches less", name, epochs, WORTHWHILE_EPOCHS)
    if trainer.steps:
        log.info("pretrain: going on after step %d, from %s", len(trainer.steps), scratch)
    micro_batch = largest_that_fits(trainer) if here.micro_batch == "auto" else here.micro_batch
    saver = Saver(trainer, scratch, trunk, remote)
    progress = Progress(trainer)
    profiler = Profiler(read_window(here.profile), scratch, trainer.accelerator.process_index)
    with Watchdog(here.hang_seconds) as watchdog:
        while (done := len(trainer.steps)) < params.steps:
            profiler.before_step(done)
            first = done * params.samples_per_step
            numbers = range(first, first + params.samples_per_step)
            trainer.expect(range(numbers.stop, numbers.stop + params.samples_per_step))
            trainer.steps.append(trainer.train_step(numbers, micro_batch))
            guard.check(trainer.steps, params.guard, trainer.documents)
            watchdog.step_ended()
            lost = remote is not None and remote.lost
            due = saver.idle_seconds >= here.checkpoint_seconds
            ending, due = any_of_each(trainer.accelerator, stop.asked or lost, due)
            last = ending or len(trainer.steps) == params.steps
            profiler.after_step(done, last)
            progress.report()
            if params.publishes(done + 1):
                saver.publish()
            if due or last or done + 1 == trunk.step:
                saver.save()
            if ending and done + 1 < params.steps:
                break
        saver.wait()
    if len(trainer.steps) < params.steps:
        if lost:
            log.warning("pretrain: another trainer has taken over %s", scratch)
        log.warning("pretrain: stopped after step %d; run again to go on", len(trainer.steps))
        sys.exit(COME_AGAIN)


def write_outs(trainer: Trainer, scratch: Path, weights: dict[str, Tensor], tokens: Path) -> None:
    """Write the base model with its card, the published checkpoints, metrics and curve."""
    params = trainer.params
    base, published = Path("models/base"), Path("models/checkpoints")
    for folder in (base, published):
        shutil.rmtree(folder, ignore_errors=True)
    published.mkdir(parents=True)
    folders = [folder for folder in checkpoint.checkpoints(scratch / "published")[::-1] if folder.is_dir()]
    for folder in folders:
        shutil.copytree(folder, published / folder.name)
    averaged = folders[-params.average_last :] if params.average_last else []
    write_base(average(averaged) if averaged else weights, architecture(trainer.model), trainer.config, TOKENIZER, base)
    seen = params.steps * params.tokens_per_step
    loss = smooth([step.loss for step in trainer.steps])[-1]
    metrics = {
        "parameters": count_parameters(trainer.model),
        "tokens": seen,
        "steps": params.steps,
        "skipped_steps": sum(step.skipped for step in trainer.steps),
        "loss": round(loss, 4),
        "flops": flops_per_token(trainer.model, trainer.config, params.sequence_length) * seen,
        "epochs": {name: round(epochs, 4) for name, epochs in trainer.epochs().items()},
    }
    write_json(Path("metrics/pretrain.json"), metrics)
    steps = [checkpoint.step_of(folder.name) for folder in averaged]
    write_card(base, read_facts(base, tokens, trainer.order, params, metrics, steps))
    write_curve(trainer.steps, params.tokens_per_step, Path("plots/loss.csv"))
    log.info("pretrain: %d tokens, loss %.3f, in %s", seen, loss, base)


if __name__ == "__main__":
    with told():
        run(main)
