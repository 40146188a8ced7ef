"""Tensor parallelism: each process computes some of the heads, and some of the inner width, of every layer.

Which matrices are cut, and which way, is what transformers says of the architecture (`base_model_tp_plan`); torch cuts
them (Shoeybi et al. 2019, arXiv:1909.08053). What is around the layers, and norms, each process has whole.
"""

from collections.abc import Mapping
from typing import Any

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from transformers import PretrainedConfig

from stages.params import Refusal

STYLES: dict[str, type[ParallelStyle]] = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
CUT = ("num_attention_heads", "num_key_value_heads", "intermediate_size")


def share_layers(model: Any, mesh: DeviceMesh) -> None:
    """Cut the layers of `model` among the processes of `mesh`, which has one dimension.

    Raises:
        Refusal: if they can't be cut by so many, or transformers doesn't say how.
    """
    size = mesh.size()
    plan = _plan(model.config, size)
    parallelize_module(model.base_model, mesh, {name: STYLES[style]() for name, style in plan.items()})


def _plan(config: PretrainedConfig, size: int) -> Mapping[str, str]:
    """Which modules are cut, and in which style."""
    plan = config.base_model_tp_plan or {}
    others = sorted(set(plan.values()) - set(STYLES))
    if not plan or others:
        why = f"it has {', '.join(others)}" if others else "it names no way"
        raise Refusal(
            f"PEDIGREE_PARALLEL: tp cuts layers as transformers says, and of {config.model_type} {why}; take tp out"
        )
    for name in CUT:
        number = getattr(config, name, size)
        if number % size:
            raise Refusal(
                f"PEDIGREE_PARALLEL: tp={size} doesn't divide pretrain.model.{name}, which is {number}; change either"
            )
    return plan
