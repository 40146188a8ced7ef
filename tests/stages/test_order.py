from collections import Counter
from dataclasses import replace

import pytest

from stages.order import Order, Phase, Sample, apportion, count_windows, permute, unpermute
from stages.params import Refusal

PHASES = (Phase(64 * 5, {"code": 1, "web": 1}), Phase(64 * 9, {"web": 1}), Phase(64 * 12, {"code": 3, "web": 1}))
FIRST = [Sample("code", 0, 17), Sample("web", 0, 17), Sample("web", 0, 65)]
ORDER = Order(seed=1, block_samples=64, windows={"web": 100, "code": 37}, mixture={"web": 0.7, "code": 0.3})
PHASED = replace(ORDER, phases=PHASES)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_a_permutation_sends_each_number_to_another(size):
    images = [permute(index, size, ("key",)) for index in range(size)]

    assert sorted(images) == list(range(size))
    assert [unpermute(image, size, ("key",)) for image in images] == list(range(size))


def test_permutations_of_different_keys_differ():
    assert [permute(i, 100, ("a",)) for i in range(100)] != [permute(i, 100, ("b",)) for i in range(100)]


@pytest.mark.parametrize(
    ("total", "shares", "counts"),
    [
        (10, {"a": 0.5, "b": 0.5}, {"a": 5, "b": 5}),
        (10, {"a": 2, "b": 1}, {"a": 7, "b": 3}),
        (3, {"a": 1, "b": 1}, {"a": 2, "b": 1}),  # equal remainders: the first
        (7, {"a": 0.05, "b": 0.95}, {"a": 0, "b": 7}),
    ],
)
def test_shares_become_whole_numbers_by_largest_remainder(total, shares, counts):
    assert apportion(total, shares) == counts


def test_each_block_holds_the_mixture():
    blocks = [Counter(ORDER.sample(64 * block + place).source for place in range(64)) for block in range(5)]

    assert all(block == {"web": 45, "code": 19} for block in blocks)


def test_each_epoch_shows_every_window_once():
    samples = [ORDER.sample(number) for number in range(64 * 20)]
    first = [sample.window for sample in samples if sample.source == "code" and sample.epoch == 0]

    assert sorted(first) == list(range(37))


def test_in_a_phase_each_block_holds_the_phase_s_mixture():
    blocks = [Counter(PHASED.sample(64 * block + place).source for place in range(64)) for block in (4, 5, 8, 9, 12)]

    assert [block["web"] for block in blocks] == [45, 32, 32, 64, 16]


def test_until_its_first_phase_an_order_is_what_it_is_without():
    assert [PHASED.sample(number) for number in range(320)] == [ORDER.sample(number) for number in range(320)]


def test_a_phase_goes_on_with_each_source_where_the_one_before_it_was():
    samples = [PHASED.sample(number) for number in range(64 * 20)]

    for source, size in PHASED.windows.items():
        own = [sample for sample in samples if sample.source == source]
        for epoch in range(own[-1].epoch):
            assert sorted(sample.window for sample in own if sample.epoch == epoch) == list(range(size))


@pytest.mark.parametrize("order", [ORDER, PHASED])
def test_the_number_of_a_sample_leads_back_to_it(order):
    for number in range(2000):
        assert order.number(order.sample(number)) == number


def test_a_sample_of_a_source_that_is_drawn_no_more_has_no_number():
    order = replace(ORDER, phases=(Phase(64, {"web": 1}),))

    assert order.number(Sample("code", 9, 0)) is None


@pytest.mark.parametrize("order", [ORDER, PHASED])
def test_all_numbers_at_which_a_window_is_trained_on_are_found(order):
    expected: dict[tuple[str, int], list[int]] = {}
    for number in range(1500):
        sample = order.sample(number)
        expected.setdefault((sample.source, sample.window), []).append(number)

    for (source, window), numbers in expected.items():
        assert sorted(order.numbers(source, window, before=1500)) == numbers


@pytest.mark.parametrize("order", [ORDER, PHASED])
@pytest.mark.parametrize("total", [0, 1, 63, 64, 65, 200, 320, 321, 640, 1000])
def test_the_samples_drawn_of_each_source_are_counted(order, total):
    counted = Counter(order.sample(number).source for number in range(total))

    assert order.drawn(total) == {"web": counted["web"], "code": counted["code"]}


def test_the_order_is_what_it_has_always_been():
    # A change here would make every model another one, and break each way back to a document.
    assert [ORDER.sample(number) for number in range(3)] == FIRST


def test_the_order_in_which_the_sources_are_named_changes_nothing():
    turned = Order(
        ORDER.seed, ORDER.block_samples, dict(reversed(ORDER.windows.items())), dict(reversed(ORDER.mixture.items()))
    )

    assert [turned.sample(number) for number in range(200)] == [ORDER.sample(number) for number in range(200)]


def test_equal_remainders_go_to_the_first_by_name():
    order = Order(0, 3, {"b": 5, "a": 5}, {"b": 0.5, "a": 0.5})

    assert order.stretches[0].counts == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("windows", "mixture", "named"),
    [
        ({"web": 0, "code": 5}, {"web": 0.5, "code": 0.5}, "data/tokenize/web"),
        ({"web": 5, "code": 5}, {"web": 0.999, "code": 0.001}, "mixture.code"),
    ],
)
def test_a_source_too_small_for_the_order_is_named(windows, mixture, named):
    with pytest.raises(Refusal, match=named):
        _ = Order(1, 64, windows, mixture).stretches


@pytest.mark.parametrize(("tokens", "windows"), [(0, 0), (8, 0), (9, 1), (16, 1), (17, 2)])
def test_a_window_needs_one_token_more_than_its_length(tokens, windows):
    assert count_windows(tokens, 8) == windows
