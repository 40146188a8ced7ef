"""A build that a person started from a terminal: what Prefect needs for it, and what is shown."""

import logging
import os
import signal
import sys
from collections.abc import Iterable
from functools import partial

from flows.work import Build, Work, say

# For a run without a server. A server that is given by the environment, or a profile, is used as it is.
_PREFECT = {
    # The first start makes a database: 6 to 12 s here, 75 s were seen on slow disks; Prefect's own limit is 20.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Its own lines go to its database; the terminal has ours.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LEVEL": "INFO",
}


def build_with_prefect(targets: Iterable[str]) -> Build:
    """Bring `targets` up to date as a Prefect flow.

    With no server of one's own and nothing to do, Prefect isn't started: that alone takes seconds.
    """
    for name, value in _PREFECT.items():
        os.environ.setdefault(name, value)
    if not os.environ.get("PREFECT_API_URL"):
        work = Work(targets)
        if work.up_to_date:
            for stage in work.stages:
                work.do(stage, partial(say, stage.name))
            return work.finished()
    from flows.build import build  # Prefect reads the environment as it is imported

    return build(list(targets))


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
