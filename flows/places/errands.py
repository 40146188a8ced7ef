"""The stages of a build that run elsewhere: handed over, run by their place, restored here out of the run-cache."""

import time
from pathlib import Path
from threading import Condition, Event, Lock

from flows.places import GRACE_SECONDS, Errand, Place
from flows.places.handover import fetch_seen, is_done, make_errand, restorable, unchanged
from flows.places.settings import Here, Where
from flows.seen import Seen
from flows.stage import Children, Ended, StageFailed, Tell


class Errands:
    """All errands of one build."""

    def __init__(self, root: Path, children: Children, stopping: Event) -> None:
        self.root = root
        self._children = children
        self._stopping = stopping
        self._places: dict[str, Place] = {}
        self._placing = Lock()
        self._running = 0
        self._ended = Condition()

    def run(self, stage: str, upstream: tuple[str, ...], where: Where, tell: Tell) -> Ended:
        """Have `stage` run where it belongs, unless its result is in the store, and restore it here.

        Raises:
            StageRefused, StageFailed, ComeAgain, Stopped, Refusal: why it isn't.
        """
        begin = time.monotonic()
        with self._ended:
            self._running += 1
        try:
            if restorable(stage, self.root):
                return self._children.repro(stage, self.root, tell)
            errand, seen = make_errand(stage, self.root), None
            if not is_done(errand):
                self._send(errand, upstream, where, tell)
                seen = fetch_seen(errand)
            return self._restore(errand, begin, seen, tell)
        finally:
            with self._ended:
                self._running -= 1
                self._ended.notify_all()

    def wait(self) -> None:
        """Wait until all have ended; they do soon after `stopping` was set."""
        with self._ended:
            self._ended.wait_for(lambda: not self._running, timeout=2 * GRACE_SECONDS)

    def _send(self, errand: Errand, upstream: tuple[str, ...], where: Where, tell: Tell) -> None:
        if upstream:
            self._children.push(list(upstream), self.root, tell)
        self._place(where).run(errand, where, tell, self._stopping)
        if not is_done(errand):
            raise StageFailed(
                f"{errand.stage}: it ran, but the store's run-cache has no result of it; see {errand.log}"
            )

    def _restore(self, errand: Errand, begin: float, seen: Seen | None, tell: Tell) -> Ended:
        if not unchanged(errand, self.root):
            raise StageFailed(
                f"{errand.stage}: what it depends on was changed while it ran; its result is kept in the run-cache, "
                "run again to build what is here now"
            )
        log = errand.log.with_suffix(".restore.log")
        ended = self._children.repro(errand.stage, self.root, tell, pull=True, log=log)
        return Ended(errand.stage, ended.outcome, time.monotonic() - begin, seen=seen)

    def _place(self, where: Where) -> Place:
        """The one object of this build for `where`."""
        with self._placing:
            if where.place not in self._places:
                self._places[where.place] = _make(where, self.root)
            return self._places[where.place]


def _make(where: Where, root: Path) -> Place:
    assert not isinstance(where, Here)
    if where.place == "slurm":
        from flows.places.slurm import Slurm

        return Slurm(root)
    from flows.places.kubernetes import Kubernetes

    return Kubernetes(root)
