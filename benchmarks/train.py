"""The training step beside a hand-written loop and transformers' Trainer: one model, data, optimizer and precision.

    python -m benchmarks.train              # prints ratios; more is faster
    python -m benchmarks.train --profile    # where a step's time goes, by operator

Needs the token shards of the starter corpus (`make repro`). Each side is a process of its own that has made its model
and its first steps before the clock starts; then they take turns of a few steps, so that whatever else the machine
does befalls all of them. The peers have PyTorch's defaults; this program computes deterministically.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from stages.documents import source_folders
from stages.mixture import load_mixture
from stages.params import load_params, parse_params
from stages.pretrain import checkpoint, memory
from stages.pretrain.model import build_config, build_model, compiles_here
from stages.pretrain.optimizer import rate_factor
from stages.pretrain.parallel import start_accelerate
from stages.pretrain.params import PretrainParams
from stages.pretrain.state import Share, snapshot
from stages.pretrain.streaming import TOKENS
from stages.pretrain.trainer import TOKENIZER, Trainer
from stages.process import run
from stages.settings import settings
from stages.tokens import load_tokenizer

ROUNDS = 15
TURN = 4  # steps of a side before it is another's turn
WARM_UP = 8  # steps
STARTS = 3
RATE, BETAS, DECAY = 3e-3, (0.9, 0.95), 0.1


def parameters() -> PretrainParams:
    """Those of params.yaml, but with AdamW, which all sides have."""
    values = load_params(PretrainParams, "pretrain").model_dump(mode="json")
    adamw = {"name": "adamw", "learning_rate": RATE, "beta1": BETAS[0], "beta2": BETAS[1], "weight_decay": DECAY}
    return parse_params(PretrainParams, values | {"optimizer": adamw}, "pretrain")


def ours(params: PretrainParams) -> Iterator[None]:
    """A step of this program each time it is asked."""
    memory.keep()
    trainer = Trainer(params, load_mixture(), start_accelerate(params), TOKENS)
    while True:
        first = len(trainer.steps) * params.samples_per_step
        numbers = range(first, first + params.samples_per_step)
        trainer.steps.append(trainer.train_step(numbers, params.samples_per_step))
        yield


def compiled(params: PretrainParams) -> Iterator[None]:
    """A step of this program with compiled layers, which need a C++ compiler."""
    return ours(params.model_copy(update={"compile": True}))


def peer_model(params: PretrainParams) -> torch.nn.Module:
    """The same model as ours."""
    tokenizer, separator = load_tokenizer(TOKENIZER)
    torch.set_num_threads(params.threads)
    return build_model(build_config(params.model or {}, tokenizer.get_vocab_size(), separator), params)


def tokens_of_all() -> np.ndarray[Any, np.dtype[np.uint16]]:
    """All tokens of all sources in one array."""
    shards = [path for folder in source_folders(TOKENS).values() for path in sorted(folder.glob("*.bin"))]
    return np.concatenate([np.fromfile(path, np.uint16) for path in shards])


def handwritten(params: PretrainParams) -> Iterator[None]:
    """A step of a plain loop, as nanoGPT's: random windows, logits of all tokens, clipping, fused AdamW, cosine."""
    model, tokens, length = peer_model(params), tokens_of_all(), params.sequence_length
    groups = [
        {"params": [each for each in model.parameters() if each.ndim >= 2], "weight_decay": DECAY},
        {"params": [each for each in model.parameters() if each.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, fused=True)
    for step in count():
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate_factor(step % params.steps, params.steps, params.schedule)
        at = torch.randint(len(tokens) - length - 1, (params.samples_per_step,)).tolist()
        inputs = torch.stack([torch.from_numpy(tokens[place : place + length].astype(np.int64)) for place in at])
        targets = torch.stack(
            [torch.from_numpy(tokens[place + 1 : place + 1 + length].astype(np.int64)) for place in at]
        )
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


class Windows(Dataset[dict[str, torch.Tensor]]):
    """Windows of the tokens, as transformers' Trainer takes them."""

    def __init__(self, length: int) -> None:
        self.tokens, self.length = tokens_of_all(), length

    def __len__(self) -> int:
        return len(self.tokens) // self.length

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        begin = number * self.length
        window = torch.from_numpy(self.tokens[begin : begin + self.length].astype(np.int64))
        return {"input_ids": window, "labels": window}


class Turns(transformers.TrainerCallback):  # type: ignore[misc]
    """Waits for its turn between two steps."""

    def __init__(self, turns: Iterator[None]) -> None:
        self.turns = turns

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """One step is done."""
        next(self.turns)


def with_trainer(params: PretrainParams, turns: Iterator[None]) -> None:
    """Train with transformers.Trainer until `turns` ends the process."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, use_cpu=True, max_steps=100_000, per_device_train_batch_size=params.samples_per_step,
            learning_rate=RATE, adam_beta1=BETAS[0], adam_beta2=BETAS[1], weight_decay=DECAY, max_grad_norm=1.0,
            optim="adamw_torch_fused", lr_scheduler_type="cosine", save_strategy="no", report_to="none",
            disable_tqdm=True, logging_steps=100,
        )  # fmt: skip
        trainer = transformers.Trainer(
            peer_model(params), arguments, train_dataset=Windows(params.sequence_length), callbacks=[Turns(turns)]
        )
        trainer.train()


def answering() -> Iterator[None]:
    """To be advanced once a step: answers each line on stdin with the seconds that TURN steps took."""
    for _ in range(WARM_UP):
        yield
    for _ in sys.stdin:
        begin = time.perf_counter()
        for _ in range(TURN):
            yield
        print(json.dumps(time.perf_counter() - begin), flush=True)
    os._exit(0)


def take_turns(side: str) -> None:
    """Be one side, until stdin ends."""
    params, turns = parameters(), answering()
    next(turns)
    if side == "trainer":
        with_trainer(params, turns)
        return
    for _ in {"ours": ours, "compiled": compiled, "handwritten": handwritten}[side](params):
        next(turns)


def compare() -> dict[str, list[float]]:
    """The seconds of each side's turns."""
    command = [sys.executable, "-m", "benchmarks.train", "--side"]
    names = ("ours", *["compiled"] * compiles_here(), "handwritten", "trainer")
    sides = {
        side: subprocess.Popen([*command, side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for side in names
    }
    took: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(ROUNDS + 1):
        for side, process in sides.items():
            print(file=process.stdin, flush=True)
            answer = next((line for line in process.stdout or () if line[0].isdigit()), None)
            if answer is None:
                raise RuntimeError(f"{side} ended with {process.wait()}; run it alone (--side {side}) to see why")
            if number:  # the first turn waits for the start of all
                took[side].append(float(answer))
    for process in sides.values():
        process.kill()
        process.wait()
    return took


def checkpoint_share(params: PretrainParams) -> tuple[float, float]:
    """Seconds that a checkpoint takes, and which share of the time that is by the default setting.

    It is written beside the training, so this is the most that it can cost.
    """
    trainer = Trainer(params, load_mixture(), start_accelerate(params), TOKENS)
    trainer.steps.append(trainer.train_step(range(params.samples_per_step), params.samples_per_step))
    took = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for _ in range(5):
            begin = time.perf_counter()
            state = snapshot(trainer.model, trainer.optimizers, trainer.steps * params.steps, Share())
            checkpoint.save(Path(folder), state, settings().kept_checkpoints)
            took.append(time.perf_counter() - begin)
    return median(took), median(took) / settings().checkpoint_seconds


def start_seconds() -> float:
    """From the command to the checkpoint of the first step."""
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        environment = os.environ | {"PEDIGREE_SCRATCH": scratch, "PEDIGREE_CHECKPOINT_SECONDS": "0"}
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "stages.pretrain"], env=environment, stderr=subprocess.DEVNULL
        )  # fmt: skip
        while not list(Path(scratch).glob("pretrain/*/step-????????")):
            if process.poll() is not None:
                raise RuntimeError("python -m stages.pretrain ended before its first step; run it to see why")
            time.sleep(0.02)
        took = time.perf_counter() - begin
        process.send_signal(signal.SIGKILL)
        process.wait()
    return took


def profile(params: PretrainParams) -> None:
    """Print the operators in which a step of ours spends its time."""
    steps = ours(params)
    for _ in range(WARM_UP):
        next(steps)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for _ in range(TURN):
            next(steps)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))


def report(took: dict[str, list[float]], params: PretrainParams) -> None:
    """Print speeds, and as the last line the ratios as JSON."""
    for side, seconds in took.items():
        print(f"{side:12s} {TURN * params.tokens_per_step / median(seconds):8.0f} tokens/s")
    held_up, share = checkpoint_share(params)
    every = settings().checkpoint_seconds
    print(f"checkpoint   {held_up * 1000:8.1f} ms, {share:.2%} of the time with one every {every:.0f} s")
    print(
        f"start        {median(start_seconds() for _ in range(STARTS)):8.1f} s from the command to the first step done"
    )
    # In pairs: the load of the machine is alike within a round, and may differ between rounds.
    ratios = {
        side: round(median(peer / mine for peer, mine in zip(took[side], took["ours"], strict=True)), 3)
        for side in ("handwritten", "trainer")
    }
    print(json.dumps({"ratios": ratios}))


def main() -> None:
    """Compare; or, named a side, be it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--profile", action="store_true", help="print where a step's time goes instead")
    asked = parser.parse_args()
    if asked.side:
        take_turns(asked.side)
    elif asked.profile:
        profile(parameters())
    else:
        report(compare(), parameters())


if __name__ == "__main__":
    run(main)
