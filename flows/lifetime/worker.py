"""A flow that a Prefect worker started ends with it, however the worker dies."""

import ctypes
import os
import signal
import sys
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from prefect.runtime import flow_run

from flows.lifetime.child import PR_SET_PDEATHSIG
from flows.lifetime.lease import announce
from flows.work import say


def end_with_worker() -> None:
    """Ask the kernel for a SIGTERM when the worker dies (Linux); on it a flow ends its stages and says so to Prefect.

    A worker that is killed can end nothing, and the flow would go on where nobody can cancel it. The call is for the
    beginning of a flow, and does nothing where no worker started it.
    """
    started_by_worker = os.environ.get("PREFECT__WORKER_NAME") and os.environ.get("PREFECT__FLOW_RUN_ID")
    if sys.platform != "linux" or started_by_worker != flow_run.get_id():  # a flow in a child of one has another id
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if not _is_of_prefect(os.getppid()):  # it died before we could ask
        os.kill(os.getpid(), signal.SIGTERM)


def _announce() -> None:
    """Leave a record of the run that this process is for, if a worker started it."""
    mine = "prefect.engine" in sys.orig_argv  # others have the same environment: its children, the worker's hooks
    if mine and os.environ.get("PREFECT__WORKER_NAME") and (run := os.environ.get("PREFECT__FLOW_RUN_ID")):
        announce(Path(), partial(say, "build"), run)


def _is_of_prefect(pid: int) -> bool:
    try:
        return any("prefect" in word for word in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


# When the module of a flow is loaded, not by the flow: Prefect calls its run Running before the first line of it, and
# nobody would know of a process that died between the two.
_announce()
