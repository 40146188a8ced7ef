"""What the flows ask of git: commits that are made beside the working tree, and pushed all or nothing."""

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.params import Refusal

SECRET = re.compile(r"(?<=://)[^/\s@]+@")  # name and password in a URL
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class Upstream:
    """The branch elsewhere that the current one follows."""

    remote: str
    branch: str  # refs/heads/…

    @property
    def here(self) -> str:
        """The name under which what was fetched of it stands here."""
        return f"refs/remotes/{self.remote}/{self.branch.removeprefix('refs/heads/')}"


class GitFailed(Refusal):
    """git said no; its own words, without a secret."""


def git(root: Path, *arguments: str, text: str | None = None, **variables: str) -> str:
    """What git prints for `arguments` in `root`; `text` is its input.

    It never asks for a password: nobody would answer.

    Raises:
        GitFailed: if it fails, or doesn't end.
    """
    environment = {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes"} | dict(os.environ) | {"GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, env=environment | variables, input=text or "", capture_output=True,
            text=True, check=False, timeout=PATIENCE_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise GitFailed(f"git {arguments[0]} didn't end in {PATIENCE_SECONDS:.0f} s; check the network") from None
    if done.returncode:
        said = SECRET.sub("***@", " ".join(done.stderr.split()))
        raise GitFailed(f"git {arguments[0]} failed ({said or done.returncode})")
    return done.stdout.strip()


def branch(root: Path) -> str:
    """The current branch, refs/heads/….

    Raises:
        Refusal: if there is none, or no commit on it.
    """
    try:
        name = git(root, "symbolic-ref", "--quiet", "HEAD")
        git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    except GitFailed:
        raise Refusal(f"{root.resolve()} is on no git branch with a commit; check one out, such as main") from None
    return name


def somebody_commits(root: Path) -> None:
    """Refuse, if git doesn't know whose name a commit or tag would bear."""
    try:
        git(root, "var", "GIT_COMMITTER_IDENT")
    except GitFailed:
        raise Refusal("git doesn't know who commits; set user.name and user.email by `git config`") from None


def upstream(root: Path) -> Upstream | None:
    """What the current branch follows; None if it follows nothing elsewhere."""
    asked = git(root, "for-each-ref", "--format=%(upstream:remotename) %(upstream:remoteref)", branch(root))
    remote, _, name = asked.partition(" ")
    return Upstream(remote, name) if remote and remote != "." else None


def changed(root: Path, *revisions: str) -> list[str]:
    """The files that differ between two revisions; with one, from the working tree, new files included."""
    names = git(root, "diff", "--name-only", "--no-renames", "-z", *revisions).split("\0")
    if len(revisions) == 1:
        names += git(root, "ls-files", "--others", "--exclude-standard", "-z").split("\0")
    return sorted({name for name in names if name})


def commit_beside(root: Path, parent: str, files: Mapping[str, str], message: str) -> str:
    """A commit on `parent` in which the paths in `files` hold these texts. No branch, index or file changes."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git(root, "read-tree", parent, **index)
        for path, text in files.items():
            blob = git(root, "hash-object", "-w", "--stdin", "--path", path, text=text)
            git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", **index)
        tree = git(root, "write-tree", **index)
    return git(root, "commit-tree", tree, "-p", parent, "-F", "-", text=message)


def text_at(root: Path, revision: str, path: str) -> str | None:
    """The text of the file `path` at `revision`; None if it isn't there."""
    try:
        blob = git(root, "rev-parse", "--verify", "--quiet", f"{revision}:{path}")
    except GitFailed:
        return None
    return subprocess.run(
        ["git", "cat-file", "blob", blob], cwd=root, capture_output=True, text=True, check=True
    ).stdout


def is_ancestor(root: Path, older: str, newer: str) -> bool:
    """Whether the commit `older` is `newer`, or before it."""
    try:
        git(root, "merge-base", "--is-ancestor", older, newer)
    except GitFailed:
        return False
    return True
