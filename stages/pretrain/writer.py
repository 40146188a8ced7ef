"""A thread that writes checkpoints while the training goes on, one after another."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Writer:
    """Does one job at a time beside the training. What goes wrong in it is raised by the next call."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._job: Future[None] | None = None
        self._ended = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """How long nothing has been written; 0 while something is."""
        if self._job is not None:
            if not self._job.done():
                return 0.0
            self.wait()
        return time.monotonic() - self._ended

    def write(self, job: Callable[[], None]) -> None:
        """Start `job`, after the one in flight, if there is one, has ended."""
        self.wait()
        self._job = self._pool.submit(self._do, job)

    def wait(self) -> None:
        """Wait for what is in flight."""
        if self._job is not None:
            job, self._job = self._job, None
            job.result()

    def _do(self, job: Callable[[], None]) -> None:
        job()
        self._ended = time.monotonic()
