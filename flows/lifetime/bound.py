"""Commands that die with the flow that started them, however it dies.

    python -P bound.py PID_OF_THE_FLOW COMMAND…

The kernel sends a command a SIGTERM then (Linux); one that starts stages must end them on it, as `pedigree` does.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock

PR_SET_PDEATHSIG = 1
TERMINATED = 128 + signal.SIGTERM


class Bound:
    """The commands of one flow; stopping it ends them all. Each is a module of this Python, with its arguments."""

    def __init__(self) -> None:
        self.stopping = False
        self._live: set[subprocess.Popen[bytes]] = set()
        self._lock = Lock()

    def run(
        self,
        command: Sequence[str],
        root: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
        keep_open: Sequence[int] = (),
    ) -> int:
        """How `command` ended: its exit code, or -15 if the flow was stopped before it began.

        Args:
            command: a module and its arguments: pedigree, verify.
            root: the folder in which it runs.
            log: the file for all that it says.
            environment: variables to add.
            keep_open: file descriptors that it inherits: a lock that must be held until it has ended.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        # A stage's command says `python`, which must be this one.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        given = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1", **(environment or {})}
        program = [sys.executable, "-P", __file__, str(os.getpid()), sys.executable, "-m", *command]
        with self._lock, log.open("wb") as out:
            if self.stopping:
                return -signal.SIGTERM
            child = subprocess.Popen(
                program, cwd=root, env=given, pass_fds=keep_open, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
            self._live.add(child)
        try:
            return child.wait()
        finally:
            self._live.discard(child)

    def stop(self) -> None:
        """Have every command end itself, and wait for it; no other one starts."""
        with self._lock:
            self.stopping = True
            live = list(self._live)
        for child in live:
            child.terminate()
        for child in live:
            child.wait()


def main() -> None:
    """Become the command, bound to the flow: the bond lasts over exec."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):  # the flow died before we could ask
        sys.exit(TERMINATED)
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
