"""A published model, by version, on any machine that reaches git and the object store."""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from dvc.repo import Repo

from flows.git import GitFailed, git, text_at, upstream
from flows.publication.versions import ARTIFACT, PROD, Version, named
from stages.params import Refusal


def get(wanted: str = PROD, out: Path | None = None, url: str | None = None, root: Path = Path()) -> Path:
    """The folder with the model of version `wanted` (`base@v1.2.0`, `base@prod`), compared with its digest.

    Args:
        wanted: the version, or a stage that it has.
        out: where to; by default `base-v1.2.0` here.
        url: the git repository; by default the upstream of the one at `root`, or itself if it has none.
        root: a clone, if no `url` is given.

    Raises:
        Refusal: if there is no such version, `out` exists, or the model can't be got, or isn't what was published.
    """
    with _versions_at(url, root) as clone:
        version = named(clone, wanted)
        out = out or Path(f"{ARTIFACT}-{version.name}")
        if out.exists():
            raise Refusal(f"{out} exists; name another folder by --out, or remove it")
        path, digest = _pinned(clone, version)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
            fetched = Path(folder) / "out"
            _fetch(clone if url else root, path, version, fetched)
            if (found := dvc_digest(fetched)) != digest:
                raise Refusal(
                    f"{ARTIFACT}@{version.name}: the digest of {path} is {found}, published was {digest}; "
                    f"mistrust the object store, and mend it (`pedigree store check`)"
                )
            fetched.rename(out)
    return out


def dvc_digest(path: Path) -> str:
    """DVC's digest of a file or folder, computed from its bytes."""
    if path.is_file():
        return _md5(path.read_bytes())
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listed = [{"md5": _md5_of(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    listed.sort(key=lambda entry: entry["relpath"])
    return f"{_md5(json.dumps(listed, sort_keys=True).encode())}.dir"


@contextmanager
def _versions_at(url: str | None, root: Path) -> Iterator[Path]:
    """A repository with the versions that are known there now."""
    try:
        if url is None and (above := upstream(root)):
            url = git(root, "remote", "get-url", above.remote)
    except Refusal:
        raise Refusal(f"{root.resolve()} is no clone with a commit; name the git repository by --from") from None
    if url is None:
        yield root
        return
    with tempfile.TemporaryDirectory(prefix="pedigree-get-") as folder:
        try:
            git(root, "clone", "--quiet", "--bare", url, folder)
        except GitFailed as error:
            raise Refusal(f"the repository can't be cloned: {error}") from None
        yield Path(folder)


def _pinned(clone: Path, version: Version) -> tuple[str, str]:
    """The path of the model in the version, and its digest."""
    try:
        pipeline: dict[str, Any] = yaml.safe_load(text_at(clone, version.commit, "dvc.yaml") or "")
        lock: dict[str, Any] = yaml.safe_load(text_at(clone, version.commit, "dvc.lock") or "")
        path = pipeline["artifacts"][ARTIFACT]["path"]
        outs = {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}
        return str(path), str(outs[path])
    except (KeyError, TypeError, yaml.YAMLError) as error:
        raise Refusal(f"{ARTIFACT}@{version.name} has no model in its dvc.yaml and dvc.lock ({error!r})") from None


def _fetch(repository: Path, path: str, version: Version, out: Path) -> None:
    try:
        Repo.get(str(repository), path, out=str(out), rev=version.commit)
    except Exception as error:  # DVC, its index and each file system have their own, with no common base
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Refusal(
            f"{ARTIFACT}@{version.name} can't be got ({reason}); check the object store and AWS_ENDPOINT_URL, "
            f"AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
        ) from error


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
