"""The work of one build: what each stage waits for and becomes, with Prefect or without."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import TypeVar

from flows.dag import Stage, read_dag
from flows.lifetime.lease import STATE, building
from flows.lifetime.mend import keep_lock
from flows.limits import Slots
from flows.openlineage import Events
from flows.places.errands import Errands
from flows.places.settings import Here, read_places
from flows.settings import flow_settings
from flows.stage import Children, ComeAgain, Ended, Held, StageFailed, StageRefused, Stopped, Tell
from flows.store import Store
from stages.params import Refusal

log = logging.getLogger("pedigree.flows")

R = TypeVar("R")

# Between the tries of a stage that something outside it kept from running: a lock is soon free, a node is not.
RETRY_AFTER_SECONDS = (1.0, 10.0, 30.0, 60.0, 120.0)
LOOK_AGAIN_SECONDS = 5.0  # for what another clone makes


@dataclass(frozen=True)
class Build:
    """What became of each stage, in the order of the DAG."""

    stages: tuple[Ended, ...]

    @property
    def failed(self) -> tuple[Ended, ...]:
        """The stages that broke; those that waited for them are `not run`."""
        return tuple(stage for stage in self.stages if stage.outcome == "failed")

    def __str__(self) -> str:
        """How many stages there are, and what became of them: `5 stages: 2 ran, 3 cached`."""
        counts = Counter(stage.outcome for stage in self.stages)
        return f"{len(self.stages)} stages: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items())


class Work:
    """The stages of one build, with all that their threads share."""

    def __init__(self, targets: Iterable[str] | None = None, root: Path = Path(), push: bool = True) -> None:
        self.root = root
        dag = read_dag(root)
        self.stages = dag.in_order(targets or ())
        self._places = read_places(root)
        self._places.check(stage.name for stage in dag.stages)
        self._slots = Slots(flow_settings().slots)
        self._children = Children()
        self.records: dict[str, str] = {}  # of the stages that ran here: the path of each one's record
        self._ended: dict[str, Ended] = {}
        self._stop = Event()
        self._store = Store(root, self._children, push)
        self._errands = Errands(root, self._children, self._stop)
        self._events = Events(root)
        if flow_settings().signing_key:
            from flows.attest import signing_key

            signing_key()  # refuses a wrong one before anything runs

    @property
    def up_to_date(self) -> bool:
        """Whether there is nothing to do."""
        return not any(stage.stale for stage in self.stages)

    def do(self, stage: Stage, tell: Tell) -> Ended:
        """Bring `stage` up to date, once those before it are.

        Raises:
            StageRefused, StageFailed, ComeAgain, Stopped: why it isn't.
        """
        begin = time.monotonic()
        try:
            ended = self._run(stage, tell) if self._may_have_changed(stage) else Ended(stage.name, "cached")
        except Stopped:
            ended = Ended(stage.name, "not run", time.monotonic() - begin)
            raise
        except Exception as error:
            ended = Ended(stage.name, "failed", time.monotonic() - begin, str(error), isinstance(error, Refusal))
            tell(f"failed: {error}")
            raise
        finally:
            self._ended[stage.name] = ended
        self._store.take(ended, partial(say, stage.name))
        if ended.outcome != "cached":
            keep_lock(self.root, self.root / STATE)
        if ended.seen:
            from flows.attest import leave_record  # not at the top: a build with nothing to do doesn't need it

            if path := leave_record(self.root, ended, tell):
                self.records[stage.name] = path
        tell(ended.outcome if ended.outcome == "cached" else f"{ended.outcome} in {ended.seconds:.1f} s")
        return ended

    def stop(self) -> None:
        """Have the running stages save what they have and end; wait for them. No other one starts."""
        self._stop.set()
        self._store.stop()
        self._children.stop()
        self._errands.wait()

    def build(self) -> Build:
        """What became of each stage so far."""
        return Build(tuple(self._ended.get(stage.name, Ended(stage.name, "not run")) for stage in self.stages))

    def finished(self) -> Build:
        """The build, if every stage is up to date, and in the remote.

        Raises:
            StageRefused: if a stage or the remote was refused, and nothing else went wrong.
            StageFailed: if one failed for any other reason.
        """
        build = self.build()
        say("build", str(build))
        self._push(build)
        if not build.failed:
            return build
        sentences = "; ".join(dict.fromkeys(ended.reason for ended in build.failed))
        kind = StageRefused if all(ended.refused for ended in build.failed) else StageFailed
        raise kind(sentences, tuple(ended.stage for ended in build.failed))

    def _push(self, build: Build) -> None:
        """Push what there is, also of a build that failed; but then that is what has to be heard of."""
        if build.failed and not any(ended.outcome in ("ran", "restored") for ended in build.stages):
            return
        tell = partial(say, "store")
        try:
            self._store.end(tell, partial(self._trying, tell, pauses=() if build.failed else RETRY_AFTER_SECONDS))
        except (StageRefused, StageFailed) as error:
            if not build.failed:
                raise
            tell(f"not pushed: {error}")
        except BaseException:  # a signal
            self.stop()
            raise

    def _may_have_changed(self, stage: Stage) -> bool:
        """Whether DVC has to be asked (again): it was stale at the start, or one before it was run."""
        return stage.stale or any(self._ended[name].outcome != "cached" for name in stage.upstream)

    def _run(self, stage: Stage, tell: Tell) -> Ended:
        self._store.begin()
        tries = partial(self._trying, tell, partial(self._try, stage, tell), RETRY_AFTER_SECONDS)
        return self._events.around(stage.name, tries, tell)

    def _trying(self, tell: Tell, action: Callable[[], R], pauses: Iterable[float]) -> R:
        """What `action` returns, which is tried again after each of `pauses` seconds if it says so."""
        for pause in (*pauses, None):
            try:
                return self._once_free(tell, action)
            except ComeAgain as error:
                if pause is None:
                    raise
                tell(f"{error}; again in {pause:.0f} s")
            if self._stop.wait(pause):
                raise Stopped("stopped before its next try")
        raise AssertionError("unreachable: the last try returns or raises")

    def _once_free(self, tell: Tell, action: Callable[[], R]) -> R:
        """What `action` returns, once no other clone runs the same stage."""
        said = ""
        while True:
            try:
                return action()
            except Held as error:
                if str(error) != said:
                    tell(f"{error}; waiting for its result")
                said = str(error)
            if self._stop.wait(LOOK_AGAIN_SECONDS):
                raise Stopped("stopped while another clone ran it")

    def _try(self, stage: Stage, tell: Tell) -> Ended:
        where = self._places.of(stage.name)
        if not isinstance(where, Here):
            return self._errands.run(stage.name, stage.upstream, where, tell)
        with self._slots.taken(self._slots.needs(stage.kind)):
            tell("started")
            pull, push = bool(self._store.remote), self._store.pushes
            return self._children.repro(stage.name, self.root, tell, pull=pull, push=push)


def build_locally(targets: Iterable[str] | None = None, root: Path = Path(), push: bool = True) -> Build:
    """Bring `targets` (default: every stage) up to date on a plain thread pool, without Prefect.

    What it makes is pushed to the default remote, if there is one, unless `push` is False.

    Raises:
        StageRefused, StageFailed: if a stage is not up to date at the end.
    """
    with building(root, partial(say, "build")):
        return _build_locally(Work(targets, root, push))


def _build_locally(work: Work) -> Build:
    # A thread for each stage: those that wait for others must not keep a ready one from starting.
    with ThreadPoolExecutor(max(1, len(work.stages))) as pool:
        done: dict[str, Future[Ended]] = {}
        try:
            for stage in work.stages:
                done[stage.name] = pool.submit(_after, [done[name] for name in stage.upstream], work, stage)
            wait(done.values())
        except BaseException:
            work.stop()
            raise
    return work.finished()


def _after(upstream: list[Future[Ended]], work: Work, stage: Stage) -> Ended:
    for future in upstream:
        future.result()  # raises what it raised: this stage is not run then
    return work.do(stage, partial(say, stage.name))


def say(stage: str, line: str) -> None:
    """One line about `stage` for whoever watches the process."""
    log.info("%-22s %s", stage, line)
