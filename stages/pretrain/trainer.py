"""One training step: the samples of the step in, a better model out. Accelerate places the model."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from transformers import PretrainedConfig

from stages.documents import source_folders
from stages.order import Order
from stages.params import Refusal
from stages.pretrain import batches, checkpoint
from stages.pretrain.model import build_config, build_model
from stages.pretrain.optimizer import build_optimizers, rate_factor, set_rates
from stages.pretrain.params import PretrainParams
from stages.tokens import load_mask_token, load_tokenizer

TOKENS = Path("data/tokenize")
TOKENIZER = Path("models/tokenizer")


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


class Trainer:
    """A training: what it is made of, and the losses of the steps done so far."""

    def __init__(self, params: PretrainParams, mixture: dict[str, float], accelerator: Accelerator) -> None:
        tokenizer, separator = load_tokenizer(TOKENIZER)
        self.params, self.accelerator = params, accelerator
        self.vocabulary = tokenizer.get_vocab_size()
        self.mask = load_mask_token(TOKENIZER) if params.objective == "masked" else None
        self.streams = batches.open_streams(source_folders(TOKENS))
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

    def resume(self, files: dict[str, bytes]) -> None:
        """Go on from a checkpoint, by its files; in all processes from that of the first one, wherever they are."""
        self.losses = checkpoint.load(_of_first(files, self.accelerator), self.model, self.optimizers)

    def any_of_us(self, flag: bool) -> bool:
        """Whether `flag` is set in one of the processes: the same answer in all of them, after the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        count = self.accelerator.reduce(torch.tensor(int(flag), device=self.accelerator.device), "sum")
        return bool(count)

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


def _of_first(files: dict[str, bytes], accelerator: Accelerator) -> dict[str, bytes]:
    """The `files` of the first process."""
    if accelerator.num_processes == 1:
        return files
    sizes = broadcast(torch.tensor([len(files.get(name, b"")) for name in checkpoint.FILES], device=accelerator.device))
    shared = {}
    for name, size in zip(checkpoint.FILES, sizes.tolist(), strict=True):
        mine = bytearray(files[name] if accelerator.is_main_process and files else size)
        if size:
            content = broadcast(torch.frombuffer(mine, dtype=torch.uint8).to(accelerator.device))
            shared[name] = content.cpu().numpy().tobytes()
    return shared
