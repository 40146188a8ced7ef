"""The builds in git history: one for each dvc.lock that any commit has.

git log, dvc.lock  ->  Build(commit, date, names, stages), the newest first
"""

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from stages.params import Refusal

LOCK = "dvc.lock"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast


@dataclass(frozen=True)
class Object:
    """A file or folder that a stage read or wrote, as DVC knows it. The digest of a folder ends in .dir."""

    path: str
    md5: str
    size: int | None
    files: int | None  # of a folder


@dataclass(frozen=True)
class Stage:
    """A stage as a build ran it."""

    name: str  # filter@papers
    command: str
    params: Mapping[str, Any]  # by their full names in params.yaml: sources.papers.filter
    deps: Mapping[str, Object]  # by path
    outs: Mapping[str, Object]

    @property
    def kind(self) -> str:
        """The stage without its source: filter."""
        return self.name.partition("@")[0]


@dataclass(frozen=True)
class Build:
    """One dvc.lock, and the oldest commit that has it; no commit if it stands in the working tree only."""

    lock: str  # the text
    commit: str | None
    date: str | None  # of the commit, ISO 8601
    names: tuple[str, ...]  # tags and branches that have this dvc.lock at their tip

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """The stages by name, in the order of dvc.lock.

        Raises:
            Refusal: if it isn't a dvc.lock.
        """
        try:
            found = (yaml.load(self.lock, Loader=_LOADER) or {}).get("stages") or {}
            return {name: _stage(name, entry) for name, entry in found.items()}
        except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
            raise Refusal(
                f"{LOCK} of {self.title} is not DVC's ({type(error).__name__}); leave that commit out, or mend the file"
            ) from None

    @cached_property
    def outs(self) -> dict[str, Object]:
        """Every out of the build, by path."""
        return {path: out for stage in self.stages.values() for path, out in stage.outs.items()}

    @property
    def title(self) -> str:
        """What people call it: its first name, else the commit."""
        if self.commit is None:
            return "the working tree"
        names = [name for name in self.names if "#" not in name]  # base#prod#7 says what a version is, not its name
        return names[0] if names else self.commit[:12]

    @property
    def dated(self) -> str:
        """The title with the day of its commit: main (2026-11-24)."""
        return f"{self.title} ({self.date[:10]})" if self.date else self.title


def build_at(root: Path, revision: str | None = None) -> Build:
    """The build whose dvc.lock stands at `revision` (base@prod: the current version); by default in the working tree.

    Raises:
        Refusal: if there is no such revision, or no dvc.lock in it.
    """
    if revision is None:
        try:
            return Build((root / LOCK).read_text(encoding="utf-8"), None, None, ())
        except FileNotFoundError:
            raise Refusal(f"{root / LOCK} is missing: nothing is built yet; run `dvc repro`") from None
    commit = _commit(root, revision) or _commit(root, _assigned(root, revision))
    if not commit:
        raise Refusal(f"there is no commit {revision} here; `git fetch --tags` brings those of others")
    lock = _git(root, "show", f"{commit}:./{LOCK}")
    if not lock:
        raise Refusal(f"commit {revision} has no {LOCK}: nothing was built there; name a later one")
    return Build(lock, commit, _git(root, "show", "--no-patch", "--format=%cI", commit).strip(), (revision,))


def builds(root: Path) -> list[Build]:
    """Every build of the git history, all branches and tags, the newest first.

    In a shallow clone there are fewer; `is_shallow` says whether this is one.
    """
    oldest: dict[str, tuple[str, str]] = {}  # blob of dvc.lock -> commit, date
    commit = date = ""
    for line in _git(root, "log", "--all", "-m", "--format=%H %cI", "--raw", "--no-abbrev", "--", LOCK).splitlines():
        if line.startswith(":"):
            blob, status = line.split()[3:5]
            if status != "D":
                oldest[blob] = (commit, date)  # log goes back in time: the last one to write is the oldest
        elif line:
            commit, date = line.split()
    names = _names(root)
    texts = _blobs(root, oldest)
    found = [Build(texts[blob], *oldest[blob], tuple(names.get(blob, ()))) for blob in oldest]
    return sorted(found, key=lambda build: build.date or "", reverse=True)


def all_builds(root: Path, history: list[Build]) -> list[Build]:
    """`history` (of `builds`), and before it the build of the working tree, if there is one that no commit has."""
    try:
        here = build_at(root)
    except Refusal:
        return history
    return history if any(here.lock == build.lock for build in history) else [here, *history]


def is_shallow(root: Path) -> bool:
    """Whether git history is cut off here, so that older builds are unknown."""
    return _git(root, "rev-parse", "--is-shallow-repository").strip() == "true"


def text_at(root: Path, build: Build, path: str) -> str | None:
    """The text of the committed file `path` of `build`; None if it isn't there."""
    if build.commit is None:
        file = root / path
        return file.read_text(encoding="utf-8") if file.is_file() else None
    return _git(root, "show", f"{build.commit}:./{path}") or None


def _stage(name: str, entry: Mapping[str, Any]) -> Stage:
    params = {key: value for values in (entry.get("params") or {}).values() for key, value in values.items()}
    return Stage(name, str(entry["cmd"]), params, _objects(entry.get("deps")), _objects(entry.get("outs")))


def _objects(entries: Iterable[Mapping[str, Any]] | None) -> dict[str, Object]:
    return {
        entry["path"]: Object(entry["path"], str(entry["md5"]), entry.get("size"), entry.get("nfiles"))
        for entry in entries or ()
    }


def _commit(root: Path, revision: str) -> str:
    return _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").strip()


def _assigned(root: Path, wanted: str) -> str:
    """The newest tag that gives a version the stage of `wanted`, as GTO writes it: base@prod is base#prod#7."""
    artifact, at, stage = wanted.partition("@")
    if not at:
        return ""
    tags = f"refs/tags/{artifact}#{stage}#*"
    return _git(root, "for-each-ref", "--sort=-version:refname", "--count=1", "--format=%(refname)", tags).strip()


def _names(root: Path) -> dict[str, list[str]]:
    """Tags, then branches, by the blob of dvc.lock that they have at their tip."""
    refs = _git(root, "for-each-ref", "--format=%(refname:strip=2)", "refs/tags", "refs/heads").splitlines()
    asked = "".join(f"{ref}:{LOCK}\n" for ref in refs)
    answers = _git(root, "cat-file", "--batch-check=%(objectname)", text=asked).splitlines()
    names: dict[str, list[str]] = {}
    for ref, answer in zip(refs, answers, strict=True):
        if not answer.endswith("missing"):
            names.setdefault(answer, []).append(ref)
    return names


def _blobs(root: Path, ids: Iterable[str]) -> dict[str, str]:
    asked = list(ids)
    done = subprocess.run(
        ["git", "cat-file", "--batch"], cwd=root, input="".join(f"{id}\n" for id in asked).encode(),
        capture_output=True, check=False,
    )  # fmt: skip
    texts, rest = {}, done.stdout
    for id in asked:
        head, _, rest = rest.partition(b"\n")
        size = int(head.split()[2])
        texts[id], rest = rest[:size].decode(), rest[size + 1 :]
    return texts


def _git(root: Path, *arguments: str, text: str | None = None) -> str:
    """What git prints; nothing if it fails."""
    done = subprocess.run(["git", *arguments], cwd=root, input=text, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""
