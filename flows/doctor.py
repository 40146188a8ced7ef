"""What would break a build, found before it does. docs/doctor.md has the table."""

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import psutil  # type: ignore[import-untyped]
from dvc.exceptions import DvcException
from dvc.repo import Repo
from fsspec.core import url_to_fs
from packaging.specifiers import SpecifierSet

from flows.code import code_of, is_covered
from flows.dependencies import LOCK, differing, read_lock
from flows.lock import unlocked
from infra.store.remote import remote_of
from stages.locked import LOCK as SOURCES_LOCK
from stages.params import Refusal
from stages.settings import settings

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")

MANY_FILES = 2000  # DVC hashes, remembers and uploads a folder file by file
REMOTE_SECONDS = 3.0
FUTURE_SECONDS = 60.0
NAMED = 3  # of many of a kind


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where, what, and how it is mended. A build fails by an error only."""

    level: Level
    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.what}; {self.remedy}"


def diagnose(root: Path = Path()) -> list[Finding]:
    """All that is wrong with the project at `root` and this machine, the worst first, always in the same order."""
    with chdir(root):
        found = [finding for check in OF_MACHINE for finding in _refusal_too(check)]
        try:
            with Repo() as repo:
                stages = sorted(repo.index.stages, key=lambda stage: str(stage.addressing))
                for check in OF_PROJECT:
                    found += _refusal_too(partial(check, repo, stages))
        except DvcException as error:
            found.append(Finding("error", "dvc.yaml", f"DVC can't read the project: {_one_line(error)}", "mend it"))
    return sorted(set(found), key=lambda each: (LEVELS.index(each.level), each.where, each.what))


def _refusal_too(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What `check` finds; or why it can't."""
    try:
        return list(check())
    except Refusal as refusal:
        what, _, remedy = str(refusal).partition("; ")
        return [Finding("error", "settings", what, remedy or "correct it")]


def show(findings: list[Finding], as_json: bool) -> int:
    """Print `findings`, one a line, and return the exit code: 1 if one of them is an error."""
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(finding)
        counts = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
        print(", ".join(f"{count} {level}{'s' * (count != 1)}" for level, count in counts.items()))
    return int(any(finding.level == "error" for finding in findings))


# Of the machine: whatever the project is.


def check_python() -> Iterator[Finding]:
    """The Python that runs this, beside the one that pyproject.toml asks for."""
    if not Path("pyproject.toml").is_file():
        return
    wanted = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8")).get("project", {}).get("requires-python")
    version = ".".join(map(str, sys.version_info[:3]))
    if wanted and version not in SpecifierSet(wanted):
        yield Finding("error", "Python", f"this is {version}, and {wanted} is needed", "install in another Python")


def check_packages() -> Iterator[Finding]:
    """The installed packages beside the lock."""
    if not LOCK.is_file():
        yield Finding("warning", str(LOCK), "it is missing, so no version is known", "restore it from git")
        return
    sentences = differing(read_lock())
    absent = [sentence for sentence in sentences if "but nothing is installed" in sentence]
    others = [sentence for sentence in sentences if sentence not in absent]
    remedy = f"run `pip install -r {LOCK}`"
    if others:
        yield Finding("error", str(LOCK), f"{len(others)} packages differ: {_some(others)}", remedy)
    if absent:
        yield Finding("warning", str(LOCK), f"{len(absent)} packages are absent: {_some(absent)}", remedy)


def check_git() -> Iterator[Finding]:
    """git, which DVC needs to tell a version by."""
    if not shutil.which("git"):
        yield Finding("error", "git", "it isn't installed, and DVC needs it", "install git")
    elif subprocess.run(["git", "rev-parse", "--git-dir"], capture_output=True, check=False).returncode:
        yield Finding("note", "git", "the project is in no git repository, so it has no versions", "run `git init`")


OF_MACHINE: tuple[Callable[[], Iterator[Finding]], ...] = (check_python, check_packages, check_git)


# Of the project, as DVC has read it.


def check_outs(_repo: Repo, stages: list[Any]) -> Iterator[Finding]:
    """Outs that DVC doesn't keep, or keeps too much of."""
    for stage in stages:
        for out in stage.outs:
            where, name = _where(stage), f"out {out.def_path}"
            if out.persist:
                yield Finding(
                    "error",
                    where,
                    f"{name} is kept between runs (persist), so a changed stage goes on from the old "
                    f"state, and there is no run-cache",
                    "remove `persist`; work in progress belongs in scratch",
                )
            if not out.use_cache:
                yield Finding(
                    "error",
                    where,
                    f"{name} is not cached, so a fresh clone can't restore the stage",
                    "remove `cache: false`",
                )
            if not out.is_in_repo:
                yield Finding(
                    "error", where, f"{name} lies outside the project, so nothing restores it", "give it a path in here"
                )
            if (out.meta.nfiles or 0) > MANY_FILES:
                yield Finding(
                    "warning",
                    where,
                    f"{name} has {out.meta.nfiles} files, which DVC hashes and uploads one by one",
                    f"write fewer and larger ones (at most {MANY_FILES})",
                )


def check_stages(_repo: Repo, stages: list[Any]) -> Iterator[Finding]:
    """Stages that run always, or never, or that nothing restores."""
    for stage in stages:
        where = _where(stage)
        if stage.frozen:
            yield Finding("note", where, "it is frozen, so no change reaches it", "run `dvc unfreeze` to have it built")
        if stage.always_changed:
            yield Finding(
                "warning",
                where,
                "it is always changed, so every build runs it and what follows",
                "remove `always_changed`, and name what it depends on",
            )
        elif stage.cmd and not stage.deps:
            yield Finding(
                "warning", where, "it has neither deps nor params, so it has no run-cache", "name its code in `deps`"
            )
        for dep in stage.deps:
            if not dep.is_in_repo:
                yield Finding(
                    "warning",
                    where,
                    f"dep {dep.def_path} lies outside the project: no run-cache",
                    "pin it in params.yaml, and have a stage fetch it",
                )


def check_code(_repo: Repo, stages: list[Any]) -> Iterator[Finding]:
    """Code that a stage runs and doesn't depend on."""
    for stage in stages:
        deps = {dep.def_path.rstrip("/") for dep in stage.deps}
        missing = sorted(path for path in code_of(stage.cmd or "") if not is_covered(path, deps))
        for path in missing:
            yield Finding(
                "error", _where(stage), f"it runs {path}, a change of which goes unseen", f"add {path} to its deps"
            )


def check_ignored(repo: Repo, stages: list[Any]) -> Iterator[Finding]:
    """Python's own files beside code that is a dep as a folder."""
    folders = {dep.def_path for stage in stages for dep in stage.deps if dep.protocol == "local"}
    for folder in sorted(name for name in folders if any(Path(name).glob("*.py"))):
        if not repo.dvcignore.is_ignored_dir(str(Path(folder, "__pycache__").absolute())):
            yield Finding(
                "error",
                ".dvcignore",
                f"the dep {folder} changes by being run: __pycache__ is in it",
                "add a line `__pycache__`",
            )


def check_strangers(_repo: Repo, stages: list[Any]) -> Iterator[Finding]:
    """Folders beside those of the sources that belong to none: the stage that joins them refuses."""
    known = defaultdict(set)
    for stage in stages:
        if "@" in stage.addressing:
            for out in stage.outs:
                known[Path(out.def_path).parent].add(Path(out.def_path).name)
    for parent, names in known.items():
        for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
            if folder.is_dir() and folder.name not in names:
                yield Finding(
                    "error", str(folder), "it belongs to no source of params.yaml", "remove it, or put the source back"
                )


def check_sources(_repo: Repo, stages: list[Any]) -> Iterator[Finding]:
    """Sources that nobody has locked."""
    if any("download@" in stage.addressing for stage in stages):
        for sentence in unlocked():
            what, _, remedy = sentence.removeprefix(f"{SOURCES_LOCK}: ").partition("; ")
            yield Finding("error", str(SOURCES_LOCK), what.removeprefix(f"{SOURCES_LOCK} "), remedy)


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
            f"{len(late)} files were changed in the future: {_some(late)}",
            "set the clock; digests don't depend on it",
        )


OF_PROJECT: tuple[Callable[[Repo, list[Any]], Iterator[Finding]], ...] = (
    check_outs,
    check_stages,
    check_code,
    check_ignored,
    check_strangers,
    check_sources,
    check_lock_kinds,
    check_remotes,
    check_scratch,
    check_disks,
    check_clock,
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
            answer.append(_one_line(error))
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


def _where(stage: Any) -> str:
    return f"{stage.relpath}: {stage.addressing.rpartition(':')[2]}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB"


def _one_line(error: BaseException) -> str:
    reasons = [str(each) for each in (error, error.__cause__) if each and str(each)]
    return " ".join(": ".join(reasons).split())
