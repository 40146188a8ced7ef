"""One stage: `dvc repro --single-item` as a child, its output in a file that is followed."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

import psutil  # type: ignore[import-untyped]

from flows.seen import Seen, seen_of
from stages.params import Refusal

Tell = Callable[[str], None]

USER_ERROR = 2
COME_AGAIN = 75  # EX_TEMPFAIL: a stage that was preempted, and has saved what it had
HELD = 76  # see flows/exchange.py
BURST = 5  # lines passed on per look at the log; the rest is in the file
LOOK_EVERY_SECONDS = 0.5
END_BYTES = 1 << 16
GRACE_SECONDS = 20.0  # Prefect gives a cancelled flow 30

# What dvc itself says, and the flow says shorter, if at all.
_OF_DVC = re.compile(
    r"Running stage |> |Updating lock file|Generating lock file|Use `dvc push`|Data and pipelines|ERROR: failed to|"
    r"To track the changes|\tgit add|To enable auto staging|\tdvc config|peak memory of the largest process: "
)
_PEAK = re.compile(r"peak memory of the largest process: (\d+) bytes\n$")  # flows/lifetime/child.py
_KEYS = ("PEDIGREE_FLOW_SIGNING_KEY", "PEDIGREE_FLOW_MODEL_SIGNING_KEY")  # not for what they vouch for
_EXITED = re.compile(r"failed to run: .*, exited with (-?\d+)$")
_LOCKED = ("Unable to acquire lock", "it is being blocked by")


class StageFailed(RuntimeError):
    """Stages (their names, if known) that failed by themselves: to run them again would fail again."""

    def __init__(self, sentence: str, stages: tuple[str, ...] = ()) -> None:
        super().__init__(sentence)
        self.stages = stages


class StageRefused(Refusal):
    """Stages (their names, if known) that a parameter, a file or a machine kept from running; their own sentences."""

    def __init__(self, sentence: str, stages: tuple[str, ...] = ()) -> None:
        super().__init__(sentence)
        self.stages = stages


class ComeAgain(RuntimeError):
    """What stopped the stage lies outside it: a lock, a preemption. It is worth another try."""


class Unreached(StageRefused, ComeAgain):
    """The remote does not answer: worth another try; after the last one a user has to see to it."""


class Held(RuntimeError):
    """Another clone runs this stage of the same inputs: its result is to be waited for."""


class Stopped(RuntimeError):
    """The build was stopped before or while this stage ran."""


@dataclass(frozen=True)
class Ended:
    """What became of a stage: ran, restored (from DVC's run-cache), cached, failed or not run."""

    stage: str
    outcome: str
    seconds: float = 0.0
    reason: str = ""
    refused: bool = False  # it failed by what a user, a file or a parameter caused
    seen: Seen | None = None  # of its run, if it ran, here or elsewhere


class Children:
    """The dvc processes of a build; stopping it stops them all, with their stages."""

    def __init__(self) -> None:
        self.stopping = False
        self._live: set[subprocess.Popen[bytes]] = set()
        self._lock = Lock()

    def repro(
        self, stage: str, root: Path, tell: Tell, pull: bool = False, log: Path | None = None, push: bool = True
    ) -> Ended:
        """Bring `stage` up to date, without those before it; `tell` hears some of what it says.

        With `pull`, what it lacks of its inputs, and its result if it was made before, come from the default
        remote, and in an S3 store what it makes goes there, unless `push` is False (flows/exchange.py). `log` is
        where all goes that it says, by default `log_path`.

        Raises:
            StageRefused, StageFailed, ComeAgain: why it isn't.
            Stopped: if `stop` was called.
        """
        begin, began, log = time.monotonic(), datetime.now(UTC), log or log_path(stage, root)
        command = ["store", "restore"] if pull else ["--wait-for-lock", "repro", "--single-item"]
        options = ["--no-push"] if pull and not push else []
        with self._dvc([*command, stage, *options], root, log) as child:
            follow(child, log, tell)
        output = end_of(log)
        if not child.returncode:
            outcome = _outcome(stage, output)
            seen = seen_of(began, _peak(output)) if outcome == "ran" else None
            return Ended(stage, outcome, time.monotonic() - begin, seen=seen)
        if self.stopping:
            raise Stopped(f"{stage}: stopped")
        raise _of_store(child.returncode, output) or why_failed(stage, output, log)

    def push(self, stages: list[str], root: Path, tell: Tell) -> None:
        """Upload what the remote lacks of `stages` (none: of all); `tell` hears how much that was.

        Raises:
            StageRefused, StageFailed, Unreached: why it isn't there.
            Stopped: if `stop` was called.
        """
        log = log_path("-".join(["push", *stages]), root)
        with self._dvc(["store", "push", *stages], root, log) as child:
            follow(child, log, tell)
        if not child.returncode:
            return
        if self.stopping:
            raise Stopped("push: stopped")
        output = end_of(log)
        raise _of_store(child.returncode, output) or why_failed("push", output, log)

    def dvc(self, arguments: list[str], root: Path, log: Path, tell: Tell) -> None:
        """Run dvc (`push`, `pull`) with `arguments`; all that it says is in `log`.

        Raises:
            ComeAgain: if it fails, which is a lock or the store.
            Stopped: if `stop` was called.
        """
        with self._dvc(["--wait-for-lock", *arguments], root, log) as child:
            follow(child, log, tell)
        if child.returncode:
            if self.stopping:
                raise Stopped(f"dvc {arguments[0]}: stopped")
            said = [line for line in end_of(log).splitlines() if line.startswith("ERROR: ")]
            reason = said[0].removeprefix("ERROR: ") if said else f"exited with {child.returncode}"
            raise ComeAgain(f"dvc {arguments[0]}: {reason}")

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Have every stage end itself, wait for it, and kill what is left after `grace` seconds."""
        with self._lock:
            self.stopping = True
            live = list(self._live)
        below = [process for child in live for process in _below(child.pid)]
        limit = time.monotonic() + grace
        for child in live:
            child.terminate()
        # Not for the children themselves: psutil would take their exit codes away from those who follow them.
        _, left = psutil.wait_procs(below, timeout=grace)
        for process in left:
            process.kill()
        for child in live:
            try:
                child.wait(max(0.1, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()

    @contextmanager
    def _dvc(self, arguments: list[str], root: Path, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
        with self._lock:
            if self.stopping:
                raise Stopped(f"{arguments[-1]}: not started")
            child = start_dvc(arguments, root, log)
            self._live.add(child)
        try:
            yield child
        except BaseException:  # Ctrl-C, while the flow itself waits for it
            child.terminate()
            raise
        finally:
            child.wait()
            self._live.discard(child)


def start_dvc(arguments: list[str], root: Path, log: Path) -> "subprocess.Popen[bytes]":
    """dvc in this process group, writing to the file `log`.

    Never to a pipe: whoever inherits its end, a worker of Prefect say, would wait for an orphan.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, "-P", str(Path(__file__).with_name("lifetime") / "child.py"), str(os.getpid())]
    environment = {name: value for name, value in os.environ.items() if name not in _KEYS} | {
        # A stage's command says `python`, which must be this one.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
    }
    with log.open("wb") as out:
        return subprocess.Popen(
            [*program, *arguments], cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )


def log_path(stage: str, root: Path = Path()) -> Path:
    """Where all that `stage` says is kept until it runs again."""
    return root / "logs" / f"{stage.replace('/', '-')}.log"


def follow(child: "subprocess.Popen[bytes]", log: Path, tell: Tell) -> None:
    """Tell the newest lines of `log` until `child` has ended; at most BURST of them at each look."""
    with log.open(encoding="utf-8", errors="replace") as file:
        rest, running = "", True
        while running:
            running = _still_runs(child)
            *lines, rest = (rest + file.read()).split("\n")
            _tell_some(lines, log, tell)


def _still_runs(child: "subprocess.Popen[bytes]") -> bool:
    try:
        child.wait(timeout=LOOK_EVERY_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _tell_some(lines: list[str], log: Path, tell: Tell) -> None:
    lines = [line for line in lines if line.strip() and not _OF_DVC.match(line)]
    if len(lines) > BURST:
        tell(f"({len(lines) - BURST} more lines in {log})")
    for line in lines[-BURST:]:
        tell(line.rstrip())


def end_of(log: Path) -> str:
    """The last of what a stage said; a training that took weeks said more than fits into memory."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - END_BYTES))
        return file.read().decode("utf-8", errors="replace")


def why_failed(stage: str, output: str, log: Path) -> Exception:
    """The exception that says why `stage` failed, out of what dvc and the stage said.

    dvc itself returns 255 for whatever a stage returns, and says in words what that was.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    code = next((int(found[1]) for line in reversed(lines) if (found := _EXITED.search(line))), None)
    sentence = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None)
    if code == USER_ERROR and sentence:
        return StageRefused(f"{stage}: {sentence}")
    if code == COME_AGAIN or (code is None and any(mark in output for mark in _LOCKED)):
        return ComeAgain(f"{stage}: {sentence or lines[-1]}")
    what = f"exited with {code}" if code is not None else (lines[-1] if lines else "dvc was killed")
    return StageFailed(f"{stage}: {what.removeprefix('ERROR: ')}; all it said is in {log}")


def _of_store(code: int, output: str) -> Exception | None:
    """What flows/exchange.py refused by itself: dvc and its stages have other exit codes."""
    sentence = next((line[7:] for line in reversed(output.splitlines()) if line.startswith("error: ")), "")
    refusals = {USER_ERROR: StageRefused, COME_AGAIN: Unreached, HELD: Held}
    return refusals[code](sentence) if sentence and code in refusals else None


def _outcome(stage: str, output: str) -> str:
    if f"Stage '{stage}' didn't change, skipping" in output:
        return "cached"
    return "restored" if f"Stage '{stage}' is cached - skipping run" in output else "ran"


def _peak(output: str) -> int | None:
    found = _PEAK.search(output)
    return int(found[1]) if found else None


def _below(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []
