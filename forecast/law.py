"""The loss as a law of parameters and tokens, fitted to runs.

    L(N, D) = E + A / N^alpha + B / D^beta

Approach 3 of Hoffmann et al. 2022 (arXiv:2203.15556, section 3.3 and appendix D.3): the Huber loss of the error in
log L, minimised from several starts. Their optimiser stopped too early, as Besiroglu et al. 2024 (arXiv:2404.10102)
found: the loss must be a sum over runs, not a mean, and the tolerance tight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from stages.params import Refusal

DELTA = 1e-3  # beyond this error in log L, a run pulls no harder
SCALE = 1e3  # of the objective, so that the optimiser's tolerances are small beside it
TERMS = 5  # unknowns; fewer runs don't determine them
LEVELS = 3  # sizes and budgets at least: two of them leave an exponent and E open
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Law:
    """A fitted law; the unit of L and E is that of the losses, A and B have it, too."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """L of a model of so many parameters on so many tokens."""
        return float(self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta)


@dataclass(frozen=True)
class Points:
    """Runs as columns, float64, shape (runs,); logarithms, those of N and D less their means.

    Centred, the unknowns hardly depend on one another, and the same starts suit models of any size.
    """

    parameters: Floats
    tokens: Floats
    losses: Floats
    means: tuple[float, float]

    @staticmethod
    def of(parameters: Sequence[float], tokens: Sequence[float], losses: Sequence[float]) -> "Points":
        """The points of these runs."""
        n, d, loss = (np.log(np.asarray(each, dtype=np.float64)) for each in (parameters, tokens, losses))
        means = float(n.mean()), float(d.mean())
        return Points(n - means[0], d - means[1], loss, means)

    def chosen(self, rows: NDArray[np.int64]) -> "Points":
        """Some of them, centred as all were."""
        return Points(self.parameters[rows], self.tokens[rows], self.losses[rows], self.means)

    def law(self, x: Floats) -> Law:
        """What the unknowns `x` (log A and log B at the means, log E, alpha, beta) stand for."""
        a, b, e, alpha, beta = x
        A, B = np.exp(a + alpha * self.means[0]), np.exp(b + beta * self.means[1])
        return Law(float(np.exp(e)), float(A), float(B), float(alpha), float(beta))


def fit(points: Points) -> tuple[Law, Floats]:
    """The law that fits `points` best, and its unknowns, from which to fit a part of them.

    Raises:
        Refusal: if there are too few, or of too few sizes or budgets.
    """
    count, sizes, budgets = (len(each) for each in (points.losses, set(points.parameters), set(points.tokens)))
    if count <= TERMS or sizes < LEVELS or budgets < LEVELS:
        raise Refusal(
            f"{count} runs of {sizes} sizes and {budgets} budgets don't determine a law of {TERMS} unknowns; train "
            f"more, of at least {LEVELS} sizes and {LEVELS} budgets (ladder/params.yaml)"
        )
    found = min((_minimize(points, start) for start in starts(points)), key=lambda each: each[1])
    return points.law(found[0]), found[0]


def starts(points: Points) -> list[Floats]:
    """72 places to begin at: the loss divided between the three terms in several ways, steep and flat."""
    low, top = float(points.losses.min()), float(points.losses.mean())
    grid = product((-3, -1.5, 0), (-3, -1.5, 0), (-0.7, -0.1), (0.2, 0.6), (0.2, 0.6))
    return [np.array([top + a, top + b, low + e, alpha, beta]) for a, b, e, alpha, beta in grid]


def _minimize(points: Points, start: Floats) -> tuple[Floats, float]:
    """Unknowns at a minimum, and the objective there."""
    bounds = [(None, None)] * 3 + [(0.0, 5.0)] * 2
    options = {"maxiter": 1000, "maxfun": 2000, "ftol": 1e-13, "gtol": 1e-9}
    done = minimize(objective, start, (points,), method="L-BFGS-B", jac=True, bounds=bounds, options=options)
    return done.x, float(done.fun)


def objective(x: Floats, points: Points) -> tuple[float, Floats]:
    """SCALE times the sum over runs of the Huber loss of the error in log L, and its gradient."""
    a, b, e, alpha, beta = x
    terms = np.stack([a - alpha * points.parameters, b - beta * points.tokens, np.full_like(points.losses, e)])
    top = terms.max(axis=0)
    weights = np.exp(terms - top)
    total = weights.sum(axis=0)
    error = top + np.log(total) - points.losses
    size = np.abs(error)
    value = np.where(size <= DELTA, error**2 / 2, DELTA * (size - DELTA / 2)).sum()
    by_term = np.clip(error, -DELTA, DELTA) * weights / total
    slopes = [-(by_term[0] * points.parameters).sum(), -(by_term[1] * points.tokens).sum()]
    return SCALE * float(value), SCALE * np.array([*by_term.sum(axis=1), *slopes])


def refit(points: Points, start: Floats, resamples: int, seed: int = 0) -> list[Law]:
    """The laws of `resamples` bootstrap samples of `points` (drawn with replacement), each fitted from `start`."""
    draw = np.random.default_rng(seed)
    count = len(points.losses)
    samples = [points.chosen(draw.integers(0, count, count)) for _ in range(resamples)]
    return [points.law(_minimize(sample, start)[0]) for sample in samples]
