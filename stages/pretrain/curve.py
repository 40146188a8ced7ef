"""The loss of each step as a curve: smoothed, and as a file that `dvc plots` draws."""

import math
from pathlib import Path

from stages.documents import publish

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


def write_curve(losses: list[float], smoothed: list[float], tokens_per_step: int, path: Path) -> None:
    """Write loss by step and tokens as CSV, which `dvc plots` draws."""
    rows = [
        f"{step},{step * tokens_per_step},{loss:.4f},{average:.4f}"
        for step, (loss, average) in enumerate(zip(losses, smoothed, strict=True), start=1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("\n".join(["step,tokens,loss,smoothed", *rows]) + "\n", encoding="utf-8")
    publish(partial, path)
