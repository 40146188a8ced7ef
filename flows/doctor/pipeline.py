"""The checks of the stages, as DVC has read them."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dvc.repo import Repo

from flows.code import code_of, is_covered
from flows.doctor.finding import Finding
from flows.lock import unlocked
from stages.locked import LOCK as SOURCES_LOCK

MANY_FILES = 2000  # DVC hashes, remembers and uploads a folder file by file


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


def _where(stage: Any) -> str:
    return f"{stage.relpath}: {stage.addressing.rpartition(':')[2]}"


CHECKS: tuple[Callable[[Repo, list[Any]], Iterator[Finding]], ...] = (
    check_outs, check_stages, check_code, check_ignored, check_strangers, check_sources
)  # fmt: skip
