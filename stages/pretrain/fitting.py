"""How many samples fit into the memory at once."""

import torch

from stages.params import Refusal
from stages.pretrain.trainer import Trainer
from stages.process import log


def largest_that_fits(trainer: Trainer) -> int:
    """The largest micro-batch, of a step's samples halved again and again, that a dry run has the memory for.

    The dry run computes a gradient and throws it away, beside an empty place of the size of AdamW's state. Samples,
    their order and the weights stay as they are.

    Raises:
        Refusal: if not even one sample fits, or there are several processes: one that has no memory left would
            leave the others waiting.
    """
    if trainer.accelerator.num_processes > 1:
        raise Refusal(
            "environment variable PEDIGREE_MICRO_BATCH: auto is for one process; run a few steps on one, which says "
            "what fits, and give that number"
        )
    optimizers, steps, size = trainer.optimizers, len(trainer.steps), trainer.params.samples_per_step
    first = steps * size
    trainer.optimizers = []
    try:
        while not _fits(trainer, range(first, first + size)):
            if size == 1:
                raise Refusal(
                    "pretrain: not even one sample fits into the memory; lower pretrain.sequence_length or the "
                    "model's size in params.yaml, or take a larger device"
                )
            size //= 2
    finally:
        trainer.optimizers = optimizers
    log.info("pretrain: %d samples at once", size)
    return size


def _fits(trainer: Trainer, numbers: range) -> bool:
    """Whether a gradient of the samples `numbers`, all at once, can be computed beside two numbers per parameter."""
    try:
        state = [torch.empty_like(parameter) for parameter in trainer.model.parameters() for _ in range(2)]
        trainer.train_step(numbers, len(numbers))  # with no optimizers: no weight changes
        del state
        return True
    except (torch.cuda.OutOfMemoryError, MemoryError):
        return False
    finally:
        trainer.model.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
