"""Failures and refusals reach people, by a real HTTP server."""

import logging

import pytest
from webhook import listening

from flows import notify
from flows.notify import message, tell_people

SECRET = "very-secret"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(notify, "PAUSES_SECONDS", (0.0, 0.0, None))


@pytest.fixture
def said(caplog):
    """All that is logged, by httpx too."""
    with caplog.at_level(logging.DEBUG):
        yield caplog
    assert SECRET not in caplog.text


def test_people_get_the_sentence_and_the_details(monkeypatch, said):
    with listening() as webhook:
        monkeypatch.setenv("PEDIGREE_FLOW_WEBHOOK", webhook.url)

        assert tell_people("failure", "the build broke", {"stage": "dedup", "empty": "", "none": None})

    [posted] = webhook.messages
    assert posted["text"].splitlines()[0].endswith(": the build broke")
    assert posted["text"].splitlines()[1:] == ["stage: dedup"]
    assert (posted["kind"], posted["sentence"], posted["details"]) == (
        "failure", "the build broke", {"stage": "dedup"},
    )  # fmt: skip
    assert "failure: the build broke" in said.text


def test_a_webhook_that_is_busy_is_tried_three_times(monkeypatch, said):
    with listening() as webhook:
        monkeypatch.setenv("PEDIGREE_FLOW_WEBHOOK", webhook.url)
        webhook.answers = [(503, "busy"), (429, "slowly"), (200, "ok")]

        assert tell_people("failure", "the build broke")

    assert len(webhook.messages) == 3


def test_a_webhook_that_refuses_is_not_asked_again(monkeypatch, said):
    with listening() as webhook:
        monkeypatch.setenv("PEDIGREE_FLOW_WEBHOOK", webhook.url)
        webhook.answers = [(404, "no such channel")]

        assert not tell_people("failure", "the build broke")

    assert len(webhook.messages) == 1
    assert "the webhook (PEDIGREE_FLOW_WEBHOOK) was not reached: it answered 404" in said.text


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9/very-secret", "very-secret", "http://127.0.0.1:port/very-secret", "ftp://very-secret/x"],
)
def test_a_webhook_that_is_not_there_fails_nothing_and_stays_secret(monkeypatch, said, url):
    monkeypatch.setenv("PEDIGREE_FLOW_WEBHOOK", url)

    assert not tell_people("failure", "the build broke")

    assert "was not reached" in said.text


def test_a_wrong_setting_fails_nothing(monkeypatch, said):
    monkeypatch.setenv("PEDIGREE_FLOW_WEBHOK", "misspelt")

    assert not tell_people("failure", "the build broke")

    assert "nobody is told: environment variable PEDIGREE_FLOW_WEBHOK is unknown" in said.text


def test_without_a_webhook_it_is_logged(said):
    assert not tell_people("refusal", "the clock is wrong")

    assert "refusal: the clock is wrong" in said.text


def test_the_project_stands_before_the_sentence():
    assert message("audit", "a digest differs", project="pedigree")["text"] == "pedigree: a digest differs"
