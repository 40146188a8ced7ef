"""One build at a time in a clone, and a record of each, by which the next one finds what a dead one left.

Both rest on locks (flock) that the kernel lets go of when their process dies, however it dies. So nothing can stay
locked, no number of a process can have come to mean another one, and neither a clock nor a restart confuses it.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from flows.lifetime.mend import mend
from flows.lifetime.orphans import MARK, end_orphans
from flows.stage import Tell
from stages.params import Refusal

STATE = Path(".dvc/tmp/pedigree")
LOOK_EVERY_SECONDS = 0.5


@dataclass(frozen=True)
class Run:
    """One process that builds here, or waits to. Its children carry `id` in their environment."""

    id: str
    pid: int
    host: str
    began: str
    flow_run: str | None = None  # as Prefect calls it
    api: str | None = None  # where Prefect is, without credentials


@dataclass
class _Mine:
    run: Run
    lock: int | None = None  # of its record


_mine: dict[Path, _Mine] = {}  # by clone; a build within a build of this process is the same one
_announced: dict[Path, _Mine] = {}  # by clone; what this process will build


def announce(root: Path, tell: Tell, flow_run: str) -> None:
    """Leave the record of a build that is about to begin: if it dies before that, the next one knows."""
    root = root.resolve()
    if (root / ".dvc").is_dir():
        run = Run(uuid4().hex, os.getpid(), socket.gethostname(), _now(), flow_run)
        _announced[root] = mine = _Mine(run)
        _record(mine, root, tell, run)


@contextmanager
def building(root: Path, tell: Tell, flow_run: str | None = None, api: str | None = None) -> Iterator[None]:
    """This process builds at `root`, alone: it waits for its turn, then clears away what dead builds have left.

    Args:
        root: the clone.
        tell: hears for whom it waits, and what was cleared away.
        flow_run: the Prefect run that this is, if it is one.
        api: where that run is recorded; credentials in it are left out.

    Raises:
        Refusal: if nothing can be written there.
    """
    root = root.resolve()
    if mine := _mine.get(root):
        _record(mine, root, tell, replace(mine.run, flow_run=flow_run, api=_public(api)))
        yield
        return
    if not (root / ".dvc").is_dir():  # no DVC project: whoever reads it says so
        yield
        return
    mine = _announced.pop(root, None) or _Mine(Run(uuid4().hex, os.getpid(), socket.gethostname(), _now()))
    run = replace(mine.run, flow_run=flow_run, api=_public(api))
    _mine[root] = mine
    untold = False
    try:
        _record(mine, root, tell, run)
        with _marked(run), _turn(root, tell):
            for dead in dead_runs(root):
                end_orphans(dead.id, root, tell)
                if dead.flow_run is None:  # nothing to tell Prefect
                    forget(dead, root)
            try:
                mend(root, root / STATE, tell)
            except OSError as error:  # DVC will say what it can't read
                tell(f"DVC's files were not looked through: {error}")
            try:
                yield
            except BaseException:  # the stage of a dvc that was killed, say
                end_orphans(run.id, root, tell)
                raise
    except BaseException as end:  # a signal may come at a moment when Prefect can't be told: the next build tells it
        untold = not isinstance(end, Exception) and mine.run.flow_run is not None
        raise
    finally:
        del _mine[root]
        if not untold:  # else the record is there, and locked, until this process ends
            forget(run, root)
            if mine.lock is not None:
                os.close(mine.lock)


def flow_run(root: Path) -> str | None:
    """The Prefect run of the build that this process does at `root`; None if there is none."""
    mine = _mine.get(root.resolve())
    return mine.run.flow_run if mine else None


def dead_runs(root: Path) -> list[Run]:
    """The records of builds at `root` whose process has died without removing them."""
    return [run for path in sorted(_records(root).glob("*.json")) if (run := _if_dead(path))]


def live_runs(root: Path) -> list[Run]:
    """The records of the builds at `root` that run, or wait for their turn."""
    return [_read(path) for path in sorted(_records(root).glob("*.json")) if not _if_dead(path)]


def forget(run: Run, root: Path) -> None:
    """Remove the record of `run`; one that may not be removed is found again."""
    with suppress(OSError):
        (_records(root) / f"{run.id}.json").unlink()


@contextmanager
def _turn(root: Path, tell: Tell) -> Iterator[None]:
    path = root / STATE / "build.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _wait_for(path, tell)
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}; a build must be able to write there") from error
    try:
        _sign(lock)
        yield
    finally:
        os.close(lock)


def _wait_for(path: Path, tell: Tell) -> int:
    """The open file `path`, locked by this process alone."""
    told = ""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(file, path):
                return file
        except BlockingIOError:
            holder = os.read(file, 200).decode(errors="replace") or "another process"
            if holder != told:
                tell(f"waits for the build of {holder}, which is at work in this clone")
                told = holder
            time.sleep(LOOK_EVERY_SECONDS)
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _is(file: int, path: Path) -> bool:
    """Whether the open file is still the one of that name: .dvc/tmp may be cleared at any time."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _sign(lock: int) -> None:
    """Say in the file who has it; a full disk keeps only the name out."""
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()} (since {_now()})".encode(), 0)
    except OSError:
        return


@contextmanager
def _marked(run: Run) -> Iterator[None]:
    """Every process that is started in the block carries the name of `run`."""
    before = os.environ.get(MARK)
    os.environ[MARK] = run.id
    try:
        yield
    finally:
        if before is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = before


def _record(mine: _Mine, root: Path, tell: Tell, run: Run) -> None:
    """Write `run` down, under a lock that ends with this process. A build goes on without."""
    path, new = _records(root) / f"{run.id}.json", _records(root) / f"{run.id}.new"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        fcntl.flock(file, fcntl.LOCK_EX)
        os.write(file, json.dumps(asdict(run)).encode())
        new.replace(path)
    except OSError as error:
        tell(f"this build leaves no record ({error}); if it is killed, the next one can't clear up after it")
        return
    if mine.lock is not None:
        os.close(mine.lock)
    mine.run, mine.lock = run, file


def _if_dead(path: Path) -> Run | None:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return _read(path)
    except OSError:  # locked: its process lives; or gone; or another user's
        return None


def _read(path: Path) -> Run:
    try:
        return Run(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):  # of another version, or damaged: its name is enough to find its children
        return Run(path.stem, 0, "", "")


def _records(root: Path) -> Path:
    return root / STATE / "runs"


def _public(url: str | None) -> str | None:
    """`url` without a name and password in it."""
    scheme, separator, rest = (url or "").partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" if url else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
