"""Servers are asked again with growing waits, and no more often than one may."""

import time

import pytest

from stages import remote
from stages.params import Refusal
from stages.remote import Interrupted, Pace, patiently
from stages.settings import settings


@pytest.fixture
def waits(monkeypatch):
    """How long was waited, each time; nobody really waits."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def test_the_waits_grow_to_a_minute_and_are_drawn_from_the_upper_half(monkeypatch, waits):
    monkeypatch.setattr(remote, "ATTEMPTS", 9)

    with pytest.raises(Refusal, match=r"^a\.txt: it is busy$"):
        patiently(lambda: _raise(Interrupted("it is busy")), "a.txt")

    longest = [1, 2, 4, 8, 16, 32, 60, 60]
    assert len(waits) == len(longest)
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True))
    assert waits != longest


def test_whoever_comes_further_has_all_attempts_again(waits):
    fates = iter([Interrupted("broke off", advanced=True)] * 20 + [None])

    assert patiently(lambda: _raise(fate) if (fate := next(fates)) else "whole", "a.txt") == "whole"
    assert len(waits) == 20
    assert max(waits) <= 1


def _raise(error: Exception) -> None:
    raise error


def test_requests_are_spread_at_their_pace(monkeypatch, waits):
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    pace = Pace(4)

    for _ in range(4):
        pace.wait()

    assert waits == [0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("value", "web", "other"),
    [("", None, None), ("4", 4, 4), ("web=0.5", 0.5, None), ("4,web=0.5", 0.5, 4)],
)
def test_a_pace_is_for_all_sources_or_for_one(monkeypatch, value, web, other):
    monkeypatch.setenv("PEDIGREE_REQUESTS_PER_SECOND", value)

    found = settings()

    assert (found.allowed_requests("web"), found.allowed_requests("books")) == (web, other)


@pytest.mark.parametrize("value", ["fast", "web=", "0", "-1", "web=nan", "web=inf"])
def test_a_pace_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv("PEDIGREE_REQUESTS_PER_SECOND", value)

    with pytest.raises(Refusal, match=r"environment variable PEDIGREE_REQUESTS_PER_SECOND: "):
        settings()
