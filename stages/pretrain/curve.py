"""What became of each step as a curve: loss, smoothed, gradient; as a file that `dvc plots` draws."""

import math
from collections.abc import Sequence
from pathlib import Path

from stages.documents import publish
from stages.pretrain.history import Step

SMOOTHED_OVER = 0.95


def smooth(losses: list[float]) -> list[float]:
    """The exponential moving average of `losses`, without the bias of its start; what isn't finite is left out."""
    averages, average, weight = [], 0.0, 0.0
    for loss in losses:
        if math.isfinite(loss):
            average = SMOOTHED_OVER * average + (1 - SMOOTHED_OVER) * loss
            weight = SMOOTHED_OVER * weight + (1 - SMOOTHED_OVER)
        averages.append(average / weight if weight else math.nan)
    return averages


def write_curve(steps: Sequence[Step], tokens_per_step: int, path: Path) -> None:
    """Write loss and gradient by step and tokens as CSV; `skipped` is 1 for a step that changed no weight."""
    smoothed = smooth([step.loss for step in steps])
    rows = [
        f"{number},{number * tokens_per_step},{step.loss:.4f},{average:.4f},{step.gradient_norm:.4f},{step.skipped:d}"
        for number, (step, average) in enumerate(zip(steps, smoothed, strict=True), start=1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    head = "step,tokens,loss,smoothed,gradient_norm,skipped"
    partial.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    publish(partial, path)
