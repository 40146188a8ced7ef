"""What a dead build has left running: dvc, stages, a server. It ends before another build begins."""

import os
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from flows.stage import GRACE_SECONDS, Tell

MARK = "BUILD_OF_PEDIGREE"  # not PEDIGREE_…: those are settings


def end_orphans(build: str, root: Path, tell: Tell) -> None:
    """End every process in `root` that the dead `build` started; a stage saves what it has first."""
    orphans = orphans_of(build, root)
    if not orphans:
        return
    tell(f"ends what a dead build left running: {', '.join(str(process.pid) for process in orphans)}")
    _each(orphans, "terminate")
    _, left = psutil.wait_procs(orphans, timeout=GRACE_SECONDS)
    _each(left, "kill")
    psutil.wait_procs(left, timeout=GRACE_SECONDS)


def orphans_of(build: str, root: Path) -> list[psutil.Process]:
    """The processes that carry the mark of `build` and work in `root`, and theirs.

    A job that went elsewhere, to a node or another clone, is not in `root` and goes on.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and _is_marked(process, build) and _works_in(process, root):
                found |= {each.pid: each for each in [process, *process.children(recursive=True)]}
        except psutil.Error:  # another user's, or just gone
            continue
    return list(found.values())


def _is_marked(process: psutil.Process, build: str) -> bool:
    return bool(process.environ().get(MARK) == build)


def _works_in(process: psutil.Process, root: Path) -> bool:
    return Path(process.cwd()).is_relative_to(root)


def _each(processes: list[psutil.Process], verb: str) -> None:
    for process in processes:
        try:
            getattr(process, verb)()
        except psutil.Error:
            continue
