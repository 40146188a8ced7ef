"""The node's side of the hand-over: one stage of one commit, by a machine that has nothing but the store.

Everything it keeps is in one folder of its own (PEDIGREE_FLOW_NODE_FOLDER): a cache and a scratch that all stages on
this machine share, and a clone for the time of the stage.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType

from dvc.config import Config
from dvc.repo import Repo

from flows.dag import read_dag
from flows.places.handover import BRANCH, bundle_url, git, log_url, named, reaching, seen_url
from flows.seen import Seen
from flows.settings import flow_settings
from flows.stage import COME_AGAIN, USER_ERROR, Children, ComeAgain, Ended, StageFailed, Stopped, log_path
from flows.work import say
from stages.params import Refusal

# A stage that was told to stop saves for as long as its place lets it live.
SAVING_SECONDS = 24 * 3600.0


def run_there(commit: str, stage: str, remote: str, machine: int = 0) -> int:
    """Run `stage` of `commit`, which the store at `remote` has; put there what it made, and what it said.

    Of the machines of a stage that takes several, number 0 does so; the others run the stage's command beside it.

    Returns:
        The exit code: 0 done, 2 refused, 75 come again, 1 failed; why is the last line on stderr.
    """
    children = Children()
    signal.signal(signal.SIGTERM, _come_again)
    folder = flow_settings().node_folder.expanduser().resolve()
    os.environ.setdefault("PEDIGREE_SCRATCH", str(folder / "scratch"))
    try:
        with _clone(commit, stage, remote, folder, machine) as clone:
            if machine:
                return _join(stage, clone, children)
            with _log_kept(commit, stage, remote, clone):
                ended = _run(stage, clone, children)
            if ended.seen:
                _keep_seen(commit, stage, remote, ended.seen)
        return 0
    except (Refusal, StageFailed, ComeAgain, Stopped) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return _code(error)


def _come_again(signum: int, frame: FrameType | None) -> None:
    """End, once: whoever stops a job may signal every process of it, and more than once, while the stage saves."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(COME_AGAIN)


def _code(error: Exception) -> int:
    if isinstance(error, Refusal):
        return USER_ERROR
    return COME_AGAIN if isinstance(error, ComeAgain | Stopped) else 1


def _run(stage: str, clone: Path, children: Children) -> Ended:
    tell = partial(say, stage)
    try:
        ended = children.repro(stage, clone, tell, pull=True)
        tell(f"{ended.outcome} in {ended.seconds:.1f} s")
        children.push([stage], clone, tell)
        return ended
    except BaseException:  # a signal too: the stage saves, and ends before this process does
        children.stop(SAVING_SECONDS)
        raise


def _keep_seen(commit: str, stage: str, remote: str, seen: Seen) -> None:
    """Put what was seen of the run into the store, for its record; the stage is done without that, too."""
    url = seen_url(remote, commit, stage)
    with suppress(Refusal, ComeAgain), reaching(remote) as fs:
        fs.makedirs(url.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(url, json.dumps(asdict(seen)).encode())


def _join(stage: str, clone: Path, children: Children) -> int:
    """Run the command of `stage` beside machine 0, which alone writes what is kept."""
    (found,) = (each for each in read_dag(clone).stages if each.name == stage)
    if found.upstream:
        children.dvc(["pull", *found.upstream], clone, clone / "logs" / "pull.log", partial(say, stage))
    with Repo(str(clone)) as repo:
        command = named(repo, stage).cmd
    # A stage's command says `python`, which must be this one.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    child = subprocess.Popen(["sh", "-c", command], cwd=clone, env=os.environ | {"PATH": path})
    try:
        return child.wait()
    except BaseException:  # a signal: the stage saves on all machines together
        child.terminate()
        child.wait(SAVING_SECONDS)
        raise


@contextmanager
def _clone(commit: str, stage: str, remote: str, folder: Path, machine: int) -> Iterator[Path]:
    """A clean clone of `commit`, gone after the block; there is one for a stage at a time.

    Never a used one: an input that a killed process left half-downloaded would be taken for a whole one.
    """
    clone = folder / "clones" / f"{commit[:16]}-{stage.replace('/', '-')}-{machine}"
    clone.parent.mkdir(parents=True, exist_ok=True)
    with clone.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(clone, ignore_errors=True)
        try:
            _fetch(commit, remote, clone)
            _configure(clone, remote, folder)
            yield clone
        finally:
            shutil.rmtree(clone, ignore_errors=True)


def _fetch(commit: str, remote: str, clone: Path) -> None:
    bundle = clone.with_suffix(".bundle")
    with reaching(remote) as fs:
        if not fs.exists(url := bundle_url(remote, commit)):
            raise Refusal(f"{url}: there is no such hand-over; `pedigree run` makes it, give the commit that it names")
        fs.get_file(url, str(bundle))
    try:
        git(clone.parent, "init", "--quiet", str(clone))
        git(clone, "fetch", "--quiet", str(bundle), BRANCH)
        git(clone, "checkout", "--quiet", "--detach", commit)
    finally:
        bundle.unlink()


def _configure(clone: Path, remote: str, folder: Path) -> None:
    """Let DVC in `clone` use the cache of this machine and the store that was given, whatever the commit says."""
    config = Config(str(clone / ".dvc"))
    name = config["core"].get("remote")
    lines = ["[cache]", f"    dir = {folder / 'cache'}", '    type = "reflink,hardlink,symlink,copy"']
    if not name or config["remote"][name]["url"].rstrip("/") != remote:
        lines += ["[core]", "    remote = handover", "['remote \"handover\"']", f"    url = {remote}"]
    (clone / ".dvc" / "config.local").write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextmanager
def _log_kept(commit: str, stage: str, remote: str, clone: Path) -> Iterator[None]:
    """Put what the stage says into the store, behind what it said before it was stopped, however it ends."""
    url, log = log_url(remote, commit, stage), log_path(stage, clone)
    try:
        yield
        end = ""
    except (Refusal, StageFailed, ComeAgain, Stopped) as error:
        end = f"error: {error}\n"
        raise
    except BaseException:
        end = "error: stopped by a signal\n"
        raise
    finally:
        with suppress(Refusal, ComeAgain), reaching(remote) as fs:  # what the stage ended with counts more
            before = fs.cat_file(url) if fs.exists(url) else b""
            said = log.read_bytes() if log.exists() else b""
            fs.makedirs(url.rpartition("/")[0], exist_ok=True)
            fs.pipe_file(url, before + said + end.encode())
