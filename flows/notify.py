"""Failures and refusals reach people: as a message to a webhook, a line of the log and a Prefect event.

The webhook is PEDIGREE_FLOW_WEBHOOK. Slack, Mattermost and Teams show the `text` of what is posted to their incoming
webhooks; a program finds `kind`, `sentence` and `details` beside it.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import httpx

from flows.settings import flow_settings
from stages.params import Refusal

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

log = logging.getLogger("pedigree.flows")

TIMEOUT_SECONDS = 5.0
PAUSES_SECONDS = (1.0, 3.0, None)  # after each try; all of it is shorter than the 30 s that a cancelled flow has
NOTHING: Mapping[str, object] = MappingProxyType({})


def tell_people(kind: str, sentence: str, details: Mapping[str, object] = NOTHING) -> bool:
    """Whether `sentence` reached the webhook; False too if there is none. It is logged and emitted in any case.

    Nothing is raised, as a flow must not fail because nobody could be told.

    Args:
        kind: one word, for programs: failure, refusal, audit, sweep, candidate.
        sentence: what happened and what to do about it.
        details: more about it, as names and values.
    """
    log.warning("%s: %s", kind, sentence)
    _emit(kind, sentence, details)
    try:
        webhook = flow_settings().webhook.get_secret_value()
    except Refusal as refusal:
        log.warning("nobody is told: %s", refusal)
        return False
    return bool(webhook) and _post(webhook, message(kind, sentence, details))


def tell_failure(flow: "Flow[..., object]", flow_run: "FlowRun", state: "State[object]") -> None:
    """The hook of a flow's end that isn't a good one (`on_failure`, `on_crashed`).

    Prefect calls it in the flow, after a SIGTERM too; for a flow that was killed it is called by the worker. Only
    runs of a deployment are told of: whoever types a command sees what becomes of it.
    """
    if flow_run.deployment_id is None:
        return
    kind = "refusal" if _refused(state) else "failure"
    sentence = f"{flow.name} {(state.name or 'failed').lower()}: {_sentence(state)}"
    tell_people(kind, sentence, {"run": flow_run.name, "page": page_of(flow_run)})


def page_of(flow_run: "FlowRun") -> str:
    """The URL at which the run is shown."""
    from prefect.utilities.urls import url_for

    return url_for(flow_run) or ""


def message(kind: str, sentence: str, details: Mapping[str, object] = NOTHING, project: str = "") -> dict[str, object]:
    """What is posted: `text` for people, with the details as lines, and the same in parts for programs."""
    shown = {name: str(value) for name, value in details.items() if value not in (None, "")}
    lines = [f"{project or Path.cwd().name}: {sentence}", *(f"{name}: {value}" for name, value in shown.items())]
    return {"text": "\n".join(lines), "kind": kind, "sentence": sentence, "details": shown}


def _post(webhook: str, content: Mapping[str, object]) -> bool:
    """Post it, at most three times; a refusal of the other side is final."""
    trouble = ""
    with _unlogged(webhook):
        for pause in PAUSES_SECONDS:
            try:
                status = httpx.post(webhook, json=content, timeout=TIMEOUT_SECONDS).status_code
            except Exception as error:  # its text may hold the URL
                trouble = type(error).__name__
            else:
                if status < 300:
                    return True
                trouble = f"it answered {status}"
                if status < 500 and status not in (408, 429):
                    break
            if pause is not None:
                time.sleep(pause)
    log.warning("the webhook (PEDIGREE_FLOW_WEBHOOK) was not reached: %s", trouble)
    return False


@contextmanager
def _unlogged(secret: str) -> Iterator[None]:
    """httpx logs the URL of each request, and this one is a secret."""

    def harmless(record: logging.LogRecord) -> bool:
        return secret not in record.getMessage()

    logger = logging.getLogger("httpx")
    logger.addFilter(harmless)
    try:
        yield
    finally:
        logger.removeFilter(harmless)


def _emit(kind: str, sentence: str, details: Mapping[str, object]) -> None:
    """An event on the server, if there is one that stays: a temporary one has no automations."""
    from prefect.events import emit_event  # not at the top: Prefect reads the environment as it is imported
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        return
    resource = {"prefect.resource.id": f"pedigree.{kind}", "prefect.resource.name": Path.cwd().name}
    payload = {"sentence": sentence, **{name: str(value) for name, value in details.items()}}
    try:
        emit_event(event=f"pedigree.{kind}", resource=resource, payload=payload)
    except Exception as error:
        log.warning("no event was emitted: %s", type(error).__name__)


def _refused(state: "State[object]") -> bool:
    """Whether a user, a file or a parameter is what the flow failed by."""
    return isinstance(_exception(state), Refusal)


def _sentence(state: "State[object]") -> str:
    return str(_exception(state) or state.message or "it says no more")


def _exception(state: "State[object]") -> BaseException | None:
    """What the flow raised, where it is known: a worker that ends a run in its place doesn't know it."""
    try:
        result = state.result(raise_on_failure=False)
    except Exception:
        return None
    return result if isinstance(result, BaseException) else None
