"""One training step: the samples of the step in, a better model out. Accelerate places the model."""

import hashlib
import math
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PretrainedConfig

from stages.mixture import Mixture
from stages.order import Order
from stages.pretrain import batches
from stages.pretrain.context_parallel import share_context
from stages.pretrain.guard import stands_out
from stages.pretrain.history import Step
from stages.pretrain.loss import Objective
from stages.pretrain.model import build_config, build_model, prepare_layers
from stages.pretrain.optimizer import build_optimizers, rate_factor, set_rates
from stages.pretrain.owners import documents_of
from stages.pretrain.parallel import any_of_us, clip_gradient, of_first, place, seat_of, synchronized
from stages.pretrain.params import PretrainParams
from stages.pretrain.start import start_config, start_model
from stages.pretrain.state import restore
from stages.pretrain.streaming import TOKENS, expect_samples, open_streams
from stages.settings import settings
from stages.tokens import load_mask_token, load_tokenizer

TOKENIZER = Path("models/tokenizer")


class Trainer:
    """A training: what it is made of, and what became of the steps so far."""

    def __init__(
        self, params: PretrainParams, mixture: Mixture, accelerator: Accelerator, tokens: Path = TOKENS
    ) -> None:
        tokenizer, separator = load_tokenizer(TOKENIZER)
        self.params, self.accelerator = params, accelerator
        self.vocabulary = tokenizer.get_vocab_size()
        self.mask = load_mask_token(TOKENIZER) if params.objective == "masked" else None
        self.joins = batches.joins(tokenizer) if params.whole_word else None
        self.tokens, self.streams = tokens, open_streams(tokens)
        self.order: Order = batches.order_of(self.streams, mixture, params)
        self.config: PretrainedConfig
        self.model: nn.Module
        if params.start:
            self.config = start_config(params.start, tokenizer)
            self.model = start_model(params.start, self.config, params)
        else:
            self.config = build_config(params.model or {}, self.vocabulary, separator)
            self.model = build_model(self.config, params)
        apart = separator if params.document_masking else None
        self.seat = seat_of(accelerator)
        context, causal, length = self.seat.context, params.objective == "causal", params.sequence_length
        places = context.places(length).to(accelerator.device) if context else None
        self.objective = Objective(self.model, params.z_loss, causal, apart, places)
        if context:
            share_context(self.model, context, causal, length)
        prepare_layers(self.model, params, settings().recompute)
        self.wrapped: nn.Module = place(self.objective, accelerator)
        self.optimizers: list[Optimizer] = build_optimizers(self.model, params.optimizer)
        self.steps: list[Step] = []
        self.waited = 0.0  # seconds for samples

    def batch(self, numbers: range) -> tuple[Tensor, Tensor]:
        """Inputs and targets of these samples, on the device."""
        params, begin = self.params, time.perf_counter()
        samples = batches.read_samples(self.streams, self.order, numbers, params.sequence_length)
        if self.mask is None:
            inputs, targets = batches.causal(samples)
        else:
            inputs, targets = batches.masked(
                samples, numbers, params.masked_share, self.mask, self.vocabulary, params.seed, self.joins
            )
        self.waited += time.perf_counter() - begin
        return inputs.to(self.accelerator.device), targets.to(self.accelerator.device)

    def expect(self, numbers: range) -> None:
        """Begin to fetch those of the samples `numbers` that are this process's, if they are elsewhere."""
        mine = numbers[self.seat.number :: self.seat.size]
        expect_samples(self.streams, self.order, mine, self.params.sequence_length)

    def resume(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Go on from a checkpoint, by its tensors; in all processes from those of the first one, wherever they are."""
        self.steps = restore(of_first(tensors, self.accelerator), self.model, self.optimizers)

    def epochs(self) -> dict[str, float]:
        """How often the whole training sees each source."""
        drawn = self.order.drawn(self.params.steps * self.params.samples_per_step)
        return {name: count / self.order.windows[name] for name, count in drawn.items()}

    def targets_per_step(self) -> int:
        """Tokens that count in the loss of a step, over all processes."""
        params = self.params
        each = params.sequence_length
        if params.objective == "masked":
            each = batches.masked_per_sample(params.sequence_length, params.masked_share)
        return each * params.samples_per_step

    def documents(self, step: int) -> list[str]:
        """The ids of the documents that `step` (from 0) trains on; none where their names aren't on this machine."""
        if self.tokens != TOKENS:
            return []
        first, size = step * self.params.samples_per_step, self.params.samples_per_step
        numbers = range(first, first + size)
        return documents_of(numbers, self.order, self.streams, self.tokens, self.params.sequence_length)

    def train_step(self, numbers: range, micro_batch: int) -> Step:
        """One optimizer step on the samples `numbers`; none if the guard says that it must be skipped."""
        params = self.params
        set_rates(self.optimizers, rate_factor(len(self.steps), params.steps, params.schedule))
        loss = self.accumulate(numbers, micro_batch)
        norm = clip_gradient(self.model, params.gradient_clip or math.inf)
        step = Step(float(loss), float(norm))
        step = replace(step, skipped=any_of_us(self.accelerator, stands_out(step, self.steps, params.guard)))
        for optimizer in self.optimizers:
            if not step.skipped:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return step

    def accumulate(self, numbers: range, micro_batch: int) -> Tensor:
        """Leave the gradient of the samples `numbers` in the model; return their loss, over all processes.

        The gradient is the sum over tokens divided by the step's number of targets, so that it
        doesn't depend on how the step is cut into processes and micro-batches.
        """
        accelerator, alike = self.accelerator, self.seat.alike
        others = accelerator.num_processes // alike  # DDP and FSDP2 take the mean over them
        mine = numbers[self.seat.number :: self.seat.size]
        parts = [mine[begin : begin + micro_batch] for begin in range(0, len(mine), micro_batch)]
        total = torch.zeros((), device=accelerator.device)
        for part in parts:
            inputs, targets = self.batch(part)
            seed_dropout(self.params.seed, part[0])
            with accelerator.autocast(), synchronized(accelerator, self.wrapped, part is parts[-1]):
                objective, nats = self.wrapped(inputs, targets)
                accelerator.backward(objective / self.targets_per_step() * others)
            total += nats / self.targets_per_step()
        reduced: Tensor = accelerator.reduce(total, "sum")
        return reduced / alike

    def try_out(self, numbers: range) -> None:
        """Leave the gradient of the samples `numbers`, all at once, in the model: of this process alone."""
        inputs, targets = self.batch(numbers)
        with self.accelerator.autocast():
            self.accelerator.backward(self.objective(inputs, targets)[0])


def seed_dropout(seed: int, number: int) -> None:
    """Let what is dropped from the samples from `number` on depend on nothing else, so that a resumed run drops it."""
    torch.manual_seed(int.from_bytes(hashlib.blake2b(f"{seed} {number}".encode(), digest_size=7).digest()))
