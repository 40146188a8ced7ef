"""A command that dies with the flow that started it, however the flow dies.

    python -P bound.py PID_OF_THE_FLOW COMMAND…

The kernel sends it a SIGTERM then (Linux); a command that starts stages must end them on it, as `pedigree` does.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
TERMINATED = 128 + signal.SIGTERM


def start_bound(
    command: Sequence[str],
    root: Path,
    log: Path,
    environment: Mapping[str, str] | None = None,
    keep_open: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """`command` in the folder `root` and in this process group, writing to the file `log`.

    Args:
        command: the program and its arguments.
        root: the folder in which it runs.
        log: all that it says.
        environment: variables to add.
        keep_open: file descriptors that it inherits: a lock that must be held until it has ended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-P", __file__, str(os.getpid()), *command],
            cwd=root, env={**os.environ, **(environment or {})}, pass_fds=keep_open,
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip


def main() -> None:
    """Become the command, bound to the flow: the bond lasts over exec."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):  # the flow died before we could ask
        sys.exit(TERMINATED)
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
