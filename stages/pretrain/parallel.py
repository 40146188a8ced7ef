"""The processes of a training: how Accelerate starts them, places the model, and lets them agree."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, is_torchao_available
from torch import nn

from stages.params import Refusal
from stages.pretrain import checkpoint
from stages.pretrain.params import PretrainParams


def start_accelerate(params: PretrainParams) -> Accelerator:
    """Accelerate on the devices at hand, computing deterministically.

    Raises:
        Refusal: if the device has no such precision, or the samples of a step can't be divided evenly among the
            processes.
    """
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # 6% of the time
    torch.set_num_threads(params.threads)
    if params.precision == "fp8" and not has_fp8():
        raise Refusal(
            "params.yaml: pretrain.precision is fp8, which needs a GPU of compute capability 8.9 or more, and "
            "torchao; set it to bf16"
        )
    precision = {"fp32": "no", "auto": "bf16" if has_bf16() else "no"}.get(params.precision, params.precision)
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


def has_fp8() -> bool:
    """Whether the GPU multiplies fp8, and Accelerate finds the library by which it does."""
    capable = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)
    return capable and bool(is_torchao_available())


def synchronized(accelerator: Accelerator, model: nn.Module, whole: bool) -> AbstractContextManager[Any]:
    """Gradients travel between processes with the last micro-batch only."""
    return nullcontext() if whole else accelerator.no_sync(model)


def any_of_us(accelerator: Accelerator, flag: bool) -> bool:
    """Whether `flag` is set in one of the processes: the same answer in all of them, after the same step."""
    if accelerator.num_processes == 1:
        return flag
    count = accelerator.reduce(torch.tensor(int(flag), device=accelerator.device), "sum")
    return bool(count)


def of_first(files: dict[str, bytes], accelerator: Accelerator) -> dict[str, bytes]:
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
