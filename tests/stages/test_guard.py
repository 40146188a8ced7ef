"""Which steps the guard skips, when it stops, and whom it names."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from stages.documents import write_manifest, write_shard
from stages.order import Order
from stages.params import Refusal
from stages.pretrain.guard import check, stands_out
from stages.pretrain.history import Step
from stages.pretrain.owners import documents_of
from stages.pretrain.params import GuardParams
from stages.tokens import SIDECAR_SCHEMA, TokenStream, write_tokens

GUARD = GuardParams(window=8, most=2)
# Loss 2 or 4, norm 1 or 3: means 3 and 2, standard deviations sqrt(8/7) = 1.069; six of them: 9.41 and 8.41.
CALM = [Step(3 + each, 2 + each) for each in (1, -1) * 4]


@pytest.mark.parametrize(
    ("step", "skipped"),
    [
        (Step(9.4, 8.4), False),
        (Step(9.5, 8.4), True),
        (Step(9.4, 8.5), True),
        (Step(-100.0, 0.0), False),
        (Step(math.nan, 1.0), True),
        (Step(3.0, math.inf), True),
    ],
)
def test_a_step_beyond_six_standard_deviations_is_skipped(step, skipped):
    assert stands_out(step, CALM, GUARD) is skipped
    assert stands_out(step, CALM, None) is False


def test_only_the_last_accepted_steps_are_looked_back_on():
    wild, refused = [Step(1000.0 * each, 1.0) for each in range(9)], [Step(500.0, 2.0, skipped=True)] * 20

    assert stands_out(Step(9.5, 2.0), [*wild, *CALM, *refused], GUARD)


def test_before_half_a_window_only_what_isnt_finite_is_skipped():
    assert not stands_out(Step(1e9, 1e9), CALM[:3], GUARD)
    assert stands_out(Step(1e9, 1e9), CALM[:4], GUARD)
    assert stands_out(Step(math.inf, 1.0), [], GUARD)


def skip(steps):
    return [replace(step, skipped=True) for step in steps]


def test_too_many_skipped_steps_in_a_window_stop_the_training_with_their_documents():
    steps = [*CALM, *skip(CALM[:2])]
    check(steps, GUARD, lambda step: [])

    with pytest.raises(
        Refusal, match=r"3 of the last 8 steps were skipped.*step 9 had a8; step 10 had a9; step 11 had a10"
    ):
        check([*steps, *skip(CALM[:1])], GUARD, lambda step: [f"a{step}"])


def test_skipped_steps_that_are_far_apart_stop_nothing():
    check([*skip(CALM[:2]), *CALM, *skip(CALM[:2])], GUARD, lambda step: [])


def test_a_refusal_names_only_so_many_documents():
    with pytest.raises(Refusal) as refused:
        check([Step(math.nan, 1.0)], None, lambda step: [f"<{number}>" for number in range(1000)])

    assert str(refused.value).count("<") == 50
    assert "and 950 more" in str(refused.value)


def test_the_documents_of_a_sample_are_those_that_own_its_tokens(tmp_path):
    (tmp_path / "a").mkdir()
    draw, owners = np.random.default_rng(0), []
    for shard in range(3):
        lengths = draw.integers(1, 9, 6)
        ids = [f"{shard}-{number}" for number in range(6)]
        owners += [name for name, length in zip(ids, lengths, strict=True) for _ in range(length)]
        write_tokens(tmp_path / "a", shard, [np.zeros(length, int) for length in lengths], "uint16")
        firsts = np.cumsum(lengths) - lengths
        table = pl.DataFrame({"id": ids, "first_token": firsts, "tokens": lengths}, schema=SIDECAR_SCHEMA)
        write_shard(tmp_path / f"a/documents-{shard:05d}.parquet", table)
    write_manifest(tmp_path / "a", {})
    order = Order(0, 4, {"a": (len(owners) - 1) // 8}, {"a": 1.0})

    for number in range(8):
        begin = order.sample(number).window * 8
        found = documents_of([number], order, {"a": TokenStream.open(tmp_path / "a")}, tmp_path, 8)

        assert found == list(dict.fromkeys(owners[begin : begin + 9]))
