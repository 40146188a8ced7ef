"""Optimizers and their learning rate, which is a function of the step alone."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from stages.params import Refusal
from stages.pretrain.params import AdamWParams, MuonParams, ScheduleParams
from stages.pretrain.state import cut_alike, whole_tensor

# Coefficients of the quintic Newton-Schulz iteration (Jordan et al. 2024, "Muon").
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def rate_factor(step: int, steps: int, schedule: ScheduleParams) -> float:
    """The learning rate of `step` (0 to `steps` - 1) as a share of its peak, in (0, 1]."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
    if schedule.shape == "cosine":
        return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * progress)) / 2
    if schedule.shape == "linear":
        return schedule.final + (1 - schedule.final) * (1 - progress)
    decaying = max(1, round(steps * schedule.decay))
    return max(schedule.final, min(1.0, (steps - step) / decaying))


def orthogonalize(matrices_BMN: Tensor) -> Tensor:
    """Each matrix with its singular values brought close to 1; shape and dtype as given.

    fp32 on the CPU, where bf16 products are slow on most processors; bf16 elsewhere, as published.
    """
    a, b, c = QUINTIC
    tall = matrices_BMN.size(-2) > matrices_BMN.size(-1)
    x_BMN = matrices_BMN.mT if tall else matrices_BMN
    x_BMN = x_BMN.float() if x_BMN.device.type == "cpu" else x_BMN.bfloat16()
    x_BMN = x_BMN / (x_BMN.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram_BMM = x_BMN @ x_BMN.mT
        x_BMN = a * x_BMN + (b * gram_BMM + c * gram_BMM @ gram_BMM) @ x_BMN
    result: Tensor = (x_BMN.mT if tall else x_BMN).to(matrices_BMN.dtype)
    return result


class Muon(Optimizer):
    """Momentum, orthogonalized (Jordan et al. 2024), for matrices.

    torch.optim.Muon (2.13) computes in bf16 always, fifteen times slower than fp32 on a processor
    without bf16, and matrix by matrix; this one takes matrices of one shape together.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            alike: dict[Any, list[Tensor]] = {}  # of one shape, and cut in one way
            for param in group["params"]:
                if param.grad is not None:
                    alike.setdefault((param.shape, getattr(param, "placements", None)), []).append(param)
            for params in alike.values():
                self._update(params, group["lr"], group["momentum"], group["weight_decay"])

    def _update(self, params: list[Tensor], rate: float, momentum: float, weight_decay: float) -> None:
        """One step of matrices of one shape. The scale is Jordan's: sqrt(max(1, rows / columns))."""
        for param in params:
            if "momentum" not in self.state[param]:
                self.state[param]["momentum"] = torch.zeros_like(param)
        gradients = torch.stack([param.grad for param in params if param.grad is not None])
        momenta = torch.stack([self.state[param]["momentum"] for param in params])
        momenta.lerp_(gradients, 1 - momentum)
        ahead_BMN = gradients.lerp(momenta, momentum)  # Nesterov's look ahead
        # Slices don't do: the singular values are those of whole matrices, which each process computes then.
        update_BMN = cut_alike(orthogonalize(whole_tensor(ahead_BMN)), ahead_BMN)
        scale = math.sqrt(max(1.0, update_BMN.size(-2) / update_BMN.size(-1)))
        for param, new_momentum, update in zip(params, momenta, update_BMN, strict=True):
            self.state[param]["momentum"].copy_(new_momentum)
            param.mul_(1 - rate * weight_decay).add_(update, alpha=-rate * scale)


def build_optimizers(model: nn.Module, params: AdamWParams | MuonParams) -> list[Optimizer]:
    """The optimizers that together train all of `model`; each group keeps its peak rate as "peak".

    Raises:
        Refusal: if there is nothing for Muon to train.
    """
    embeddings = _embeddings(model)
    if isinstance(params, AdamWParams):
        optimizers: list[Optimizer] = [_adamw(list(model.parameters()), params, embeddings)]
    else:
        inner = _inner_matrices(model)
        if not inner:
            raise Refusal(
                f"params.yaml: pretrain.optimizer is muon, but {type(model).__name__} has no linear layers between "
                f"embedding and head; set it to adamw"
            )
        chosen = {id(matrix) for matrix in inner}
        rest = [param for param in model.parameters() if id(param) not in chosen]
        optimizers = [
            Muon(inner, params.learning_rate, params.momentum, params.weight_decay),
            _adamw(rest, params.adamw, embeddings),
        ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def _inner_matrices(model: nn.Module) -> list[Tensor]:
    """The weights of the linear layers between embedding and head: those that Muon is for."""
    embeddings = _embeddings(model)
    linear = (module for module in model.modules() if isinstance(module, nn.Linear))
    return [module.weight for module in linear if id(module.weight) not in embeddings]


def _embeddings(model: nn.Module) -> set[int]:
    """The identities of the embedding's and the head's weights."""
    outer = [model.get_input_embeddings(), model.get_output_embeddings()]  # type: ignore[operator]
    return {id(module.weight) for module in outer if module is not None}


def _adamw(tensors: Sequence[Tensor], params: AdamWParams, embeddings: set[int]) -> Optimizer:
    spared = set() if params.decay_embeddings else embeddings
    decaying = [tensor for tensor in tensors if tensor.ndim >= 2 and id(tensor) not in spared]
    others = [tensor for tensor in tensors if tensor.ndim < 2 or id(tensor) in spared]
    groups = [
        {"params": group, "weight_decay": decay}
        for group, decay in ((decaying, params.weight_decay), (others, 0.0))
        if group
    ]
    # The fused kernel takes tensors together, which must all be cut in one way.
    fused = len({getattr(tensor, "placements", None) for tensor in tensors}) == 1
    return AdamW(
        groups, lr=params.learning_rate, betas=(params.beta1, params.beta2), eps=1e-8, fused=fused, foreach=False
    )


def set_rates(optimizers: list[Optimizer], factor: float) -> None:
    """Give every group `factor` of its peak learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
