"""What runs side by side: so many stages on the processors, so many on the network, one on the GPU."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Condition

NETWORK_SLOTS = 4


class Slots:
    """Counted resources, taken together or not at all: whoever waits holds nothing, so nobody waits for ever."""

    def __init__(self, cpu: int) -> None:
        self.total = {"cpu": cpu, "gpu": 1, "network": NETWORK_SLOTS}
        self._free = dict(self.total)
        self._changed = Condition()

    def needs(self, kind: str) -> dict[str, int]:
        """What a stage of `kind` takes; one that isn't named here takes one of the cpu slots."""
        match kind:
            case "download":
                return {"network": 1}
            case "pretrain":  # by itself: it fills every core, or the GPU and its host's memory
                return {"cpu": self.total["cpu"], "gpu": 1}
            case _:
                return {"cpu": 1}

    @contextmanager
    def taken(self, needs: Mapping[str, int]) -> Iterator[None]:
        """Hold `needs` for the time of the block; wait for them first."""
        with self._changed:
            self._changed.wait_for(lambda: all(self._free[name] >= count for name, count in needs.items()))
            self._add(needs, -1)
        try:
            yield
        finally:
            with self._changed:
                self._add(needs, 1)
                self._changed.notify_all()

    def _add(self, needs: Mapping[str, int], sign: int) -> None:
        for name, count in needs.items():
            self._free[name] += sign * count
