"""The law is recovered from losses that follow it, and from the figure that it was first fitted to."""

import csv
import os

import numpy as np
import pytest

from forecast.forecast import make_forecast
from forecast.law import DELTA, SCALE, Law, Points, fit, objective, refit
from forecast.runs import Run
from stages.params import Refusal

KNOWN = Law(E=1.7, A=400.0, B=1000.0, alpha=0.35, beta=0.32)
SIZES = [2e5, 5e5, 1.2e6, 3e6, 8e6]
BUDGETS = [3e6, 1e7, 4e7, 1.5e8]
GRID = [(size, budget) for size in SIZES for budget in BUDGETS]
CHINCHILLA = os.environ.get("PEDIGREE_TEST_CHINCHILLA")


def points_of(law, noise=0.0):
    draw = np.random.default_rng(3)
    losses = [law.loss(*each) * np.exp(draw.normal(0, noise)) for each in GRID]
    return Points.of([size for size, _ in GRID], [budget for _, budget in GRID], losses)


def test_known_coefficients_are_recovered_from_losses_that_follow_them():
    law, _ = fit(points_of(KNOWN))

    assert (law.E, law.alpha, law.beta) == pytest.approx((KNOWN.E, KNOWN.alpha, KNOWN.beta), rel=0.01)
    assert (np.log(law.A), np.log(law.B)) == pytest.approx((np.log(KNOWN.A), np.log(KNOWN.B)), rel=0.01)


def test_a_larger_model_is_foreseen_from_noisy_runs_within_the_interval():
    runs = points_of(KNOWN, noise=0.003)
    bigger, longer = 3e7, 6e8

    law, unknowns = fit(runs)
    spread = [each.loss(bigger, longer) for each in refit(runs, unknowns, resamples=60)]

    truth = KNOWN.loss(bigger, longer)
    assert law.loss(bigger, longer) == pytest.approx(truth, rel=0.02)
    assert np.percentile(spread, 2.5) < truth < np.percentile(spread, 97.5)


def test_one_run_that_went_wrong_hardly_moves_the_law():
    points = points_of(KNOWN)
    points.losses[7] += 0.3

    law, _ = fit(points)

    assert law.loss(3e7, 6e8) == pytest.approx(KNOWN.loss(3e7, 6e8), rel=1e-3)


def test_the_gradient_is_that_of_the_objective():
    points, x = points_of(KNOWN, noise=0.01), np.array([0.3, -0.2, 0.4, 0.3, 0.5])
    step = 1e-6

    _, gradient = objective(x, points)

    for place in range(len(x)):
        moved = np.eye(len(x))[place] * step
        slope = (objective(x + moved, points)[0] - objective(x - moved, points)[0]) / (2 * step)
        assert gradient[place] == pytest.approx(slope, rel=1e-4)


def test_the_objective_is_a_sum_of_huber_losses_worked_by_hand():
    points = Points.of([1e6, 1e6], [1e7, 1e7], [2.0, 2.0])
    errors = 1e-4, 1e-2
    small, large = (objective(np.array([-50, -50, np.log(2) + each, 0, 0]), points)[0] / SCALE for each in errors)

    assert small == pytest.approx(2 * errors[0] ** 2 / 2)
    assert large == pytest.approx(2 * DELTA * (errors[1] - DELTA / 2))


@pytest.mark.parametrize(
    "rows",
    [
        [*GRID[:1], *GRID[5:6], *GRID[10:11], *GRID[13:15]],
        [(2e5, 1e6 * each) for each in range(1, 9)],
        [(each, d) for each in SIZES for d in BUDGETS[:2]],
    ],
)
def test_too_few_runs_or_sizes_or_budgets_are_refused(rows):
    with pytest.raises(Refusal, match="don't determine a law"):
        fit(Points.of([size for size, _ in rows], [budget for _, budget in rows], [3.0] * len(rows)))


@pytest.mark.skipif(not CHINCHILLA, reason="PEDIGREE_TEST_CHINCHILLA doesn't name the file of Besiroglu et al.")
def test_the_figure_of_the_chinchilla_paper_gives_the_fit_of_its_replication():
    # Besiroglu et al. 2024, arXiv:2404.10102: data/svg_extracted_data.csv of epoch-research/analyzing-chinchilla.
    with open(CHINCHILLA, encoding="utf-8") as file:
        rows = [
            tuple(float(row[key]) for key in ("Model Size", "Training FLOP", "loss")) for row in csv.DictReader(file)
        ]
    fifth = sorted(loss for *_, loss in rows)[-5]
    kept = [row for row in rows if row[2] < fifth]
    points = Points.of([n for n, _, _ in kept], [flops / (6 * n) for n, flops, _ in kept], [loss for *_, loss in kept])

    law, unknowns = fit(points)

    assert len(kept) == 240
    assert pytest.approx(477.8, rel=1e-3) == law.A
    assert pytest.approx(2143.4, rel=1e-3) == law.B
    assert (law.E, law.alpha, law.beta) == pytest.approx((1.81722, 0.34731, 0.36717), abs=2e-5)
    assert objective(unknowns, points)[0] / SCALE == pytest.approx(0.0010183, abs=1e-7)


def runs_of(law):
    return [Run(f"{n:g}-{d:g}", int(n), int(d), law.loss(n, d)) for n, d in GRID]


def test_a_forecast_stands_beside_its_result_and_foresees_the_ladders_own_largest_model():
    target = Run("params.yaml", 30_000_000, 600_000_000, bits_per_byte=KNOWN.loss(3e7, 6e8) + 0.05)

    found = make_forecast(runs_of(KNOWN), target, resamples=20)

    assert found.error == pytest.approx(-0.05, abs=0.01)
    assert found.low <= found.predicted <= found.high
    assert (found.largest.parameters, found.largest.tokens) == (8_000_000, 150_000_000)
    assert found.largest_predicted == pytest.approx(found.largest.bits_per_byte, rel=0.01)
