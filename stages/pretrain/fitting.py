"""How many samples fit into the memory at once."""

import torch

from stages.params import Refusal
from stages.pretrain.parallel import any_of_us
from stages.pretrain.trainer import Trainer
from stages.process import log


def largest_that_fits(trainer: Trainer) -> int:
    """The largest micro-batch, of a process's samples halved again and again, that a dry run has the memory for.

    The dry run computes a gradient and throws it away, beside an empty place of the size of AdamW's state. Samples,
    their order and the weights stay as they are. Of several processes each tries alone, and all take what fits each.

    Raises:
        Refusal: if not even one sample fits, or the processes share the model: one that has no memory left would
            leave the others waiting.
    """
    accelerator = trainer.accelerator
    if accelerator.torch_device_mesh is not None:
        raise Refusal(
            "environment variable PEDIGREE_MICRO_BATCH: auto is for processes that each have the whole model, and "
            "PEDIGREE_PARALLEL lets them share it; give a number, for instance what `pedigree plan` says"
        )
    size: int = trainer.params.samples_per_step // accelerator.num_processes
    first = len(trainer.steps) * trainer.params.samples_per_step
    while any_of_us(accelerator, not _fits(trainer, range(first, first + size))):
        if size == 1:
            raise Refusal(
                "pretrain: not even one sample fits into the memory; lower pretrain.sequence_length or the "
                "model's size in params.yaml, or take a larger device"
            )
        size //= 2
    log.info("pretrain: %d samples at once", size)
    return size


def _fits(trainer: Trainer, numbers: range) -> bool:
    """Whether a gradient of the samples `numbers`, all at once, can be computed beside two numbers per parameter."""
    try:
        state = [torch.empty_like(parameter) for parameter in trainer.model.parameters() for _ in range(2)]
        trainer.try_out(numbers)
        del state
        return True
    except (torch.cuda.OutOfMemoryError, MemoryError):
        return False
    finally:
        trainer.model.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
