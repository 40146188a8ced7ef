"""Signals that ask a training to stop: SIGTERM, of whoever takes the machine away, and SIGUSR1, as Slurm warns."""

import signal
from types import FrameType

ASKED = (signal.SIGTERM, signal.SIGUSR1)


class Stop:
    """Remembers such a signal, so that the loop ends between two steps, with a checkpoint."""

    def __init__(self) -> None:
        self.asked = False
        for number in ASKED:
            signal.signal(number, self._ask)

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        self.asked = True
