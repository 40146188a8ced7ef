"""A forecast: the law of a ladder, asked for a larger model, with how sure it is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecast.law import Law, Points, fit, refit
from forecast.runs import Run
from stages.params import Refusal

RESAMPLES = 300
COVERAGE = 95  # percent of the resamples


@dataclass(frozen=True)
class Forecast:
    """What the ladder says of the target, in bits per byte."""

    runs: tuple[Run, ...]
    target: Run
    law: Law
    predicted: float
    low: float  # of the interval that covers 95% of the bootstrap
    high: float
    largest: Run  # of the ladder
    largest_predicted: float | None  # by a law of the runs of all smaller models; None: too few are left

    @property
    def error(self) -> float | None:
        """Predicted less result, if there is one."""
        return None if self.target.bits_per_byte is None else self.predicted - self.target.bits_per_byte


def make_forecast(runs: Sequence[Run], target: Run, resamples: int = RESAMPLES) -> Forecast:
    """Fit the finished `runs` and predict `target`, which isn't among them.

    The interval is of the fit alone: how much it hangs on single runs. It knows nothing of other seeds, and nothing of
    a law that bends beyond the ladder.

    Raises:
        Refusal: if the runs are too few.
    """
    known = [run for run in runs if run.bits_per_byte is not None]
    points = points_of(known)
    law, unknowns = fit(points)
    asked = target.parameters, target.tokens
    again = [each.loss(*asked) for each in refit(points, unknowns, resamples)]
    low, high = np.percentile(again, [(100 - COVERAGE) / 2, (100 + COVERAGE) / 2])
    largest = max(known, key=lambda run: (run.parameters, run.tokens))
    return Forecast(
        tuple(known), target, law, law.loss(*asked), float(low), float(high), largest, foreseen(known, largest)
    )


def points_of(runs: Sequence[Run]) -> Points:
    """The runs as points of a fit."""
    losses = [run.bits_per_byte for run in runs if run.bits_per_byte is not None]
    return Points.of([run.parameters for run in runs], [run.tokens for run in runs], losses)


def foreseen(runs: Sequence[Run], largest: Run) -> float | None:
    """What the runs of smaller models would have said of `largest`: a test that needs no larger run."""
    smaller = [run for run in runs if run.parameters < largest.parameters]
    try:
        return fit(points_of(smaller))[0].loss(largest.parameters, largest.tokens)
    except Refusal:
        return None
