"""The runs of a build's stages, sent as they happen to the OpenLineage server of OPENLINEAGE_URL, if that is set.

The form of the events is lineage's. A server that fails is told nothing more, and never fails a build.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING
from uuid import uuid4

from flows.git import GitFailed, git
from flows.lifetime.lease import flow_run
from flows.seen import moment
from flows.stage import Ended, Stopped, Tell

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent
    from openlineage.client.transport.http import HttpTransport

    from lineage.export.openlineage import Run

# The client's own variables.
URL, ENDPOINT, API_KEY, DISABLED = (f"OPENLINEAGE_{name}" for name in ("URL", "ENDPOINT", "API_KEY", "DISABLED"))
PATIENCE_SECONDS = 5.0  # with a server that doesn't answer: what it may cost a build, once


class Events:
    """What one build tells the server."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._silent = not os.environ.get(URL) or os.environ.get(DISABLED, "").strip().lower() == "true"
        self._lock = Lock()

    def around(self, stage: str, action: Callable[[], Ended], tell: Tell) -> Ended:
        """What `action` returns, which runs `stage`; the server hears of its begin and of its end."""
        run = self._begun(stage, tell)
        if not run:
            return action()
        self._send(lambda: run.started(_now()), tell)
        try:
            ended = action()
        except Stopped:
            self._send(lambda: run.aborted(_now()), tell)
            raise
        except Exception as error:
            reason = str(error)
            self._send(lambda: run.failed(_now(), reason), tell)
            raise
        self._send(lambda: self._completed(run, ended), tell)
        return ended

    def _begun(self, stage: str, tell: Tell) -> "Run | None":
        """The run of `stage` that begins now; None if nobody is to hear of it."""
        if self._silent:
            return None
        try:
            from lineage.export.openlineage import Run, run_id, uuid_of  # not at the top: only some builds need it

            flow = uuid_of(flow_run(self.root))
            return Run(run_id(stage, flow) if flow else str(uuid4()), stage, flow, self._commit())
        except Exception as error:
            self._fall_silent(error, tell)
            return None

    def _commit(self) -> str | None:
        try:
            return git(self.root, "rev-parse", "--verify", "--quiet", "HEAD")
        except GitFailed:  # no repository, or no commit
            return None

    def _completed(self, run: "Run", ended: Ended) -> "RunEvent":
        from flows.attest import lock_text
        from lineage.history import Build

        return run.completed(_now(), Build(lock_text(self.root), None, None, ()), ended.outcome)

    def _send(self, event: "Callable[[], RunEvent]", tell: Tell) -> None:
        with self._lock:
            if self._silent:
                return
            try:
                transport = _transport()
                transport.emit(event())
                transport.close()
            except Exception as error:  # whatever a server, a proxy or the client says
                self._fall_silent(error, tell)

    def _fall_silent(self, error: Exception, tell: Tell) -> None:
        self._silent = True
        # Not its words: they hold the address, which may hold a password.
        tell(f"{URL}: its server takes no events ({type(error).__name__}); the build goes on without them")


def _transport() -> "HttpTransport":
    from openlineage.client.transport.http import HttpConfig, HttpTransport

    key = os.environ.get(API_KEY)
    return HttpTransport(
        HttpConfig.from_dict(
            {
                "url": os.environ[URL],
                "endpoint": os.environ.get(ENDPOINT, "api/v1/lineage"),
                "timeout": PATIENCE_SECONDS,
                "retry": {"total": 0, "read": 0, "connect": 0, "status_forcelist": []},
                **({"auth": {"type": "api_key", "apiKey": key}} if key else {}),
            }
        )
    )


def _now() -> str:
    return moment(datetime.now(UTC))
