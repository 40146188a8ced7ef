"""What a source gives to the training: a weight, or so many epochs, which are a share of the budget."""

import random
from collections import Counter
from typing import Any

import pytest
import yaml

from stages.mixture import Epochs, load_mixture, parse_mixture, shares
from stages.params import Refusal, parse_params
from stages.pretrain.params import PretrainParams
from stages.pretrain.trunk import trunk_sections

PRETRAIN: dict[str, Any] = {
    "model": {"model_type": "llama"},
    "sequence_length": 8,
    "tokens": 8 * 64 * 10,
    "tokens_per_step": 64,
    "block_samples": 64,
    "optimizer": {"name": "muon"},
    "schedule": {"shape": "wsd"},
}


def pretrain(**changed: Any) -> PretrainParams:
    return parse_params(PretrainParams, {**PRETRAIN, **changed}, "pretrain")


def mixed(**given: Any) -> dict[str, float | Epochs]:
    """A mixture as it stands in params.yaml; {epochs: 2} is written (2,)."""
    written = {name: {"epochs": value[0]} if isinstance(value, tuple) else value for name, value in given.items()}
    return parse_mixture(written, "params.yaml")


@pytest.mark.parametrize("names", [("web", "code", "books"), ("books", "web", "code")])
def test_a_mixture_is_read_in_the_order_of_the_names(tmp_path, names):
    params = tmp_path / "params.yaml"
    section = dict.fromkeys(names, 1) | {"code": {"epochs": 2}}
    params.write_text(yaml.safe_dump({"sources": dict.fromkeys(names), "mixture": section}, sort_keys=False))

    assert list(load_mixture(params).items()) == [("books", 0.5), ("code", Epochs(2)), ("web", 0.5)]


def test_shares_are_the_same_to_the_last_bit_in_whatever_order_weights_are_written():
    weights = {"books": 0.1, "code": 0.2, "web": 0.3}
    backwards = dict(reversed(weights.items()))

    assert parse_mixture(weights, "params.yaml") == parse_mixture(backwards, "params.yaml")
    assert sum(weights.values()) != sum(backwards.values())  # or it would say nothing


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (0, "mixture.web is 0; give a positive number, or {epochs: a positive number}"),
        (-1, "mixture.web is -1; give"),
        (True, "mixture.web is True; give"),
        (None, "mixture.web is None; give"),
        ("2 epochs", "mixture.web is '2 epochs'; give"),
        ([2], r"mixture.web is \[2\]; give"),
        (float("nan"), "mixture.web is nan; give"),
        (float("inf"), "mixture.web is inf; give"),
        (10**400, "mixture.web is 1000*; give"),
        ({}, "mixture.web is {}; give a weight, a positive number, or {epochs: a positive number}"),
        ({"epoch": 2}, "mixture.web is {'epoch': 2}; give"),
        ({"epochs": 2, "weight": 1}, "mixture.web is {'epochs': 2, 'weight': 1}; give"),
        ({"epochs": 0}, "mixture.web.epochs is 0; give a positive number"),
        ({"epochs": -0.5}, "mixture.web.epochs is -0.5; give"),
        ({"epochs": True}, "mixture.web.epochs is True; give"),
        ({"epochs": "two"}, "mixture.web.epochs is 'two'; give"),
        ({"epochs": {"epochs": 2}}, "mixture.web.epochs is {'epochs': 2}; give"),
        ({"epochs": float("nan")}, "mixture.web.epochs is nan; give"),
        ({"epochs": float("inf")}, "mixture.web.epochs is inf; give"),
        ({"epochs": 10**400}, "mixture.web.epochs is 1000*; give"),
    ],
)
def test_an_entry_that_is_neither_weight_nor_epochs_is_named(entry, sentence):
    with pytest.raises(Refusal, match=f"^params.yaml: {sentence}"):
        parse_mixture({"code": 1, "web": entry}, "params.yaml")


@pytest.mark.parametrize("weights", [{"a": 5, "b": 6, "c": 3}, {"a": 0.1, "b": 0.7, "c": 0.1}, {"a": 1e-3, "b": 9}])
def test_weights_alone_are_divided_by_their_sum_and_nothing_else(weights):
    # To the last bit: a share that differs there can be another order, and so another model.
    found = shares(parse_mixture(weights, "params.yaml"), {}, 12_345, "pretrain.tokens")

    assert found == {name: weight / sum(weights.values()) for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("mixture", "sizes", "expected"),
    [
        # Of 100 tokens wiki takes 2 x 10, and the weights share the other 80.
        (mixed(wiki=(2,), web=3, code=1), {"wiki": 10}, {"code": 0.2, "web": 0.6, "wiki": 0.2}),
        (mixed(wiki=(0.5,), web=1), {"wiki": 20, "web": 7}, {"web": 0.9, "wiki": 0.1}),
        (mixed(wiki=(3,), books=(1,), web=1), {"wiki": 10, "books": 20}, {"books": 0.2, "web": 0.5, "wiki": 0.3}),
        # All in epochs: proportions, whatever the budget.
        (mixed(wiki=(3,), web=(1,)), {"wiki": 10, "web": 70}, {"web": 0.7, "wiki": 0.3}),
        (mixed(wiki=(6,), web=(2,)), {"wiki": 10, "web": 70}, {"web": 0.7, "wiki": 0.3}),
    ],
)
def test_epochs_become_shares_by_the_sizes_of_the_sources(mixture, sizes, expected):
    found = shares(mixture, sizes, 100, "pretrain.tokens")

    assert found == pytest.approx(expected)
    assert list(found) == sorted(expected)


@pytest.mark.parametrize("epochs", [4, 4.5])
def test_epochs_that_leave_nothing_for_the_weights_are_refused_with_tokens_and_budget(epochs):
    sentence = (
        rf"the epochs of books {epochs * 1000:,.0f} and wiki 1,000 tokens leave nothing of the 5,000 of "
        "pretrain.tokens for code, web; lower the epochs, or raise pretrain.tokens"
    )

    with pytest.raises(Refusal, match=sentence):
        shares(mixed(books=(epochs,), wiki=(1,), web=1, code=1), {"books": 1000, "wiki": 1000}, 5000, "pretrain.tokens")


def test_a_source_in_epochs_that_has_no_window_is_named():
    for mixture in (mixed(web=(2,), code=1), mixed(web=(2,), code=(1,)), mixed(web=(2,))):
        order = pretrain().sample_order(mixture, {"web": 0, "code": 5 * ("code" in mixture)})

        with pytest.raises(Refusal, match=r"data/tokenize/(web|code) has fewer tokens than one sample"):
            _ = order.stretches


# ---- in the order of the samples ---------------------------------------------------------------------------


def times(order, total: int) -> dict[str, Counter[int]]:
    """How often each window of each source is in the first `total` samples."""
    found: dict[str, Counter[int]] = {source: Counter() for source in order.windows}
    for number in range(total):
        sample = order.sample(number)
        found[sample.source][sample.window] += 1
    return found


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_each_window_is_drawn_as_often_as_its_source_has_epochs(epochs):
    # 640 samples in blocks of 64: 10 x 4 x epochs of wiki, so the blocks have no remainders.
    order = pretrain().sample_order(mixed(wiki=(epochs,), web=1), {"wiki": 40, "web": 1000})

    found = times(order, 640)

    assert found["wiki"] == dict.fromkeys(range(40), epochs)
    assert max(found["web"].values()) == 1


def test_if_all_sources_are_in_epochs_the_budget_decides_how_often_all_goes_round():
    # Three times 40 and once 200 are 320 windows: twice in 640 samples.
    order = pretrain().sample_order(mixed(wiki=(3,), web=(1,)), {"wiki": 40, "web": 200})

    found = times(order, 640)

    assert found["wiki"] == dict.fromkeys(range(40), 6)
    assert found["web"] == dict.fromkeys(range(200), 2)


def test_epochs_are_those_until_the_first_phase():
    phases = [{"after_tokens": 8 * 64 * 5, "mixture": {"wiki": 1, "web": 1}}]
    order = pretrain(phases=phases).sample_order(mixed(wiki=(2,), web=1), {"wiki": 40, "web": 1000})

    assert times(order, 64 * 5)["wiki"] == dict.fromkeys(range(40), 2)
    assert order.drawn(640)["wiki"] == 80 + 5 * 32


def test_epochs_are_refused_by_the_tokens_until_the_first_phase():
    phases = [{"after_tokens": 8 * 64, "mixture": {"web": 1}}]

    with pytest.raises(Refusal, match=r"wiki 640 tokens leave nothing of the 512 of pretrain.phases.0.after_tokens"):
        pretrain(phases=phases).sample_order(mixed(wiki=(2,), web=1), {"wiki": 40, "web": 1000})


@pytest.mark.parametrize(
    ("mixture", "alike"),
    [(mixed(wiki=2, web=1), True), (mixed(wiki=(3,), web=(1,)), True), (mixed(wiki=(2,), web=1), False)],
)
def test_budgets_share_a_trunk_if_they_share_the_order_of_the_samples(mixture, alike):
    budgets = [pretrain(tokens=8 * 64 * blocks) for blocks in (10, 20)]
    orders = [params.sample_order(mixture, {"wiki": 40, "web": 200}) for params in budgets]

    sections = [trunk_sections(params.model_dump(), order) for params, order in zip(budgets, orders, strict=True)]

    assert (sections[0] == sections[1]) is alike
    first, second = ([order.sample(number) for number in range(64)] for order in orders)
    assert (first == second) is alike


@pytest.mark.parametrize("seed", range(20))
def test_a_source_is_off_its_epochs_by_less_than_a_sample_a_block_and_the_way_back_is_there(seed):
    draw = random.Random(seed)
    blocks = draw.randrange(1, 9)
    windows = {name: draw.randrange(30, 90) for name in ("books", "web", "wiki")}
    asked = {"books": draw.uniform(0.1, 0.6), "wiki": draw.uniform(0.1, 0.6)}
    asked = {name: epochs * blocks for name, epochs in asked.items()}
    mixture = mixed(web=1, **{name: (epochs,) for name, epochs in asked.items()})
    order = pretrain(block_samples=160, tokens=8 * 160 * blocks).sample_order(mixture, windows)

    drawn = order.drawn(160 * blocks)

    for name, epochs in asked.items():
        assert abs(drawn[name] - epochs * windows[name]) < blocks
    for number in range(0, 160 * blocks, 7):
        assert order.number(order.sample(number)) == number
