"""The checks of what a build needs around it: locks, object stores, disks, the clock."""

import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import psutil  # type: ignore[import-untyped]
from dvc.exceptions import DvcException
from dvc.repo import Repo
from fsspec.core import url_to_fs

from flows.doctor.finding import Finding, one_line, some
from infra.store.remote import remote_of
from stages.params import Refusal
from stages.settings import settings

REMOTE_SECONDS = 3.0
FUTURE_SECONDS = 60.0


def check_lock_kinds(repo: Repo, _stages: list[Any]) -> Iterator[Finding]:
    """Locks that outlive their process."""
    if repo.config["core"].get("hardlink_lock"):
        yield Finding(
            "warning",
            ".dvc/config",
            "core.hardlink_lock leaves a lock behind when DVC is killed",
            "run `dvc config --unset core.hardlink_lock`",
        )
        if (pid := _claimed(Path(repo.tmp_dir, "lock"))) and not psutil.pid_exists(pid):
            yield Finding("error", ".dvc/tmp/lock", f"process {pid} has left it locked, and is dead", "remove the file")
    try:
        held = json.loads(Path(repo.tmp_dir, "rwlock").read_bytes())
        pids = {int(info["pid"]) for info in _infos(held)}
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError):
        yield Finding("error", ".dvc/tmp/rwlock", "it can't be read, so DVC refuses to work", "remove the file")
        return
    for pid in sorted(pids):
        if not psutil.pid_exists(pid):
            yield Finding(
                "note",
                ".dvc/tmp/rwlock",
                f"process {pid} has left an entry, and is dead",
                "nothing is to be done: DVC clears it",
            )
        elif not _is_dvc(pid):
            yield Finding(
                "error",
                ".dvc/tmp/rwlock",
                f"DVC waits for process {pid}, which is not one of DVC",
                "remove the file when no DVC runs",
            )


def check_remotes(repo: Repo, _stages: list[Any]) -> Iterator[Finding]:
    """The default remote: that it is of the right kind, answers, and takes the credentials."""
    for name, config in sorted(repo.config["remote"].items()):
        for kind in ("version_aware", "worktree"):
            if config.get(kind):
                yield Finding(
                    "error",
                    ".dvc/config",
                    f"the remote {name} is {kind}: it keeps no run-cache",
                    f"run `dvc remote modify --unset {name} {kind}`",
                )
    if not repo.config["core"].get("remote"):
        yield Finding(
            "note",
            ".dvc/config",
            "there is no default remote, so nothing is pushed",
            "run `dvc remote add --default store s3://BUCKET/PREFIX` for one",
        )
    elif trouble := _within(REMOTE_SECONDS, "the default remote", lambda: _probe(repo)):
        yield Finding("error", ".dvc/config", trouble, "see docs/flows.md, object storage")


def check_scratch(_repo: Repo, _stages: list[Any]) -> Iterator[Finding]:
    """Scratch on an object store: that it answers, and takes the credentials."""
    url = settings().scratch_url
    if url and (trouble := _within(REMOTE_SECONDS, url, partial(_probe_scratch, url))):
        yield Finding("error", "PEDIGREE_SCRATCH", trouble, "see docs/stages.md, pretrain")


def check_disks(repo: Repo, stages: list[Any]) -> Iterator[Finding]:
    """Room for a build as large as the last one: the cache takes all of it, the workspace a stage at a time."""
    sizes = [sum(out.meta.size or 0 for out in stage.outs) for stage in stages]
    largest = max(sizes, default=0)
    places = {
        "the cache": (_there(Path(repo.cache.local.path)), sum(sizes)),
        "the workspace": (_there(Path(repo.root_dir)), largest),
        "scratch": (_there(settings().scratch_folder.absolute()), largest),
    }
    disks: dict[int, list[str]] = defaultdict(list)
    for name, (folder, _) in places.items():
        disks[folder.stat().st_dev].append(name)
        if not os.access(folder, os.W_OK):
            yield Finding(
                "error", name, f"{folder} can't be written to", "correct its permissions, or mount it writable"
            )
    for names in disks.values():
        needed = sum(places[name][1] for name in names)
        free = shutil.disk_usage(places[names[0]][0]).free
        if free < needed:
            yield Finding(
                "error",
                " and ".join(names),
                f"{_size(free)} are free, and a build as the last one takes {_size(needed)}",
                "free some (`dvc gc --workspace` drops what this dvc.lock doesn't need)",
            )


def check_clock(repo: Repo, stages: list[Any]) -> Iterator[Finding]:
    """Files that are newer than now: this clock, or that of the machine that wrote them, is wrong."""
    deps = {dep.def_path for stage in stages for dep in stage.deps if dep.protocol == "local"}
    files = [path for name in sorted(deps) for path in ([Path(name)] if Path(name).is_file() else Path(name).glob("*"))]
    late = [str(path) for path in sorted(set(files)) if path.stat().st_mtime > time.time() + FUTURE_SECONDS]
    if late:
        yield Finding(
            "note",
            "clock",
            f"{len(late)} files were changed in the future: {some(late)}",
            "set the clock; digests don't depend on it",
        )


def _probe(repo: Repo) -> str | None:
    remote = remote_of(repo)
    if remote and remote.fs.protocol == "local" and not Path(remote.path).parent.is_dir():
        return f"{remote.place}: the folder is not there"
    if remote:
        remote.probe()
    return None


def _probe_scratch(url: str) -> None:
    from stages.lease import reaching  # with it comes the client of object stores

    if not url.startswith("s3://"):
        raise Refusal(f"{url} is no S3 object store, which scratch must be (s3://BUCKET/PREFIX), or a folder")
    with reaching(url):
        store, path = url_to_fs(url, skip_instance_cache=True)
        bucket, _, prefix = path.partition("/")
        store.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)


def _within(seconds: float, name: str, ask: Callable[[], str | None]) -> str | None:
    """What is wrong, in the words of `ask`, or that it took too long: a client's own patience is minutes."""
    answer: list[str | None] = []

    def listen() -> None:
        try:
            answer.append(ask())
        except (Refusal, DvcException, OSError) as error:
            answer.append(one_line(error))
        except Exception as error:  # what a client says for itself may hold a key
            answer.append(f"{name} can't be asked ({type(error).__name__})")

    asking = Thread(target=listen, daemon=True)
    asking.start()
    asking.join(seconds)
    return answer[0] if answer else f"{name} does not answer within {seconds:g} s"


def _infos(held: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from held.get("write", {}).values()
    for infos in held.get("read", {}).values():
        yield from infos


def _claimed(lock: Path) -> int | None:
    """The process that holds a hard-linked lock: it names its claim file `lock|host|process|number`."""
    try:
        return int(lock.read_text(encoding="utf-8").split("|")[2])
    except (OSError, ValueError, IndexError):
        return None


def _is_dvc(pid: int) -> bool:
    try:
        return any("dvc" in word or "child.py" in word for word in psutil.Process(pid).cmdline())
    except psutil.Error:
        return True


def _there(folder: Path) -> Path:
    """`folder`, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB"


CHECKS: tuple[Callable[[Repo, list[Any]], Iterator[Finding]], ...] = (
    check_lock_kinds, check_remotes, check_scratch, check_disks, check_clock
)  # fmt: skip
