"""A record of each stage that ran, in records/: what it read, ran and wrote, when, and on what (docs/attestations.md).

A flow writes it, as it saw the run; the form is lineage's. What a plain `dvc repro` ran gets one afterwards.
"""

import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock, get_native_id
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from dvc.exceptions import DvcException
from dvc.repo import Repo

from flows.git import GitFailed, git
from flows.lifetime.lease import flow_run
from flows.seen import Seen
from flows.settings import flow_settings
from flows.stage import Ended, Tell
from lineage.attestation import records_of
from lineage.attestation.digests import sha256_file
from lineage.attestation.pieces import read, written
from lineage.attestation.records import RECORDS, content_path
from lineage.attestation.signature import private_key, sign
from lineage.attestation.statement import Code, Run, canonical, statement
from lineage.history import LOCK, Build, Stage
from stages.params import Refusal

KEY = "PEDIGREE_FLOW_SIGNING_KEY"
_reading = Lock()  # DVC's Repo is not made for threads


def leave_record(root: Path, ended: Ended, tell: Tell) -> str | None:
    """Write the record of a stage that ran at `root`; its path, or None if that fails: what was built is built."""
    assert ended.seen
    try:
        build = Build(lock_text(root), None, None, ())
        return write_record(root, build, build.stages[ended.stage], ended.seen)
    except (Refusal, OSError, KeyError) as error:
        tell(f"it leaves no record ({error}); `pedigree attest` writes one later, without times")
        return None


def attest(root: Path = Path()) -> list[str]:
    """Write a record of each stage in dvc.lock that has none that fits, which nobody saw run; their paths.

    Raises:
        Refusal: if nothing is built, or an object of the build isn't here.
    """
    build = Build(lock_text(root), None, None, ())
    known = records_of(root, build)
    return [write_record(root, build, stage, None) for name, stage in build.stages.items() if name not in known]


def attest_here(revision: str | None, as_json: bool) -> None:
    """Write what is missing in the working folder, and print the paths.

    Raises:
        Refusal: as `attest`; or if a revision is named, whose run nobody here can have seen.
    """
    if revision:
        raise Refusal(f"{revision}: a record is of the build that stands here; check out that commit, or add --check")
    paths = attest()
    print(json.dumps(paths, indent=2) if as_json else "\n".join(paths) or "every stage has its record")


def write_record(root: Path, build: Build, stage: Stage, seen: Seen | None) -> str:
    """Write the record of the run of `stage` in `build`, signed if there is a key; its path within `root`.

    Raises:
        Refusal: if what it read or wrote isn't here, or the key is none.
    """
    deps = read(root, build, stage)
    code = code_at(root)
    if seen:
        run = Run(seen.began, seen.finished, seen.peak_bytes, flow_run(root), seen.settings, seen.machine)
    else:
        run = None
        # What ran is known to be in this commit only if nothing that it read is otherwise here.
        known = code.clean and all(piece.sha256 for piece in deps)
        code = Code(code.commit, code.clean) if known else Code()
    made = canonical(statement(stage, written(root, build, stage), deps, code, run, _versions()))
    key = signing_key()
    data = canonical(sign(made, key)) if key else made
    return _put(root, content_path(stage.name, data), data)


def signing_key() -> Ed25519PrivateKey | None:
    """The key that records are signed with; None if there is none.

    Raises:
        Refusal: if it is no such key.
    """
    text = flow_settings().signing_key.get_secret_value()
    return private_key(text, KEY) if text else None


def code_at(root: Path) -> Code:
    """The commit at `root` and whether anything but dvc.lock and records differs from it; and the packages' lock."""
    lock = root / "requirements.lock"
    digest = sha256_file(lock) if lock.is_file() else None
    try:
        commit = git(root, "rev-parse", "--verify", "--quiet", "HEAD")
        others = [".", f":(exclude){LOCK}", f":(exclude){RECORDS}"]
        return Code(commit, not git(root, "status", "--porcelain", "--", *others), digest)
    except GitFailed:  # no repository, or no commit
        return Code(lock_sha256=digest)


def lock_text(root: Path) -> str:
    """dvc.lock, whole: DVC writes it in place, under the lock of the project.

    Raises:
        Refusal: if there is none, or no project of DVC's.
    """
    try:
        with _reading, Repo(str(root), _wait_for_lock=True) as repo, repo.lock:
            return (root / LOCK).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Refusal(f"{root / LOCK} is missing: nothing is built yet; run `dvc repro`") from None
    except DvcException as error:
        raise Refusal(f"DVC can't read the project: {' '.join(str(error).split())}") from error


def _put(root: Path, name: str, data: bytes) -> str:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{get_native_id()}")
    partial.write_bytes(data)
    partial.replace(path)
    return name


def _versions() -> dict[str, Any]:
    """The versions of the programs that ran the stage, and say so."""
    found = {}
    for name in ("pedigree", "dvc", "prefect"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
