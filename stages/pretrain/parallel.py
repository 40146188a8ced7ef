"""The processes of a training: how Accelerate starts them, places the model, and lets them agree.

How they share the work stands in PEDIGREE_PARALLEL: nothing (DDP: each has the whole model), `dp_shard=8` (FSDP2: each
has a slice of each tensor), `dp_replicate=4,dp_shard=8` (HSDP: 4 groups, within which 8 have a slice each), `tp=8`
(each computes some heads of each layer), `cp=2` (each computes a part of each sample), or several of them.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.parallelism_config import ParallelismConfig
from accelerate.utils import broadcast, is_torchao_available
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from stages.params import Refusal, StageParams
from stages.pretrain.context_parallel import Context
from stages.pretrain.model import layers
from stages.pretrain.params import PretrainParams
from stages.pretrain.state import whole_tensor
from stages.pretrain.tensor_parallel import share_layers
from stages.pretrain.trackers import read_trackers
from stages.settings import settings


class Layout(StageParams):
    """How many processes there are along each way of sharing."""

    dp_replicate: int = Field(1, ge=1)  # groups that each have the whole model
    dp_shard: int = Field(1, ge=1)  # processes that have a slice of it each
    cp: int = Field(1, ge=1)  # processes that have a part of each sample each
    tp: int = Field(1, ge=1)  # processes that have some of the heads of each layer each


@dataclass(frozen=True)
class Seat:
    """Which samples are this process's: of `size` shares the one with this `number`; `alike` processes have the same.

    Those that share a sample's tokens have the same samples, and different targets.
    """

    number: int
    size: int
    alike: int = 1  # processes that compute the same loss: those of a tp group
    context: Context | None = None


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
            f"give sizes of {', '.join(Layout.model_fields)}, as in dp_shard=8"
        ) from None
    if layout.dp_replicate > 1 and layout.dp_shard == 1:
        raise Refusal(
            f"environment variable PEDIGREE_PARALLEL: {text!r} has copies of the model that nobody shares; add "
            f"dp_shard, or take dp_replicate out (an empty layout is DDP)"
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
    layout = read_layout(settings().parallel)
    sizes = prod(layout.model_dump().values())
    if sizes not in (1, accelerator.num_processes):
        raise Refusal(
            f"environment variable PEDIGREE_PARALLEL lays out {sizes} processes, PEDIGREE_LAUNCH starts "
            f"{accelerator.num_processes}; make them equal"
        )
    shares = accelerator.num_processes // (layout.tp * layout.cp)
    if params.samples_per_step % shares:
        raise Refusal(
            f"params.yaml: pretrain.tokens_per_step gives {params.samples_per_step} samples a step, which "
            f"{shares} processes can't share evenly; change it, or PEDIGREE_LAUNCH"
        )
    if layout.cp > 1 and params.document_masking:
        raise Refusal("PEDIGREE_PARALLEL: cp can't keep documents apart; set pretrain.document_masking to false")
    if sizes > 1:
        config = ParallelismConfig(
            dp_replicate_size=layout.dp_replicate, dp_shard_size=layout.dp_shard, cp_size=layout.cp, tp_size=layout.tp
        )
        # Accelerate would take it itself, but not on processors.
        accelerator.state.device_mesh = config.build_device_mesh(accelerator.device.type)
    return accelerator


def seat_of(accelerator: Accelerator) -> Seat:
    """Which part of each step this process computes."""
    mesh = accelerator.torch_device_mesh
    if mesh is None:
        return Seat(accelerator.process_index, accelerator.num_processes)
    sizes, place = dict(zip(mesh.mesh_dim_names, mesh.shape, strict=True)), mesh.get_coordinate()
    coordinate = dict(zip(mesh.mesh_dim_names, place, strict=True))
    number, size = 0, 1
    for name in ("dp_replicate", "dp_shard"):
        number, size = number * sizes.get(name, 1) + coordinate.get(name, 0), size * sizes.get(name, 1)
    context = Context(mesh.get_group("cp"), coordinate["cp"], sizes["cp"]) if "cp" in sizes else None
    return Seat(number, size, sizes.get("tp", 1), context)


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

    Raises:
        Refusal: if the layers of the architecture can't be cut so.
    """
    mesh = accelerator.torch_device_mesh
    if mesh is None:
        placed: nn.Module = accelerator.prepare_model(module)
        return placed
    module.to(accelerator.device)
    dimensions = mesh.mesh_dim_names
    if "tp" in dimensions:
        share_layers(module.model, mesh["tp"])
    if dimensions == ("tp",):
        return module
    names = ("dp_replicate", "dp_shard_cp") if "dp_replicate" in dimensions else ("dp_shard_cp",)
    # On a GPU bf16 travels in half the time. On a processor the products alone are bf16, as without FSDP.
    half = accelerator.mixed_precision == "bf16" and accelerator.device.type == "cuda"
    policy = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32) if half else MixedPrecisionPolicy()
    for part in (*layers(module), module):  # what is around the layers goes with the whole
        fully_shard(part, mesh=mesh[names], mp_policy=policy)
    return module


def synchronized(accelerator: Accelerator, model: nn.Module, whole: bool) -> AbstractContextManager[Any]:
    """Gradients travel between processes with the last micro-batch only."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(whole)
        return nullcontext()
    return nullcontext() if whole else accelerator.no_sync(model)


def clip_gradient(model: nn.Module, most: float) -> Tensor:
    """The norm of the gradient of `model`, which is then at most `most`; processes may have parts of it."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    groups: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        cut = (parameter.device_mesh, parameter.placements) if isinstance(parameter, DTensor) else None
        groups.setdefault(cut, []).append(parameter)
    if len(groups) == 1:
        return whole_tensor(nn.utils.clip_grad_norm_(parameters, most))
    # torch (2.13) takes no norm of tensors that are cut in different ways.
    norms = [
        whole_tensor(nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]))
        for group in groups.values()
    ]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    factor = min(1.0, most / (float(norm) + 1e-6))
    for parameter in parameters:
        parameter.grad.mul_(factor)  # type: ignore[union-attr]
    return norm


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
