"""A forecast as a page for people, and as JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict

from forecast.forecast import COVERAGE, Forecast


def as_text(forecast: Forecast) -> str:
    """The ladder, its law, and the prediction beside the result."""
    return "\n\n".join("\n".join(section(forecast)) for section in (ladder, law, prediction))


def ladder(forecast: Forecast) -> Iterator[str]:
    """Every run beside what the law says of it."""
    yield f"{'run':<16}{'parameters':>14}{'tokens':>14}{'bits per byte':>16}{'by the law':>13}"
    for run in forecast.runs:
        fitted = forecast.law.loss(run.parameters, run.tokens)
        yield f"{run.name:<16}{run.parameters:>14,}{run.tokens:>14,}{run.bits_per_byte:>16.4f}{fitted:>13.4f}"


def law(forecast: Forecast) -> Iterator[str]:
    """The law with its numbers, and how it does on the largest model of the ladder."""
    fitted, largest = forecast.law, forecast.largest
    yield (
        f"L(N, D) = {fitted.E:.4g} + {fitted.A:.4g} / N^{fitted.alpha:.4f} + {fitted.B:.4g} / D^{fitted.beta:.4f}"
        "  bits per byte; N: all parameters, D: tokens"
    )
    if forecast.largest_predicted is not None:
        yield (
            f"Without the largest model it would have said {forecast.largest_predicted:.4f} of {largest.name}, "
            f"which got {largest.bits_per_byte:.4f}"
        )


def prediction(forecast: Forecast) -> Iterator[str]:
    """What is predicted, and what came out."""
    target = forecast.target
    far = target.parameters * target.tokens / max(run.parameters * run.tokens for run in forecast.runs)
    yield (
        f"{target.name}: {target.parameters:,} parameters, {target.tokens:,} tokens, {far:.1f} times the compute of "
        "the ladder's largest run"
    )
    yield (
        f"  predicted {forecast.predicted:.4f}  ({COVERAGE}% of the bootstrap: {forecast.low:.4f} to "
        f"{forecast.high:.4f}; of the fit alone)"
    )
    if forecast.error is None:
        yield "  result    not there yet: train and evaluate it by `dvc repro`"
    else:
        yield f"  result    {target.bits_per_byte:.4f}  (predicted less result: {forecast.error:+.4f})"


def as_json(forecast: Forecast) -> str:
    """All of it."""
    return json.dumps({**asdict(forecast), "error": forecast.error}, indent=2)
