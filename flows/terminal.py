"""A build that a person started from a terminal: what Prefect needs for it, and what is shown."""

import logging
import os
import signal
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from flows.lifetime.lease import building
from flows.lifetime.server import ServerFailed, own_server
from flows.stage import StageFailed
from flows.work import Build, Work, build_locally, say
from stages.params import Refusal

_PREFECT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # 14 s for each call: enough for a server that starts again. A build doesn't wait for one that is gone.
    "PREFECT_CLIENT_MAX_RETRIES": "3",
    # Its own lines go to its database; the terminal has ours.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
}


def build_with_prefect(targets: Iterable[str], root: Path = Path(), push: bool = True) -> Build:
    """Bring `targets` up to date as a Prefect flow.

    With no server of one's own and nothing to do, Prefect isn't started: that alone takes seconds. And where Prefect
    can't record the build, or not to its end, it goes on without.
    """
    for name, value in _PREFECT.items():
        os.environ.setdefault(name, value)
    targets, tell = list(targets), partial(say, "build")
    with building(root, tell):
        if not os.environ.get("PREFECT_API_URL"):
            work = Work(targets, root, push)
            if work.up_to_date:
                for stage in work.stages:
                    work.do(stage, partial(say, stage.name))
                return work.finished()
        try:
            return _recorded(targets, push)
        except (Refusal, StageFailed):
            raise
        except Exception as error:  # of Prefect: what was built is built, and the rest isn't waited for by anybody else
            tell(f"Prefect doesn't record this build any more ({_sentence(error)}); it goes on without")
            return build_locally(targets, root, push)


def _recorded(targets: list[str], push: bool) -> Build:
    # Not at the top: Prefect reads the environment as it is imported.
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    from flows.build import build

    if get_current_settings().api.url:  # by the environment, or by a profile
        return build(targets, push)
    with own_server() as url, temporary_settings({PREFECT_API_URL: url}):
        return build(targets, push)


def _sentence(error: Exception) -> str:
    """Why, without an address: it may hold a password."""
    return str(error) if isinstance(error, ServerFailed) else type(error).__name__


def watched() -> None:
    """Make this process one that a person watches: each thing that `say` says is a line on stderr.

    And a SIGTERM is what Ctrl-C is: the stages end first, with what they have.
    """
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("pedigree.flows")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
