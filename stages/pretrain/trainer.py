"""One training step: the samples of the step in, a better model out. Accelerate places the model."""

import math
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from transformers import PretrainedConfig

from stages.order import Order
from stages.pretrain import batches
from stages.pretrain.history import Step
from stages.pretrain.model import build_config, build_model
from stages.pretrain.optimizer import build_optimizers, rate_factor, set_rates
from stages.pretrain.parallel import of_first, place, synchronized
from stages.pretrain.params import PretrainParams
from stages.pretrain.state import restore, whole_tensor
from stages.pretrain.streaming import TOKENS, expect_samples, open_streams
from stages.tokens import load_mask_token, load_tokenizer

TOKENIZER = Path("models/tokenizer")


class Trainer:
    """A training: what it is made of, and what became of the steps so far."""

    def __init__(
        self, params: PretrainParams, mixture: dict[str, float], accelerator: Accelerator, tokens: Path = TOKENS
    ) -> None:
        tokenizer, separator = load_tokenizer(TOKENIZER)
        self.params, self.accelerator = params, accelerator
        self.vocabulary = tokenizer.get_vocab_size()
        self.mask = load_mask_token(TOKENIZER) if params.objective == "masked" else None
        self.streams = open_streams(tokens)
        self.order: Order = batches.order_of(self.streams, mixture, params)
        self.config: PretrainedConfig = build_config(params, self.vocabulary, separator)
        self.model: nn.Module = build_model(self.config, params)
        self.wrapped: nn.Module = place(self.model, accelerator)
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
                samples, numbers, params.masked_share, self.mask, self.vocabulary, params.seed
            )
        self.waited += time.perf_counter() - begin
        return inputs.to(self.accelerator.device), targets.to(self.accelerator.device)

    def expect(self, numbers: range) -> None:
        """Begin to fetch those of the samples `numbers` that are this process's, if they are elsewhere."""
        mine = numbers[self.accelerator.process_index :: self.accelerator.num_processes]
        expect_samples(self.streams, self.order, mine, self.params.sequence_length)

    def resume(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Go on from a checkpoint, by its tensors; in all processes from those of the first one, wherever they are."""
        self.steps = restore(of_first(tensors, self.accelerator), self.model, self.optimizers)

    def targets_per_step(self) -> int:
        """Tokens that count in the loss of a step, over all processes."""
        params = self.params
        each = params.sequence_length
        if params.objective == "masked":
            each = batches.masked_per_sample(params.sequence_length, params.masked_share)
        return each * params.samples_per_step

    def train_step(self, numbers: range, micro_batch: int) -> Step:
        """One optimizer step on the samples `numbers`.


        The gradient is the sum over tokens divided by the step's number of targets, so that it
        doesn't depend on how the step is cut into processes and micro-batches.
        """
        params, world = self.params, self.accelerator.num_processes
        mine = numbers[self.accelerator.process_index :: world]
        parts = [mine[begin : begin + micro_batch] for begin in range(0, len(mine), micro_batch)]
        set_rates(self.optimizers, rate_factor(len(self.steps), params.steps, params.schedule))
        total = torch.zeros((), device=self.accelerator.device)
        for part in parts:
            inputs, targets = self.batch(part)
            whole = part is parts[-1]
            with self.accelerator.autocast(), synchronized(self.accelerator, self.wrapped, whole):
                logits_BTV = self.wrapped(input_ids=inputs).logits
                nats = cross_entropy(logits_BTV.flatten(0, 1).float(), targets.flatten(), reduction="sum")
                loss = nats / self.targets_per_step()
                self.accelerator.backward(loss * world)  # DDP takes the mean over processes
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), params.gradient_clip or math.inf)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return Step(float(self.accelerator.reduce(total, "sum")), float(whole_tensor(norm)))
