"""The gate refuses what is surely worse, lets through what may be noise, and says which."""

import math

import numpy as np
import polars as pl
import pytest

from flows.publication.gate import ALL, Evaluation, Score, as_markdown, compare, read_evaluation
from stages.params import Refusal


def documents(source, bits_per_byte, count=40, seed=0, prefix=""):
    """Documents of `source` whose scores scatter around `bits_per_byte`; the same seed scatters alike."""
    random = np.random.default_rng(seed)
    sizes = random.integers(500, 3000, count)
    bits = sizes * (bits_per_byte + random.normal(0, 0.3, count))
    ids = [f"{prefix}{source}-{number}" for number in range(count)]
    return pl.DataFrame({"id": ids, "source": source, "bytes": sizes, "bits": bits})


def evaluation(*tables, width=0.1, **tasks):
    table = pl.concat(tables)
    scores = {ALL: value_of(table, width)}
    scores |= {str(name): value_of(part, width) for (name,), part in table.group_by("source", maintain_order=True)}
    return Evaluation(scores | tasks, table)


def value_of(table, width):
    value = table["bits"].sum() / table["bytes"].sum()
    return Score(value, value - width, value + width)


def noisy(table, scale, seed=1):
    """The documents again, each scored a little otherwise."""
    noise = np.random.default_rng(seed).normal(0, scale, len(table)) * table["bytes"].to_numpy()
    return table.with_columns(pl.col("bits") + noise)


WIKI, CODE = documents("wiki", 2.0), documents("code", 1.5, seed=5)


@pytest.mark.parametrize(
    ("wiki", "code", "worse"),
    [
        (0.0, 0.0, []),
        (-0.3, -0.1, []),
        (0.1, 0.0, [ALL, "wiki"]),
        (0.1, -0.2, ["wiki"]),  # what it gains elsewhere doesn't make up for it
        (0.015, 0.0, []),  # surely worse, but by less than is allowed
        (0.0, 0.2, [ALL, "code"]),
    ],
)
def test_a_candidate_is_refused_for_each_score_that_is_surely_worse(wiki, code, worse):
    candidate = evaluation(
        WIKI.with_columns(pl.col("bits") + wiki * pl.col("bytes")),
        CODE.with_columns(pl.col("bits") + code * pl.col("bytes")),
    )

    found = compare(candidate, evaluation(WIKI, CODE))

    assert [row.name for row in found.rows if row.is_worse] == worse
    assert [reason.split(" is worse")[0] for reason in found.reasons] == worse
    assert all(row.how.endswith("documents, paired") for row in found.rows)


def test_noise_between_documents_is_no_reason():
    refused = [
        seed for seed in range(40) if compare(evaluation(noisy(WIKI, 0.1, seed), CODE), evaluation(WIKI, CODE)).reasons
    ]

    assert len(refused) <= 1  # 2.5% of them would be, without the tolerance


def test_the_interval_is_that_of_the_mean_of_differences():
    sizes = np.full(200, 1000)
    ids = [str(number) for number in range(200)]
    noise = np.random.default_rng(3).normal(0.05, 0.2, 200)
    before = pl.DataFrame({"id": ids, "source": "wiki", "bytes": sizes, "bits": sizes * 2.0})
    after = before.with_columns(pl.col("bits") + pl.Series(noise * 1000))

    row = compare(evaluation(after), evaluation(before)).rows[1]

    error = noise.std(ddof=1) / math.sqrt(200)
    assert row.worse_by == pytest.approx(noise.mean(), abs=1e-3)
    assert row.low == pytest.approx(noise.mean() - 1.96 * error, abs=0.15 * error)
    assert row.high == pytest.approx(noise.mean() + 1.96 * error, abs=0.15 * error)


def test_pairs_see_what_intervals_alone_would_not():
    worse = WIKI.with_columns(pl.col("bits") + 0.05 * pl.col("bytes"))
    renamed = worse.with_columns(id="new-" + pl.col("id"))

    paired, unpaired = compare(evaluation(worse), evaluation(WIKI)), compare(evaluation(renamed), evaluation(WIKI))

    assert paired.reasons
    assert not unpaired.reasons
    assert unpaired.rows[0].how == "by the intervals of both"
    assert unpaired.notes == (
        "no held-out document is in both evaluations: they are compared by their intervals alone",
    )


def test_unpaired_intervals_are_joined_by_their_squares():
    renamed = WIKI.with_columns(pl.col("bits") + 0.5 * pl.col("bytes"), id="new-" + pl.col("id"))

    row = compare(evaluation(renamed, width=0.3), evaluation(WIKI, width=0.4)).rows[0]

    assert row.worse_by == pytest.approx(0.5, abs=1e-4)
    assert row.high - row.worse_by == pytest.approx(math.hypot(0.3, 0.4), abs=1e-4)
    assert row.worse_by - row.low == pytest.approx(math.hypot(0.3, 0.4), abs=1e-4)


def test_a_document_that_changed_is_not_the_same_document():
    longer = WIKI.with_columns(pl.col("bytes") + 1)

    assert compare(evaluation(longer), evaluation(WIKI)).notes


def test_few_common_documents_say_too_little():
    others = documents("wiki", 2.0, count=40, seed=9, prefix="new-")

    row = compare(evaluation(pl.concat([WIKI[:10], others])), evaluation(WIKI)).rows[0]

    assert row.how == "by the intervals of both"


def test_a_source_that_comes_or_goes_is_noted_and_not_judged():
    found = compare(evaluation(WIKI, documents("web", 9.0)), evaluation(WIKI, CODE))

    assert found.notes == ("web is new", "code is gone")
    assert [row.name for row in found.rows] == [ALL, "wiki"]


@pytest.mark.parametrize(("value", "is_lower_better", "is_worse"), [
    (0.4, False, True), (0.6, False, False), (0.6, True, True), (0.4, True, False), (0.49, False, False),
])  # fmt: skip
def test_a_task_is_compared_in_its_own_direction(value, is_lower_better, is_worse):
    tasks = [{"task boolq": Score(each, each - 0.02, each + 0.02, is_lower_better)} for each in (value, 0.5)]
    candidate, current = (evaluation(WIKI, **task) for task in tasks)

    found = compare(candidate, current)

    assert bool(found.reasons) == is_worse


def test_without_an_interval_the_difference_itself_decides():
    one = WIKI[:1]

    worse = evaluation(one.with_columns(pl.col("bits") + 0.05 * pl.col("bytes")), width=0.0)

    assert compare(worse, evaluation(one, width=0.0)).reasons
    assert not compare(evaluation(one, width=0.0), evaluation(one, width=0.0)).reasons


def test_the_same_evaluations_give_the_same_comparison_in_any_order():
    candidate, current = evaluation(noisy(WIKI, 0.1), CODE), evaluation(WIKI, CODE)
    shuffled = [
        Evaluation(each.scores, each.documents.sample(fraction=1, shuffle=True, seed=4))
        for each in (candidate, current)
    ]

    assert compare(*shuffled) == compare(candidate, current)
    assert as_markdown(compare(candidate, current))[2].startswith(f"| {ALL} | ")


@pytest.mark.parametrize("metrics", [None, {}, {"bits_per_byte": {"model": 1.0}, "sources": {}}, []])
def test_what_is_no_evaluation_is_refused(metrics):
    with pytest.raises(Refusal, match="is no evaluation"):
        read_evaluation(metrics, WIKI)


def test_what_evaluate_writes_is_read():
    metrics = {
        "bits_per_byte": {"model": 2.0},
        "sources": {"wiki": {"model": 2.0}, "one": {"model": 1.0}},
        "intervals": {"all": {"low": 1.9, "high": 2.2}, "sources": {"wiki": {"low": 1.8, "high": 2.1}, "one": None}},
        "tasks": {"boolq": {"value": 0.5, "low": 0.4, "high": 0.6}},
    }

    scores = read_evaluation(metrics, WIKI).scores

    assert scores[ALL] == Score(2.0, 1.9, 2.2)
    assert scores["one"] == Score(1.0, 1.0, 1.0)
    assert scores["task boolq"] == Score(0.5, 0.4, 0.6, is_lower_better=False)
