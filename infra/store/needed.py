"""What builds need of a store: the outs in the dvc.lock of every revision, and the run-cache entries that name them."""

import json
import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from dvc.stage.cache import _get_cache_hash

from stages.params import Refusal

VERSION = re.compile(r"refs/tags/[^@#]+@v\d+\.\d+\.\d+")  # of an artifact, as GTO writes it
WORKING_TREE = "the working tree"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Out:
    """One out as a dvc.lock has it. The digest of a folder ends in .dir: that of the list of its files."""

    stage: str
    path: str
    md5: str
    size: int | None


@dataclass(frozen=True)
class Locked:
    """What the dvc.lock of one revision names."""

    outs: tuple[Out, ...]
    entries: frozenset[str]  # of the run-cache: runs/12/1234…/5678…


def versions(root: Path) -> dict[str, str]:
    """The commits that are published, by name: versions (`base@v1.2.0`), branches, remote branches, and HEAD."""
    return {_short(ref): ref for ref in _refs(root) if not ref.startswith("refs/tags/") or VERSION.match(ref)}


def revisions(root: Path) -> dict[str, str]:
    """Every commit that something names: all branches and tags, remote or here, experiments, the stash, and HEAD."""
    return {_short(ref): ref for ref in _refs(root)}


def locked(root: Path, named: dict[str, str], working_tree: bool = False) -> dict[str, Locked]:
    """What the dvc.lock (and each .dvc file) of every revision in `named` says, by its name.

    Raises:
        Refusal: if one of them can't be read.
    """
    blobs: dict[str, Locked] = {}  # most revisions have the same dvc.lock
    found = {}
    for name, ref in named.items():
        ids = _lock_files(root, ref)
        for blob, path in ids.items():
            if blob not in blobs:
                blobs[blob] = _parse(_git(root, "cat-file", "blob", blob), f"{name}:{path}")
        found[name] = _joined([blobs[blob] for blob in ids])
    if working_tree:
        files = [path for path in _tracked(root) if _is_lock(path) and (root / path).exists()]
        texts = {path: (root / path).read_text(encoding="utf-8") for path in {*files, *_own_lock(root)}}
        found[WORKING_TREE] = _joined([_parse(text, path) for path, text in texts.items()])
    return found


def files_of(listed: bytes) -> dict[str, str]:
    """The digests of a folder's files by their paths in it, out of the object that lists them."""
    return {entry["relpath"]: entry["md5"] for entry in json.loads(listed)}


def fetch_refs(root: Path) -> None:
    """Have the newest branches and tags of every git remote: others may have pushed builds since.

    Raises:
        Refusal: if a git remote can't be asked.
    """
    try:
        for remote in _git(root, "remote").split():
            # All of them, whatever the clone is set to follow; a tag that differs here is an error.
            branches, tags = f"+refs/heads/*:refs/remotes/{remote}/*", "refs/tags/*:refs/tags/*"
            _git(root, "fetch", "--quiet", "--no-write-fetch-head", remote, branches, tags)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no reason given"]
        raise Refusal(
            f"git can't fetch the branches and tags, so what they need isn't known: {lines[-1]}; mend that first"
        ) from None


def _refs(root: Path) -> list[str]:
    try:
        refs = _git(root, "for-each-ref", "--format=%(refname)").split()
        _git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    except subprocess.CalledProcessError:
        raise Refusal(
            f"{root.resolve()} is no git repository with a commit: builds are found by their commits"
        ) from None
    return ["HEAD", *refs]


def _short(ref: str) -> str:
    return re.sub(r"^refs/(heads|tags|remotes)/", "", ref)


def _lock_files(root: Path, ref: str) -> dict[str, str]:
    """The lock files below `root` at `ref`: blob -> path."""
    try:
        listed = _git(root, "ls-tree", "-r", "-z", f"{ref}^{{commit}}")
    except subprocess.CalledProcessError:  # a tag of something else than a commit
        return {}
    rows = [row.partition("\t") for row in listed.split("\0") if row]
    return {meta.split()[2]: path for meta, _, path in rows if _is_lock(path)}


def _is_lock(path: str) -> bool:
    pure = PurePosixPath(path)
    return pure.name == "dvc.lock" or (pure.suffix == ".dvc" and ".dvc" not in pure.parts)


def _tracked(root: Path) -> list[str]:
    return _git(root, "ls-files", "-z").split("\0")


def _own_lock(root: Path) -> list[str]:
    return ["dvc.lock"] if (root / "dvc.lock").exists() else []


def _parse(text: str, where: str) -> Locked:
    try:
        content = yaml.load(text, Loader=_LOADER) or {}
        stages = content.get("stages") or {where: content}
        return _joined([_of_stage(name, stage) for name, stage in stages.items()])
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise Refusal(f"{where} is no lock of DVC's ({type(error).__name__}), so what it needs isn't known") from None


def _of_stage(name: str, stage: dict[str, Any]) -> Locked:
    outs = tuple(Out(name, out["path"], out["md5"], out.get("size")) for out in stage.get("outs") or [] if "md5" in out)
    if "cmd" not in stage:
        return Locked(outs, frozenset())
    key, value = _get_cache_hash(dict(stage), key=True), _get_cache_hash(dict(stage))
    return Locked(outs, frozenset({f"runs/{key[:2]}/{key}/{value}"}))


def _joined(parts: Iterable[Locked]) -> Locked:
    parts = list(parts)
    return Locked(
        tuple(out for part in parts for out in part.outs), frozenset().union(*(part.entries for part in parts))
    )


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, check=True, capture_output=True, text=True,
        env=os.environ | {"GIT_TERMINAL_PROMPT": "0"},
    ).stdout  # fmt: skip
