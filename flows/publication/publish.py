"""A finished build becomes a version that everyone can get, or a candidate that nobody gets by mistake.

    params.yaml, dvc.lock, the evaluation  ->  data in the DVC remote, then at once: a commit, its record, its tags

The commit and the tags are made beside the working tree, and reach the upstream by one atomic push. Only then the
branch here moves. So whoever is killed leaves nothing that others see, and the next call starts again; of two that
publish at the same time one wins, and the other sees what the winner made before it tries again.
"""

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import polars as pl
import yaml
from dvc.api import read as dvc_read
from dvc.repo import Repo

from flows.dag import read_dag
from flows.git import (
    GitFailed,
    Upstream,
    branch,
    changed,
    commit_beside,
    git,
    is_ancestor,
    somebody_commits,
    text_at,
    upstream,
)
from flows.lifetime.lease import building
from flows.publication.gate import ALL, Comparison, Evaluation, compare, read_evaluation
from flows.publication.signature import sign_model
from flows.publication.versions import ARTIFACT, PROD, assign, current, drop_leftovers, next_name, register, versions
from flows.stage import Children, ComeAgain, Tell
from flows.store import default_remote
from flows.work import RETRY_AFTER_SECONDS, say
from stages.params import Refusal

BUILD_FILES = ("params.yaml", "sources.lock", "dvc.lock")
RECORDS = f"records/{ARTIFACT}/"  # of versions
ATTESTATIONS = "records/"  # and, in folders beside those, of the runs of stages
KEYS = "records/keys/"  # whom to trust is for people to commit
WHAT_MAKES_A_BUILD = ("params.yaml", "sources.lock", "dvc.yaml", "dvc.lock", "takedown.jsonl", "stages/")
ATTEMPTS = 5

Outcome = Literal["published", "idle", "refused", "superseded"]


@dataclass(frozen=True)
class Published:
    """What became of a build."""

    outcome: Outcome
    sentence: str
    version: str | None = None
    candidate: str | None = None  # the branch that it was left on
    is_new: bool = True  # that branch wasn't there before
    comparison: Comparison | None = None


class Superseded(Exception):
    """The upstream has another build meanwhile; ours was compared with an older one."""


TELL: Tell = partial(say, "publish")


def publish(stage: str = PROD, root: Path = Path(), tell: Tell = TELL) -> Published:
    """Publish the build in `root` and give it `stage`; `prod` only if it isn't worse than the current version.

    Without an upstream of git, or a remote of DVC, it is published here alone.

    Raises:
        Refusal: if the build isn't up to date, the working tree has other changes than those of a build, or git or the
            DVC remote can't be reached.
    """
    with building(root, tell):
        return Publication(root, stage, tell).run()


class Publication:
    """One build on its way to the others."""

    def __init__(self, root: Path, stage: str, tell: Tell) -> None:
        self.root, self.stage, self.tell = root, stage, tell
        self.branch = branch(root)
        somebody_commits(root)
        self.remote = default_remote(root)
        self.upstream = upstream(root) if self.remote else None
        self.comparison: Comparison | None = None
        self.signature: str | None = None

    def run(self) -> Published:
        """Publish it, or say why not."""
        only_a_build_changed(self.root)
        try:
            own = fetch(self.root, self.upstream)
            catch_up(self.root, self.upstream)
            if stale := [stage.name for stage in read_dag(self.root).stages if stage.stale]:
                raise Refusal(f"the build is not up to date ({', '.join(stale)}); run `pedigree run`, then publish")
            if version := published_as(self.root):
                return Published("idle", f"this build is {ARTIFACT}@{version} already", version)
            self.comparison = self.compare()
            if not self.comparison.reasons:
                self.signature = sign_model(self.root)
            if self.upstream:
                push_data(self.root, self.tell)
            if self.comparison.reasons:
                return self.candidate("refused", self.comparison.reasons)
            return self.attempts(own)
        except Superseded as superseded:
            if self.upstream:
                push_data(self.root, self.tell)
            return self.candidate("superseded", [str(superseded)])

    def compare(self) -> Comparison:
        """The build beside the current version; nothing is in its way if there is none, or `prod` isn't asked for."""
        version = current(self.root)
        if self.stage != PROD or version is None:
            return Comparison(())
        return compare(evaluation_here(self.root), evaluation_at(self.root, version.commit))

    def attempts(self, own: list[str]) -> Published:
        """Publish it under the next free number, again if somebody else pushed first."""
        for _ in range(ATTEMPTS):
            before = self.seen()
            name = next_name(self.root)
            tags: list[str] = []
            try:
                commit = self.commit(f"{RECORDS}{name}.json", name, f"{ARTIFACT} {name}: {self.headline()}", [])
                tags.append(register(self.root, commit, name))
                tags.append(assign(self.root, name, self.stage))
                self.push(commit, self.branch, [*own, *tags])
            except GitFailed as failed:
                for tag in tags:
                    git(self.root, "tag", "--delete", tag)
                own = fetch(self.root, self.upstream)
                if self.seen() == before:
                    raise  # nobody was first: git has another reason
                self.tell(f"somebody else pushed first ({failed})")
                catch_up(self.root, self.upstream)
                if version := published_as(self.root):
                    return Published("idle", f"this build is {ARTIFACT}@{version} already", version)
            else:
                self.move(commit)
                where = "" if self.upstream else f"; here alone, as {self.why_alone()}"
                sentence = f"published as {ARTIFACT}@{name}, stage {self.stage}{where}"
                return Published("published", sentence, name, comparison=self.comparison)
        raise Refusal(f"others pushed {ATTEMPTS} times while this was to be published; publish again")

    def candidate(self, outcome: Outcome, reasons: list[str] | tuple[str, ...]) -> Published:
        """Leave the build on a branch of its own, with the reasons."""
        digest = sha256((self.root / "dvc.lock").read_bytes()).hexdigest()[:12]
        name = f"candidate/{digest}"
        known = self.branch_exists(name)
        if not known:
            message = "\n".join([f"{name} is not published", "", *(f"* {reason}" for reason in reasons)])
            commit = self.commit(f"{RECORDS}{name}.json", None, message, list(reasons))
            self.push(commit, f"refs/heads/{name}")
            if not self.upstream:
                git(self.root, "update-ref", f"refs/heads/{name}", commit)
        sentence = f"not published, it is the branch {name}: {'; '.join(reasons)}"
        return Published(outcome, sentence, candidate=name, is_new=not known, comparison=self.comparison)

    def commit(self, path: str, version: str | None, message: str, reasons: list[str]) -> str:
        """A commit of the build and its record, beside the working tree."""
        record = json.dumps(self.record(version, reasons), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        names = [name for name in (*BUILD_FILES, *new_records(self.root)) if (self.root / name).exists()]
        texts = {name: (self.root / name).read_text(encoding="utf-8") for name in names}
        signed = {path.replace(".json", ".sig"): self.signature} if version and self.signature else {}
        return commit_beside(self.root, "HEAD", texts | signed | {path: record}, message)

    def record(self, version: str | None, reasons: list[str]) -> dict[str, Any]:
        """What is known of the build, but who made it, where and when: the commit says that."""
        parent, outs = current(self.root), outs_of(self.root)
        files = {path: self.root / path for path in outs if path.startswith("metrics/") and path.endswith(".json")}
        return {
            "artifact": ARTIFACT,
            "version": version,
            "parent": parent.name if parent else None,
            "outs": outs,
            "metrics": {path: json.loads(file.read_text(encoding="utf-8")) for path, file in files.items()},
            "comparison": [asdict(row) for row in self.comparison.rows] if self.comparison else [],
            "notes": self.comparison.notes if self.comparison else [],
            "reasons": reasons,
        }

    def headline(self) -> str:
        """The build's result in a few words."""
        score = evaluation_here(self.root).scores[ALL]
        return f"{score.value:.4f} bits per byte on held-out text ({score.low:.4f} to {score.high:.4f})"

    def push(self, commit: str, branch: str, tags: Iterable[str] = ()) -> None:
        """Have the upstream's `branch` be at `commit`, and the tags there: all or nothing."""
        if not self.upstream:
            return
        there = self.upstream.branch if branch == self.branch else branch
        references = [f"{commit}:{there}", *(f"refs/tags/{tag}" for tag in tags)]
        git(self.root, "push", "--quiet", "--atomic", self.upstream.remote, *references)

    def move(self, commit: str) -> None:
        """Have the branch here be at `commit`; the working tree has what it holds but for the record."""
        git(self.root, "checkout", "--quiet", commit, "--", ATTESTATIONS)
        git(self.root, "update-ref", self.branch, commit)
        git(self.root, "reset", "--quiet")
        if self.upstream:
            git(self.root, "update-ref", self.upstream.here, commit)

    def branch_exists(self, name: str) -> bool:
        """Whether there is a branch of this name where it would be pushed to."""
        if self.upstream:
            return bool(git(self.root, "ls-remote", "--heads", self.upstream.remote, f"refs/heads/{name}"))
        return bool(git(self.root, "for-each-ref", f"refs/heads/{name}"))

    def seen(self) -> str:
        """Where the upstream and the versions are, as far as is known here."""
        places = [f"refs/tags/{ARTIFACT}{mark}*" for mark in "@#"]
        return git(self.root, "for-each-ref", *places, *([self.upstream.here] if self.upstream else []))

    def why_alone(self) -> str:
        """What keeps others from getting it."""
        return "the branch has no upstream" if self.remote else "DVC has no default remote"


def only_a_build_changed(root: Path) -> None:
    """Refuse a working tree that has other changes than those that a build makes."""
    new = new_records(root)
    strangers = [path for path in changed(root, "HEAD") if path not in new and not is_of_version(path)]
    if strangers:
        raise Refusal(f"{', '.join(strangers[:5])} changed since the last commit; commit that first, or take it back")
    git(root, "reset", "--quiet")  # a killed publication may have left an index behind its branch


def fetch(root: Path, upstream: Upstream | None) -> list[str]:
    """Fetch the branch and the versions of the upstream; the tags that only stand here."""
    own = drop_leftovers(root, upstream)
    if upstream:
        tags = [f"refs/tags/{ARTIFACT}{mark}*" for mark in "@#"]
        git(
            root, "fetch", "--quiet", "--no-tags", upstream.remote, f"+{upstream.branch}:{upstream.here}",
            *(f"{tag}:{tag}" for tag in tags),
        )  # fmt: skip
    return own


def catch_up(root: Path, upstream: Upstream | None) -> None:
    """Have the branch here contain what the upstream has. The build in the working tree stays what it is.

    Raises:
        Refusal: if the two have diverged.
        Superseded: if the upstream has another build, or other code for builds.
    """
    if upstream is None or is_ancestor(root, upstream.here, "HEAD"):
        return
    if not is_ancestor(root, "HEAD", upstream.here):
        raise Refusal("this branch and its upstream have diverged; bring them together (`git pull --rebase`)")
    theirs = {path for path in changed(root, "HEAD", upstream.here) if path.startswith(WHAT_MAKES_A_BUILD)}
    ours = [path for path in changed(root, "HEAD") if path in BUILD_FILES]
    same = all(text_at(root, upstream.here, name) == _text(root / name) for name in BUILD_FILES)
    if ours and theirs and not same:
        raise Superseded(f"the upstream's {', '.join(sorted(theirs)[:5])} changed since this was built")
    if ours and same:
        take_back(root)
    for path in new_records(root):  # of a publication that was killed after its push
        if text_at(root, upstream.here, path) is not None:
            (root / path).unlink()
    git(root, "merge", "--quiet", "--ff-only", upstream.here)


def take_back(root: Path) -> None:
    """Have params.yaml, the locks and the records of versions be what HEAD has. What ran has run: its records stay."""
    for path in changed(root, "HEAD"):
        if not is_of_version(path):
            continue
        if text_at(root, "HEAD", path) is None:
            (root / path).unlink()
        else:
            git(root, "checkout", "--quiet", "HEAD", "--", path)


def go_back(root: Path, upstream: Upstream | None, tell: Tell) -> None:
    """Have the working tree be that of the branch, outs included, so that the next build has nothing to do."""
    take_back(root)
    catch_up(root, upstream)
    if (root / "dvc.lock").exists():
        Children().dvc(["pull" if default_remote(root) else "checkout"], root, root / "logs" / "checkout.log", tell)


def push_data(root: Path, tell: Tell) -> None:
    """Push all outs and the run-cache to the DVC remote, and see that the outs are there.

    Raises:
        Refusal: if one isn't, nor in the cache; or if the remote isn't reached, nor a while later.
    """
    for pause in (*RETRY_AFTER_SECONDS, None):
        try:
            Children().push([], root, tell)
            break
        except ComeAgain as trouble:
            if pause is None:
                raise Refusal(f"nothing is published, as the data can't be: {trouble}") from trouble
            tell(f"{trouble}; again in {pause:.0f} s")
            time.sleep(pause)
    with Repo(str(root), _wait_for_lock=True) as repo:
        lacking = repo.status(cloud=True)
    if lacking:
        names = ", ".join(sorted(lacking)[:5])
        raise Refusal(f"{names}: not in the DVC remote after a push; run `dvc commit`, then publish again")


def published_as(root: Path) -> str | None:
    """The name of the version that the build in `root` is: the newest one, or the current one; None if neither."""
    texts = [_text(root / name) for name in BUILD_FILES]
    for version in [*versions(root)[-1:], current(root)]:
        if version and [text_at(root, version.commit, name) for name in BUILD_FILES] == texts:
            return version.name
    return None


def evaluation_here(root: Path) -> Evaluation:
    """The evaluation of the build in `root`."""
    try:
        metrics = (root / "metrics/evaluate.json").read_text(encoding="utf-8")
        return read_evaluation(json.loads(metrics), pl.read_parquet(root / "metrics/held_out.parquet"))
    except FileNotFoundError as error:
        raise Refusal(f"{error.filename or 'an evaluation'} is missing; run `pedigree run`, then publish") from None


def evaluation_at(root: Path, revision: str) -> Evaluation:
    """The evaluation of the version at `revision`, out of DVC's cache or remote.

    Raises:
        Refusal: if it can't be got: a candidate isn't compared with nothing.
    """
    try:
        metrics = dvc_read("metrics/evaluate.json", repo=str(root), rev=revision)
        documents = dvc_read("metrics/held_out.parquet", repo=str(root), rev=revision, mode="rb")
    except Exception as error:  # DVC, its index and each file system have their own, with no common base
        raise Refusal(
            f"the evaluation of the current version can't be got ({type(error).__name__}); "
            f"check the DVC remote (`dvc fetch --all-tags metrics/evaluate.json`)"
        ) from error
    return read_evaluation(json.loads(metrics), pl.read_parquet(BytesIO(documents)))


def outs_of(root: Path) -> dict[str, str]:
    """The digest of every out in dvc.lock, by path."""
    lock: Mapping[str, Any] = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}


def is_of_version(path: str) -> bool:
    """Whether `path` is a file that changes from version to version."""
    return path in BUILD_FILES or path.startswith(RECORDS)


def new_records(root: Path) -> list[str]:
    """The records of the runs of stages that HEAD doesn't have."""
    new = [path for path in changed(root, "HEAD") if path.startswith(ATTESTATIONS) and (root / path).is_file()]
    return [path for path in new if not path.startswith((RECORDS, KEYS)) and text_at(root, "HEAD", path) is None]


def _text(path: Path) -> str | None:
    with suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8")
    return None
