"""A build of the committed files from nothing: a clean clone, no cache, no scratch."""

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.work import build_locally, say
from stages.params import Refusal
from stages.settings import settings

# Nothing of another build may help this one: not a cache that a machine's DVC settings name, nor its scratch.
CONFIG = """\
[core]
    analytics = false
    check_update = false
    remote =
[cache]
    dir = {cache}
"""


@contextmanager
def rebuild(
    keep: Path | None = None, targets: Iterable[str] | None = None, root: Path = Path(), rev: str | None = None
) -> Iterator[Path]:
    """The folder in which a commit of the project at `root` was built again, gone after the block unless it is `keep`.

    The commit is that of `rev`, a tag say; by default HEAD.

    Raises:
        Refusal: if `root` is no git repository or has no such commit, or `keep` isn't empty.
        StageRefused, StageFailed: if a stage doesn't end well there.
    """
    with _folder(keep) as folder:
        clone(root, folder, rev)
        with _own_scratch(folder, root):
            build_locally(targets, folder)
        yield folder


@contextmanager
def as_committed(rev: str | None, root: Path = Path()) -> Iterator[Path]:
    """A folder with the dvc.lock that the commit of `rev` has, and the cache of `root`; without a `rev`, `root` itself.

    Raises:
        Refusal: if there is no such commit, or no dvc.lock in it.
    """
    if rev is None:
        yield root
        return
    with tempfile.TemporaryDirectory(prefix="pedigree-committed-") as name:
        folder = Path(name)
        (folder / "dvc.lock").write_text(_git(root, "show", f"{_commit(root, rev)}:./dvc.lock"), encoding="utf-8")
        (folder / ".dvc" / "cache" / "files").mkdir(parents=True)
        (folder / ".dvc" / "cache" / "files" / "md5").symlink_to(_objects(root))
        yield folder


def clone(root: Path, folder: Path, rev: str | None = None) -> None:
    """Put the committed files of `root` into `folder`, as a DVC project with a cache of its own."""
    commit = _commit(root, rev or "HEAD")
    if rev is None and (changed := _git(root, "status", "--porcelain")):
        say("verify", f"{len(changed.splitlines())} uncommitted changes are not part of the copy")
    _git(root, "clone", "--quiet", "--no-hardlinks", ".", str(folder.resolve()))
    _git(folder, "checkout", "--quiet", "--detach", commit)
    cache = folder.resolve() / ".dvc" / "cache"
    (folder / ".dvc" / "config.local").write_text(CONFIG.format(cache=cache), encoding="utf-8")
    say("verify", f"building {_git(folder, 'rev-parse', 'HEAD')[:12]} again in {folder}")


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="pedigree-verify-") as name:
            yield Path(name)
        return
    if keep.exists() and any(keep.iterdir()):
        raise Refusal(f"{keep} is not empty; name a new folder for --keep")
    yield keep


@contextmanager
def _own_scratch(folder: Path, root: Path) -> Iterator[None]:
    """A scratch without checkpoints, which would make the training a resume; but downloads are checked by digest."""
    downloads = (root / settings().scratch_folder / "download").resolve()
    given = os.environ.pop("PEDIGREE_SCRATCH", None)
    (folder / "scratch").mkdir()
    if downloads.is_dir():
        (folder / "scratch" / "download").symlink_to(downloads)
    try:
        yield
    finally:
        if given is not None:
            os.environ["PEDIGREE_SCRATCH"] = given


def _objects(root: Path) -> Path:
    """Where DVC's cache of `root` has its objects, as its configuration has it."""
    from dvc.repo import Repo  # takes a second to load, and only who names a revision needs it

    with Repo(str(root)) as repo:
        return Path(repo.cache.local.path).resolve()


def _commit(root: Path, rev: str) -> str:
    return _git(root, "rev-parse", "--verify", "--end-of-options", f"{rev}^{{commit}}")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refusal(f"git {arguments[0]} failed in {root.resolve()}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()
