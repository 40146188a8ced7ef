"""What became of each step so far: the loss and the gradient, of which checkpoints, guards and curves speak."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One optimizer step."""

    loss: float  # mean over its target tokens, nats
    gradient_norm: float  # global, before it was clipped
    skipped: bool = False  # whether the weights were left as they were


def to_tensors(steps: Sequence[Step]) -> dict[str, Tensor]:
    """`steps` as columns of a checkpoint: `loss` and `gradient_norm` (float64), `skipped` (uint8); each (steps,)."""
    return {
        "loss": torch.tensor([step.loss for step in steps], dtype=torch.float64),
        "gradient_norm": torch.tensor([step.gradient_norm for step in steps], dtype=torch.float64),
        "skipped": torch.tensor([step.skipped for step in steps], dtype=torch.uint8),
    }


def from_tensors(columns: dict[str, Tensor]) -> list[Step]:
    """The steps that `to_tensors` was given."""
    rows = zip(*(columns[name].tolist() for name in ("loss", "gradient_norm", "skipped")), strict=True)
    return [Step(loss, norm, bool(skipped)) for loss, norm, skipped in rows]
