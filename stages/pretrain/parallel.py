"""The processes of a training: how Accelerate starts them, places the model, and lets them agree.

How they share the model stands in PEDIGREE_PARALLEL: nothing (DDP: each has all of it), `dp_shard=8` (FSDP2: each has
a slice of each tensor), `dp_replicate=4,dp_shard=8` (HSDP: 4 groups, within which 8 have a slice each).
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.parallelism_config import ParallelismConfig
from accelerate.utils import broadcast, is_torchao_available
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from stages.params import Refusal, StageParams
from stages.pretrain.model import layers
from stages.pretrain.params import PretrainParams
from stages.pretrain.trackers import read_trackers
from stages.settings import settings


class Layout(StageParams):
    """How many processes there are along each way of sharing."""

    dp_replicate: int = Field(1, ge=1)  # groups that each have the whole model
    dp_shard: int = Field(1, ge=1)  # processes that have a slice of it each


def read_layout(text: str) -> Layout:
    """The layout that PEDIGREE_PARALLEL gives, as `dp_shard=8` or `dp_replicate=4,dp_shard=8`.

    Raises:
        Refusal: if it isn't one.
    """
    sizes = [part.strip().partition("=")[::2] for part in text.split(",") if part.strip()]
    try:
        layout = Layout.model_validate(dict(sizes))
    except ValidationError as error:
        problem = error.errors()[0]
        raise Refusal(
            f"environment variable PEDIGREE_PARALLEL: {text!r} is no layout ({problem['loc'][0]}: {problem['msg']}); "
            f"give sizes of {' and '.join(Layout.model_fields)}, as in dp_shard=8"
        ) from None
    if layout.dp_replicate > 1 and layout.dp_shard == 1:
        raise Refusal(
            f"environment variable PEDIGREE_PARALLEL: {text!r} only copies the model; leave it empty for that (DDP)"
        )
    return layout


def start_accelerate(params: PretrainParams) -> Accelerator:
    """Accelerate on the devices at hand, computing deterministically.

    Raises:
        Refusal: if the device has no such precision, or the samples of a step can't be divided evenly among the
            processes, or these can't be laid out.
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
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=not torch.cuda.is_available(),
        log_with=read_trackers(settings().trackers) or None,
        project_dir=settings().scratch_folder / "trackers",
    )
    if params.samples_per_step % accelerator.num_processes:
        raise Refusal(
            f"params.yaml: pretrain.tokens_per_step gives {params.samples_per_step} samples a step, which "
            f"{accelerator.num_processes} processes can't share evenly; change it, or PEDIGREE_LAUNCH"
        )
    layout = read_layout(settings().parallel)
    sizes = prod(layout.model_dump().values())
    if sizes not in (1, accelerator.num_processes):
        raise Refusal(
            f"environment variable PEDIGREE_PARALLEL lays out {sizes} processes, PEDIGREE_LAUNCH starts "
            f"{accelerator.num_processes}; make them equal"
        )
    if sizes > 1:
        config = ParallelismConfig(dp_replicate_size=layout.dp_replicate, dp_shard_size=layout.dp_shard)
        # Accelerate would take it itself, but not on processors.
        accelerator.state.device_mesh = config.build_device_mesh(accelerator.device.type)
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


def place(module: nn.Module, accelerator: Accelerator) -> nn.Module:
    """`module`, which has the model in it, on the device, and shared among the processes as PEDIGREE_PARALLEL says.

    Its parameters are then others, so optimizers are made after it.
    """
    mesh = accelerator.torch_device_mesh
    if mesh is None:
        placed: nn.Module = accelerator.prepare_model(module)
        return placed
    names = ("dp_replicate", "dp_shard") if "dp_replicate" in mesh.mesh_dim_names else ("dp_shard",)
    # On a GPU bf16 travels in half the time. On a processor the products alone are bf16, as without FSDP.
    half = accelerator.mixed_precision == "bf16" and accelerator.device.type == "cuda"
    policy = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32) if half else MixedPrecisionPolicy()
    module.to(accelerator.device)
    for part in (*layers(module), module):  # what is around the layers goes with the whole
        fully_shard(part, mesh=mesh[names], mp_policy=policy)
    return module


def synchronized(accelerator: Accelerator, model: nn.Module, whole: bool) -> AbstractContextManager[Any]:
    """Gradients travel between processes with the last micro-batch only."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(whole)
        return nullcontext()
    return nullcontext() if whole else accelerator.no_sync(model)


def any_of_us(accelerator: Accelerator, flag: bool) -> bool:
    """Whether `flag` is set in one of the processes: the same answer in all of them, after the same step."""
    return any_of_each(accelerator, flag)[0]


def any_of_each(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """`any_of_us` for each of the flags, asked at once."""
    if accelerator.num_processes == 1:
        return list(flags)
    counts = accelerator.reduce(torch.tensor([int(flag) for flag in flags], device=accelerator.device), "sum")
    return [bool(count) for count in counts.tolist()]


def of_first(tensors: Iterable[tuple[str, Tensor]], accelerator: Accelerator) -> Iterator[tuple[str, Tensor]]:
    """The named tensors of the first process, in all of them, one at a time. Only the first one's `tensors` count."""
    if accelerator.num_processes == 1:
        yield from tensors
        return
    mine = iter(tensors)
    while True:
        name, tensor = next(mine, ("", torch.empty(0))) if accelerator.is_main_process else ("", torch.empty(0))
        head = json.dumps([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)])
        name, dtype, shape = json.loads(_bytes_of_first(head.encode(), accelerator))
        if not name:
            return
        if not accelerator.is_main_process:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        yield name, broadcast(tensor.to(accelerator.device))


def _bytes_of_first(content: bytes, accelerator: Accelerator) -> bytes:
    size = int(broadcast(torch.tensor([len(content)], device=accelerator.device)))
    buffer = content if accelerator.is_main_process else bytes(size)
    sent = broadcast(torch.frombuffer(bytearray(buffer), dtype=torch.uint8).to(accelerator.device))
    return bytes(sent.cpu().numpy())
