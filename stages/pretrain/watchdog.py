"""A watchdog for steps that hang: a dead network, a lost process, a deadlock. No exception tells of these."""

import faulthandler
import os
import sys
import time
from threading import Event, Thread
from types import TracebackType

from stages.pretrain.launch import COME_AGAIN, tell
from stages.process import log


class Watchdog:
    """Ends this process with exit code 75 when no step has ended for `seconds`; 0: never.

    Before that it writes to stderr where each thread of it stands, so that the logs of all processes together say
    who waits for whom. The process is ended without cleaning up: whatever cleans up may be what hangs.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.monotonic()
        self._over = Event()

    def __enter__(self) -> "Watchdog":
        if self.seconds:
            Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over.set()

    def step_ended(self) -> None:
        """Say that the training goes on."""
        self._last = time.monotonic()

    def _watch(self) -> None:
        while not self._over.wait(max(0.0, self._last + self.seconds - time.monotonic())):
            if time.monotonic() - self._last >= self.seconds:
                rank = os.environ.get("RANK", "0")
                log.error("error: no step has ended for %g s; process %s stands here:", self.seconds, rank)
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                sys.stderr.flush()
                tell(COME_AGAIN)
                os._exit(COME_AGAIN)
