"""The training loop. Accelerate places the model; the data, their order and the state are ours.

Step s trains on the samples [s·B, (s + 1)·B) of stages/order.py, whatever the number of processes;
so a resumed run is the run that it continues.
"""

import hashlib
import json
import math
import os
import shlex
import shutil
import signal
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from transformers import PretrainedConfig

from stages.documents import publish, read_manifest, source_folders, write_json
from stages.order import Order
from stages.params import Refusal, load_mixture, load_params, read_params
from stages.pretrain import batches, checkpoint
from stages.pretrain.model import (
    build_config,
    build_model,
    count_parameters,
    flops_per_token,
    write_base,
    write_weights,
)
from stages.pretrain.optimizer import build_optimizers, rate_factor, set_rates
from stages.pretrain.params import PretrainParams
from stages.process import REPORT_EVERY_SECONDS, log, run
from stages.settings import settings
from stages.tokens import load_mask_token, load_tokenizer

TOKENIZER = Path("models/tokenizer")
ROOM = Path(__file__).resolve().parents[1]
COME_AGAIN = 75  # EX_TEMPFAIL: the flow runs the stage again
SMOOTHED_OVER = 0.95
CODE = (ROOM / "pretrain", ROOM / "order.py", ROOM / "tokens.py")


class Trainer:
    """A training: what it is made of, and the losses of the steps done so far."""

    def __init__(self, params: PretrainParams, mixture: dict[str, float], accelerator: Accelerator) -> None:
        tokenizer, separator = load_tokenizer(TOKENIZER)
        self.params, self.accelerator = params, accelerator
        self.vocabulary = tokenizer.get_vocab_size()
        self.mask = load_mask_token(TOKENIZER) if params.objective == "masked" else None
        self.streams = batches.open_streams(source_folders(Path("data/tokenize")))
        self.order: Order = batches.order_of(self.streams, mixture, params)
        self.config: PretrainedConfig = build_config(params, self.vocabulary, separator)
        self.model: nn.Module = build_model(self.config, params)
        self.optimizers: list[Optimizer] = build_optimizers(self.model, params.optimizer)
        self.losses: list[float] = []
        self.wrapped: nn.Module = accelerator.prepare_model(self.model)

    def batch(self, numbers: range) -> tuple[Tensor, Tensor]:
        """Inputs and targets of these samples, on the device."""
        params = self.params
        samples = batches.read_samples(self.streams, self.order, numbers, params.sequence_length)
        if self.mask is None:
            inputs, targets = batches.causal(samples)
        else:
            inputs, targets = batches.masked(
                samples, numbers, params.masked_share, self.mask, self.vocabulary, params.seed
            )
        return inputs.to(self.accelerator.device), targets.to(self.accelerator.device)

    def targets_per_step(self) -> int:
        """Tokens that count in the loss of a step, over all processes."""
        params = self.params
        each = params.sequence_length
        if params.objective == "masked":
            each = batches.masked_per_sample(params.sequence_length, params.masked_share)
        return each * params.samples_per_step

    def train_step(self, numbers: range, micro_batch: int) -> float:
        """One optimizer step on the samples `numbers`; the mean loss (nats) of its target tokens.

        The gradient is the sum over tokens divided by the step's number of targets, so that it
        doesn't depend on how the step is cut into processes and micro-batches.
        """
        params, world = self.params, self.accelerator.num_processes
        mine = numbers[self.accelerator.process_index :: world]
        parts = [mine[begin : begin + micro_batch] for begin in range(0, len(mine), micro_batch)]
        set_rates(self.optimizers, rate_factor(len(self.losses), params.steps, params.schedule))
        total = torch.zeros((), device=self.accelerator.device)
        for part in parts:
            inputs, targets = self.batch(part)
            whole = part is parts[-1]
            with self.accelerator.autocast(), _synchronized(self.accelerator, self.wrapped, whole):
                logits_BTV = self.wrapped(input_ids=inputs).logits
                nats = cross_entropy(logits_BTV.flatten(0, 1).float(), targets.flatten(), reduction="sum")
                loss = nats / self.targets_per_step()
                self.accelerator.backward(loss * world)  # DDP takes the mean over processes
            total += loss.detach()
        if params.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), params.gradient_clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(self.accelerator.reduce(total, "sum"))


def _synchronized(accelerator: Accelerator, model: nn.Module, whole: bool) -> AbstractContextManager[Any]:
    """Gradients travel between processes with the last micro-batch only."""
    return nullcontext() if whole else accelerator.no_sync(model)


def main() -> None:
    """Train the base model of params.yaml, from the newest checkpoint in scratch if there is one."""
    if settings().launch and "ACCELERATE_MIXED_PRECISION" not in os.environ:
        os.execvp("accelerate", ["accelerate", "launch", *shlex.split(settings().launch), "-m", "stages.pretrain"])
    params, mixture = load_params(PretrainParams, "pretrain"), load_mixture()
    accelerator = start_accelerate(params)
    scratch = settings().scratch / "pretrain" / fingerprint()
    lease = checkpoint.take_lease(scratch) if accelerator.is_main_process else None
    trainer = Trainer(params, mixture, accelerator)
    train(trainer, scratch)
    if accelerator.is_main_process:
        write_outs(trainer, scratch)
    if lease:
        lease.close()
    accelerator.end_training()


def start_accelerate(params: PretrainParams) -> Accelerator:
    """Accelerate on the devices at hand, computing deterministically.

    Raises:
        Refusal: if the samples of a step can't be divided evenly among the processes.
    """
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # 6% of the time
    torch.set_num_threads(params.threads)
    precision = {"fp32": "no", "bf16": "bf16", "auto": "bf16" if has_bf16() else "no"}[params.precision]
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
    if params.samples_per_step % accelerator.num_processes:
        raise Refusal(
            f"params.yaml: pretrain.tokens_per_step gives {params.samples_per_step} samples a step, which "
            f"{accelerator.num_processes} processes can't share evenly; change it, or PEDIGREE_LAUNCH"
        )
    return accelerator


def has_bf16() -> bool:
    """Whether this processor multiplies bf16 in hardware; without, bf16 is many times slower than fp32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported()) or bool(torch.cpu._is_amx_tile_supported())


def fingerprint() -> str:
    """The digest of all that the result depends on: params, tokens, tokenizer, code, libraries."""
    params = read_params()
    parts = [json.dumps({name: params[name] for name in ("pretrain", "mixture")}, sort_keys=True)]
    for folder in [*source_folders(Path("data/tokenize")).values(), TOKENIZER]:
        parts.append(json.dumps(read_manifest(folder)["shards"], sort_keys=True))  # noqa: PERF401
    files = [file for place in CODE for file in sorted([*place.glob("*.py")] or [place])]
    parts += [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    parts += [torch.__version__, transformers.__version__]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def train(trainer: Trainer, scratch: Path) -> None:
    """Bring `trainer` to the end of its budget, with checkpoints in `scratch` on the way.

    SIGTERM ends it after the step at hand with a checkpoint and exit code 75.
    """
    params, stop = trainer.params, catch_sigterm()
    trainer.losses = checkpoint.load_newest(scratch, trainer.model, trainer.optimizers)
    if trainer.losses:
        log.info("pretrain: going on after step %d, from %s", len(trainer.losses), scratch)
    progress = Progress(trainer)
    saved = time.monotonic()
    while len(trainer.losses) < params.steps:
        first = len(trainer.losses) * params.samples_per_step
        loss = trainer.train_step(range(first, first + params.samples_per_step), settings().micro_batch)
        if not math.isfinite(loss):
            raise Refusal(
                f"pretrain: the loss of step {len(trainer.losses)} is {loss}; lower pretrain.optimizer.learning_rate "
                f"or pretrain.gradient_clip in params.yaml"
            )
        trainer.losses.append(loss)
        done = len(trainer.losses)
        progress.report(loss)
        due = time.monotonic() - saved >= settings().checkpoint_seconds or done == params.steps or stop.is_set
        publish_now = params.checkpoint_steps and done % params.checkpoint_steps == 0
        if trainer.accelerator.is_main_process:
            if publish_now:
                publish_weights(trainer, scratch / "published")
            if due:
                checkpoint.save(scratch, trainer.model, trainer.optimizers, trainer.losses)
                saved = time.monotonic()
        if stop.is_set and done < params.steps:
            log.warning("pretrain: stopped after step %d; run again to go on", done)
            sys.exit(COME_AGAIN)


class catch_sigterm:  # noqa: N801 - reads as a verb where it is used
    """Remembers SIGTERM, so that the loop ends between two steps."""

    def __init__(self) -> None:
        self.is_set = False
        signal.signal(signal.SIGTERM, self._set)

    def _set(self, _signal: int, _frame: FrameType | None) -> None:
        self.is_set = True


class Progress:
    """Says every few seconds where the training is, how fast, and how long it will take."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.first = trainer, len(trainer.losses)
        self.begin = self.said = time.monotonic()
        size = count_parameters(trainer.model)
        log.info(
            "pretrain: %.2fM parameters, %d steps of %d tokens",
            size / 1e6,
            trainer.params.steps,
            trainer.params.tokens_per_step,
        )

    def report(self, loss: float) -> None:
        """One line, if the last one is some seconds old."""
        params, now, done = self.trainer.params, time.monotonic(), len(self.trainer.losses)
        if now - self.said < REPORT_EVERY_SECONDS or not self.trainer.accelerator.is_main_process:
            return
        self.said = now
        rate = (done - self.first) * params.tokens_per_step / (now - self.begin)
        left = (params.steps - done) * params.tokens_per_step / rate
        log.info(
            "pretrain: step %d of %d, %.2fM tokens, loss %.3f, learning rate at %.0f%%, %.0f tokens/s, %.0f s left",
            done, params.steps, done * params.tokens_per_step / 1e6, loss,
            100 * rate_factor(done - 1, params.steps, params.schedule), rate, left,
        )  # fmt: skip


def publish_weights(trainer: Trainer, folder: Path) -> None:
    """Write the weights after this step into `folder`, to be published at the end."""
    checkpoint.publish_folder(
        checkpoint.step_folder(folder, len(trainer.losses)),
        lambda partial: write_weights(trainer.model, trainer.config, partial),
    )


def write_outs(trainer: Trainer, scratch: Path) -> None:
    """Write the base model, the published checkpoints, metrics and curve."""
    params = trainer.params
    base, published = Path("models/base"), Path("models/checkpoints")
    for folder in (base, published):
        shutil.rmtree(folder, ignore_errors=True)
    published.mkdir(parents=True)
    write_base(trainer.model, trainer.config, TOKENIZER, base)
    for folder in sorted((scratch / "published").glob("step-*")):
        if folder.suffix != checkpoint.PARTIAL:
            shutil.copytree(folder, published / folder.name)
    smoothed = smooth(trainer.losses)
    tokens = params.steps * params.tokens_per_step
    drawn = trainer.order.drawn(params.steps * params.samples_per_step)
    write_json(
        Path("metrics/pretrain.json"),
        {
            "parameters": count_parameters(trainer.model),
            "tokens": tokens,
            "steps": params.steps,
            "loss": round(smoothed[-1], 4),
            "flops": flops_per_token(trainer.model, trainer.config, params.sequence_length) * tokens,
            "epochs": {name: round(count / trainer.order.windows[name], 4) for name, count in drawn.items()},
        },
    )
    write_curve(trainer.losses, smoothed, params.tokens_per_step, Path("plots/loss.csv"))
    log.info("pretrain: %d tokens, loss %.3f, in %s", tokens, smoothed[-1], base)


def smooth(losses: list[float]) -> list[float]:
    """The exponential moving average of `losses`, without the bias of its start."""
    averages, average = [], 0.0
    for step, loss in enumerate(losses, start=1):
        average = SMOOTHED_OVER * average + (1 - SMOOTHED_OVER) * loss
        averages.append(average / (1 - SMOOTHED_OVER**step))
    return averages


def write_curve(losses: list[float], smoothed: list[float], tokens_per_step: int, path: Path) -> None:
    """Write loss by step and tokens as CSV, which `dvc plots` draws."""
    rows = [
        f"{step},{step * tokens_per_step},{loss:.4f},{average:.4f}"
        for step, (loss, average) in enumerate(zip(losses, smoothed, strict=True), start=1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("\n".join(["step,tokens,loss,smoothed", *rows]) + "\n", encoding="utf-8")
    publish(partial, path)


if __name__ == "__main__":
    run(main)
