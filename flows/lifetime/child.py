"""dvc as the child of a flow, which outlives neither the flow nor its own stage.

    python -P child.py PID_OF_THE_FLOW ARGUMENTS_OF_DVC…
    python -P child.py PID_OF_THE_FLOW store ARGUMENTS      see flows/exchange.py

A bare dvc that is killed or terminated leaves its stage running, and the next dvc would start a second
one. So a SIGTERM is handed on to the stage, and dvc goes on waiting for it and says how it ended.
"""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil  # type: ignore[import-untyped]

PR_SET_PDEATHSIG = 1
PEAK = "peak memory of the largest process: {} bytes"  # flows/stage.py reads it


def main() -> None:
    """Run dvc in this process, bound to the flow."""
    flow = int(sys.argv[1])
    signal.signal(signal.SIGTERM, hand_on)
    # Ctrl-C reaches the whole group; the flow makes it a SIGTERM, on which a stage saves what it has.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(flow)
    arguments = sys.argv[2:]
    if arguments[0] == "store":
        sys.path.insert(0, str(Path(__file__).parents[2]))
        from flows.exchange import main as exchange

        end(exchange(arguments[1:]))
    from dvc.cli import main as dvc  # only now: its import takes longer than a flow may live

    end(dvc(arguments))


def end(code: int) -> NoReturn:
    """End with `code`; if all is well, the last line says how much memory the stage took.

    That of the largest process below this one, as the kernel counts it for those that have ended.
    """
    if not code:
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(PEAK.format(peak if sys.platform == "darwin" else peak * 1024), flush=True)
    sys.exit(code)


def die_with(flow: int) -> None:
    """Ask the kernel for a SIGTERM when the flow dies, however it dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != flow:  # it died before we could ask
        sys.exit(128 + signal.SIGTERM)


def hand_on(signum: int, frame: FrameType | None) -> None:
    """Pass the signal on to the stage; without one, end."""
    stage = psutil.Process().children(recursive=True)
    if not stage:
        sys.exit(128 + signum)
    for process in stage:
        try:
            process.send_signal(signum)
        except psutil.NoSuchProcess:
            continue


if __name__ == "__main__":
    main()
