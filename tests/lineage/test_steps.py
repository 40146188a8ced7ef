"""The arithmetic of steps agrees with the order that trains, and with counting one by one."""

import random

import numpy as np
import pytest

from lineage.steps import Plan, Times, drawn, seen, target_tokens, times_seen
from stages.order import Order, Phase

CASES = range(25)


def order_of(draw: random.Random) -> Order:
    """Any order."""
    names = "abc"[: draw.randrange(1, 4)]
    windows, size = {name: draw.randrange(1, 300) for name in names}, draw.randrange(12, 70)

    def mixture(sources: str) -> dict[str, float]:
        return {name: draw.randrange(1, 4) / 10 for name in sources}

    begins = sorted(draw.sample(range(1, 30), draw.randrange(3)))
    phases = tuple(Phase(begin * size, mixture(names[: draw.randrange(len(names)) + 1])) for begin in begins)
    return Order(draw.randrange(9), size, windows, mixture(names), phases)


@pytest.mark.parametrize("case", CASES)
def test_windows_are_found_at_the_numbers_at_which_the_order_draws_them(case):
    draw = random.Random(case)
    order, total = order_of(draw), draw.randrange(1, 3000)
    samples = [order.sample(number) for number in range(total)]

    for source, size in order.windows.items():
        begin = draw.randrange(size)
        asked = range(begin, draw.randrange(begin, size) + 1)
        found = seen(order, source, asked, total)

        assert list(zip(found.numbers.tolist(), found.epochs.tolist(), found.windows.tolist(), strict=True)) == [
            (number, sample.epoch, sample.window)
            for number, sample in enumerate(samples)
            if sample.source == source and sample.window in asked
        ]


@pytest.mark.parametrize("case", CASES)
def test_windows_are_drawn_as_often_as_the_order_draws_them(case):
    draw = random.Random(case)
    order, end = order_of(draw), draw.randrange(1, 3000)
    begin = draw.randrange(end)

    times = drawn(order, begin, end)

    samples = [order.sample(number) for number in range(begin, end)]
    for source, size in order.windows.items():
        own = [sample.window for sample in samples if sample.source == source]
        assert times[source].each.tolist() == np.bincount(np.array(own, int), minlength=size).tolist()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_a_token_is_seen_where_it_goes_in_or_is_asked_for(case, causal):
    draw = random.Random(case)
    length, windows = draw.randrange(2, 9), draw.randrange(1, 9)
    plan = Plan(Order(0, 8, {"a": windows}, {"a": 1.0}), length, 4, 10, causal, ())
    times = np.array([draw.randrange(3) for _ in range(windows)])
    begin = draw.randrange(length * windows + 5)
    end = begin + draw.randrange(1, 2 * length)
    inputs = [range(window * length, window * length + length) for window in range(windows)]
    targets = [range(own.start + 1, own.stop + 1) if causal else own for own in inputs]

    holding = [
        window
        for window in range(windows)
        if any(at in inputs[window] or at in targets[window] for at in range(begin, end))
    ]
    asked_for = sum(times[window] for window in range(windows) for at in range(begin, end) if at in targets[window])

    assert list(plan.windows_of("a", begin, end)) == holding
    assert times_seen(plan, Times(times), np.array([begin]), np.array([end])).tolist() == [times[holding].sum()]
    assert target_tokens(plan, Times(times), np.array([begin]), np.array([end])).tolist() == [asked_for]


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [(1, "none", "step-00000020"), (20, "none", "step-00000020"), (21, "step-00000020", "step-00000040"),
     (41, "step-00000040", "models/base")],
)  # fmt: skip
def test_a_checkpoint_has_the_steps_up_to_its_own(step, before, after):
    plan = Plan(Order(0, 8, {"a": 9}, {"a": 1.0}), 4, 2, 50, True, (20, 40))

    assert (plan.name(plan.before(step)), plan.name(plan.after(step))) == (before, after)


def test_a_document_after_the_last_whole_window_is_in_no_window():
    plan = Plan(Order(0, 8, {"a": 3}, {"a": 1.0}), 4, 2, 50, True, ())

    assert not plan.windows_of("a", 13, 15)
    assert list(plan.windows_of("a", 12, 13)) == [2]
