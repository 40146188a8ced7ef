"""The hand-over between machines that share nothing but the store: a commit of the working tree as it is.

    <remote>/handover/<commit>.bundle         the commit, without its history, as a git bundle
    <remote>/handover/<commit>/<stage>.log    all that the stage said there
    <remote>/handover/<commit>/<stage>.seen   when and on what it ran, as JSON

What the stage reads and writes travels by DVC: `dvc push` of what it depends on, and back by the run-cache. The node's
side is in flows.places.node.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

import fsspec
from dvc.exceptions import DvcException
from dvc.fs import get_cloud_fs
from dvc.repo import Repo
from dvc.stage.cache import RunCacheNotFoundError, _can_hash, _get_stage_hash

from flows.places import Errand
from flows.seen import Seen
from flows.stage import ComeAgain, log_path
from infra.store.remote import Remote, Unreachable, explained
from stages.params import Refusal

BRANCH = "refs/heads/handover"
# Whoever makes the commit, and whenever: the same files make the same commit, so it is uploaded once.
_ALWAYS_THE_SAME = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in {"NAME": "pedigree", "EMAIL": "pedigree@localhost", "DATE": "2000-01-01T00:00:00Z"}.items()
}
_reading = Lock()  # DVC's Repo is not made for threads


def make_errand(stage: str, root: Path = Path()) -> Errand:
    """`stage` of the project at `root` as it is now, its commit in the store.

    Raises:
        Refusal: if `root` is no git repository, has no default remote, or the stage can't be restored from elsewhere.
        ComeAgain: if the store can't be reached.
    """
    with _reading, _project(root) as repo:
        remote = default_remote(repo)
        digest = stage_digest(repo, stage)
        untracked = _files(repo)
    with tempfile.TemporaryDirectory(prefix="pedigree-handover-") as temporary:
        bundle = Path(temporary) / "bundle"
        commit = commit_tree(root, untracked, bundle)
        errand = Errand(stage, digest, commit, remote, log_path(stage, root))
        with reaching(remote) as fs:
            _upload(fs, bundle, bundle_url(remote, commit))
    return errand


def restorable(stage: str, root: Path) -> bool:
    """Whether DVC's cache on this machine has what `stage` makes of what it depends on now."""
    with _reading, _project(root) as repo:
        found = named(repo, stage)
        found.save_deps()
        try:
            repo.stage_cache.restore(found, dry=True)
        except RunCacheNotFoundError:
            return False
        return True


def is_done(errand: Errand) -> bool:
    """Whether the store's run-cache has what the stage makes of what it depends on."""
    with reaching(errand.remote) as fs:
        return bool(fs.exists(f"{errand.remote}/runs/{errand.digest[:2]}/{errand.digest}"))


def unchanged(errand: Errand, root: Path) -> bool:
    """Whether the stage at `root` still depends on what it did when the errand was made."""
    with _reading, _project(root) as repo:
        return stage_digest(repo, errand.stage) == errand.digest


def fetch_log(errand: Errand) -> None:
    """Put all that the stage said there into its log here, if its node lived to upload it."""
    with reaching(errand.remote) as fs:
        if fs.exists(url := log_url(errand.remote, errand.commit, errand.stage)):
            errand.log.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(url, str(errand.log))


def fetch_seen(errand: Errand) -> Seen | None:
    """What the node saw of the run; None if it left nothing, or nothing of this kind."""
    with suppress(Refusal, ComeAgain, ValueError, TypeError), reaching(errand.remote) as fs:
        if fs.exists(url := seen_url(errand.remote, errand.commit, errand.stage)):
            return Seen(**json.loads(fs.cat_file(url)))
    return None


def forget_log(errand: Errand) -> None:
    """Remove what the stage said there before, so that it isn't taken for what it says this time."""
    with reaching(errand.remote) as fs:
        if fs.exists(url := log_url(errand.remote, errand.commit, errand.stage)):
            fs.rm_file(url)


def bundle_url(remote: str, commit: str) -> str:
    """Where the store has `commit`."""
    return f"{remote}/handover/{commit}.bundle"


def log_url(remote: str, commit: str, stage: str) -> str:
    """Where the store has what `stage` of `commit` said."""
    return f"{remote}/handover/{commit}/{stage.replace('/', '-')}.log"


def seen_url(remote: str, commit: str, stage: str) -> str:
    """Where the store has what was seen of the run of `stage` of `commit`."""
    return f"{log_url(remote, commit, stage).removesuffix('.log')}.seen"


@contextmanager
def reaching(remote: str) -> Iterator[fsspec.AbstractFileSystem]:
    """The store as a file system that takes whole URLs.

    Raises:
        Refusal: if the credentials are missing or wrong.
        ComeAgain: if it doesn't answer.
    """
    kind, config, path = get_cloud_fs({}, url=remote)
    try:
        with explained(Remote("the store", kind(**config), path)):
            yield fsspec.url_to_fs(remote, use_listings_cache=False)[0]
    except Unreachable as error:
        raise ComeAgain(str(error)) from None


def default_remote(repo: Repo) -> str:
    """The URL of the default DVC remote, without a slash at its end; an absolute path for a folder.

    Raises:
        Refusal: if there is none.
    """
    name = repo.config["core"].get("remote")
    if not name:
        raise Refusal(
            ".dvc/config: there is no default remote, which takes a stage to its place and back; "
            "add one: dvc remote add --default store s3://BUCKET/PREFIX"
        )
    return str(repo.config["remote"][name]["url"]).rstrip("/")


def stage_digest(repo: Repo, stage: str) -> str:
    """DVC's key of `stage` in the run-cache: its command, and the digests of all that it depends on as it is now.

    Raises:
        Refusal: if it has none, so that what was run elsewhere couldn't be restored here.
    """
    found = named(repo, stage)
    found.save_deps()
    if not _can_hash(found):
        raise Refusal(
            f"dvc.yaml: stages.{stage} has no place in DVC's run-cache, so it can't run elsewhere; give it "
            "dependencies and outs inside of the project, without `persist` and `always_changed`, or let it run here"
        )
    return str(_get_stage_hash(found))


def named(repo: Repo, stage: str) -> Any:
    """DVC's object of `stage`, wherever this process works: DVC itself names stages by the path from there."""
    for each in repo.index.stages:
        file = os.path.relpath(each.path, repo.root_dir)
        name = getattr(each, "name", None)
        if stage == (name if file == "dvc.yaml" else f"{file}:{name}"):
            return each
    raise Refusal(f"dvc.yaml has no stage {stage}; name one of its stages")


def commit_tree(root: Path, untracked: Iterable[str], bundle: Path) -> str:
    """Write the files of `root` as they are into `bundle` as one commit; the commit, the same for the same files.

    Tracked files are in it, and those of `untracked` that git doesn't ignore. No branch, index, object or file of
    the repository is touched.

    Raises:
        Refusal: if git can't.
    """
    scratch = bundle.parent
    (scratch / "objects").mkdir()
    real = {
        "GIT_INDEX_FILE": str(scratch / "index"),
        "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((root / git(root, "rev-parse", "--git-path", "objects")).resolve()),
    }
    index = root / git(root, "rev-parse", "--git-path", "index")
    if index.exists():
        (scratch / "index").write_bytes(index.read_bytes())
    git(root, "add", "--update", ".", env=real)
    named = ["--", *sorted(untracked)]
    listed = git(root, "--literal-pathspecs", "ls-files", "-z", "--others", "--exclude-standard", *named, env=real)
    if others := [name for name in listed.split("\0") if name]:
        git(root, "--literal-pathspecs", "add", "--", *others, env=real)
    prefix = git(root, "rev-parse", "--show-prefix")
    tree = git(root, "write-tree", *([f"--prefix={prefix}"] if prefix else []), env=real)
    commit = git(root, "commit-tree", tree, "-m", "Hand-over", env=real | _ALWAYS_THE_SAME)
    # A bundle is of a branch, so it is written by a repository of its own, on the same objects.
    git(root, "init", "--quiet", "--bare", str(scratch / "bare"))
    git(scratch / "bare", "update-ref", BRANCH, commit, env=real)
    git(scratch / "bare", "bundle", "create", "--quiet", str(bundle.resolve()), BRANCH, env=real)
    return commit


def git(root: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    """What git says in `root`, without the spaces around it.

    Raises:
        Refusal: if it fails.
    """
    environment = os.environ | {"LC_ALL": "C"} | (env or {})
    done = subprocess.run(
        ["git", *arguments], cwd=root, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        command = next(each for each in arguments if not each.startswith("-"))
        raise Refusal(
            f"git {command} failed in {root.resolve().name} ({' '.join(done.stderr.split())}); "
            "to run a stage elsewhere takes a git repository"
        )
    return done.stdout.strip()


@contextmanager
def _project(root: Path) -> Iterator[Repo]:
    try:
        # Waiting for the lock: a neighbour's commit of a large out holds it longer than DVC's 3 seconds.
        with Repo(str(root), _wait_for_lock=True) as repo:
            yield repo
    except DvcException as error:
        raise Refusal(f"DVC can't read the project: {' '.join(str(error).split())}") from error


def _files(repo: Repo) -> set[str]:
    """What the stages of the project depend on that no stage writes, and what DVC reads; some may not exist."""
    own = {"dvc.yaml", "dvc.lock", "params.yaml", ".dvcignore", ".gitignore", ".dvc/config"}
    outs = [Path(out.fs_path) for stage in repo.index.stages for out in stage.outs if out.protocol == "local"]
    deps = [Path(dep.fs_path) for stage in repo.index.stages for dep in stage.deps if dep.protocol == "local"]
    root = Path(repo.root_dir)
    made = [dep for dep in deps if any(dep.is_relative_to(out) or out.is_relative_to(dep) for out in outs)]
    kept = {str(dep.relative_to(root)) for dep in set(deps) - set(made) if dep.is_relative_to(root)}
    return {name for name in own | kept if (root / name).exists()}


def _upload(fs: fsspec.AbstractFileSystem, file: Path, url: str) -> None:
    """Put `file` there unless it is; a name that exists is a finished file, in a folder too."""
    if fs.exists(url):
        return
    fs.makedirs(url.rpartition("/")[0], exist_ok=True)
    part = f"{url}.{os.getpid()}"
    fs.put_file(str(file), part)
    fs.mv(part, url)
