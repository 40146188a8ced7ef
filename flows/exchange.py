"""What a build asks of the default DVC remote. It runs as the child of a flow, see flows/lifetime/child.py.

    restore STAGE [--no-push]   fetch what DVC would restore the stage with, and have DVC bring it up to date; if it has
                                to run, under a lease in the store, and what it made is uploaded before another clone
                                looks for it
    push [STAGE…]               upload the outs of the stages (default: all), and their entries of the run-cache

DVC's own `repro --pull` copies the whole run-cache each time, trains a model again if a download breaks off, and
holds the lock of the project meanwhile, as its `push` does; neither looks at a digest. Here a stage asks for the
one entry that it needs, what breaks off is an error, each object that arrives is compared with its digest, and
stages begin and end while others download and upload.
"""

import fcntl
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage.cache import _can_hash, _get_cache_hash, _get_stage_hash
from dvc.stage.serialize import to_single_stage_lockfile

from infra.store.remote import Remote, Unreachable, digest_of, explained, remote_of
from stages.lease import LeaseHeld, owner_by_lock, take_lease
from stages.lease import Unreachable as LeaseStoreGone
from stages.params import Refusal
from stages.process import is_full_disk, progress

log = logging.getLogger("pedigree")

USER_ERROR = 2
COME_AGAIN = 75
HELD = 76  # another clone runs the stage
RENEW_EVERY_SECONDS = 5.0  # others take as long to see that a lease is alive
AT_ONCE = 16  # objects on their way
LEFT_AFTER_SECONDS = 86400  # no download of one object takes as long


class Gone(Exception):
    """The remote doesn't have an object, or not as its digest says."""


@dataclass(frozen=True)
class Place:
    """The cache of this project, and its remote."""

    repo: Repo
    remote: Remote

    def cached(self, md5: str) -> Path:
        """Where the cache has the object with this digest, if it has it."""
        return Path(self.repo.cache.local.oid_to_path(md5))

    @property
    def root(self) -> Path:
        """The root of the cache."""
        return Path(self.repo.cache.legacy.path)


def main(arguments: list[str]) -> int:
    """Do what `arguments` say; the exit code: 2 for what a user can mend, 75 for what may be well in a while."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s")  # of others, warnings alone
    logging.getLogger("pedigree").setLevel(logging.INFO)
    command, *names = arguments
    # Not after the transfers that are under way: they leave nothing that is half-done under its name.
    of_stage = signal.signal(signal.SIGTERM, lambda signum, frame: os._exit(128 + signum))
    try:
        return push(names) if command == "push" else restore(names[0], "--no-push" not in names, of_stage)
    except LeaseHeld as held:
        print(f"error: {names[0]} is run by {held.holder}", file=sys.stderr, flush=True)
        return HELD
    except LeaseStoreGone as gone:
        print(f"error: {gone}", file=sys.stderr, flush=True)
        return COME_AGAIN
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr, flush=True)
        return COME_AGAIN if isinstance(refusal, Unreachable) else USER_ERROR
    except OSError as error:
        if not is_full_disk(error):
            raise
        print("error: the disk of the cache is full; free some space and run again", file=sys.stderr, flush=True)
        return USER_ERROR


def restore(name: str, pushes: bool, on_stop: Any) -> int:
    """Bring the stage `name` up to date, by what the remote has or by running it; DVC's exit code.

    `on_stop` is what a SIGTERM does while DVC runs.

    Raises:
        LeaseHeld: if another clone runs it: its result is to be waited for.
    """
    url = fetch(name)
    if not url:
        return repro(name, on_stop)
    with _owner(name) as owner, take_lease(url, owner, RENEW_EVERY_SECONDS):
        has_to_run = fetch(name)  # another clone may have made it between our look and our lease
        code = repro(name, on_stop)
        if has_to_run and pushes and not code:
            _push_early(name)
        return code


def _push_early(name: str) -> None:
    """Upload what the stage made while others wait for it; if that fails, the end of the build tries again."""
    try:
        push([name])
    except Refusal as refusal:
        log.warning("not pushed yet: %s", refusal)


@contextmanager
def _owner(name: str) -> Iterator[str | None]:
    """Whose the lease on a stage is: this clone's, which has one build at a time. It needn't wait for its dead."""
    path = Path(".dvc", "tmp", f"pedigree-lease-{name.replace('/', '-')}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield owner_by_lock(file)


def fetch(name: str) -> str | None:
    """Fetch what DVC would restore the stage `name` with. If it has to run: what to hold meanwhile, in an S3 store."""
    with Repo(_wait_for_lock=True) as repo:
        place = _place(repo)
        with repo.lock:  # DVC writes dvc.lock in place: without it, a neighbour's is read when it is half-written
            [stage] = repo.stage.collect(name)
            known = repo.index.stages
        _fetch_inputs(place, stage, known)
        with repo.lock:
            key, digests = _needed(place, stage)
        if not key or (digests and _fetch_outs(place, name, digests)):
            return None
        return f"{place.remote.url}/leases/{key}" if place.remote.is_s3 else None


def repro(name: str, on_stop: Any) -> int:
    """Bring the stage `name` up to date by DVC, without those before it; DVC's exit code."""
    from dvc.cli import main as dvc

    of_transfers = signal.signal(signal.SIGTERM, on_stop)
    try:
        return int(dvc(["--wait-for-lock", "repro", "--single-item", name]))
    finally:
        signal.signal(signal.SIGTERM, of_transfers)


def push(names: list[str]) -> int:
    """Upload what the remote lacks of the stages `names` (default: all): outs, and what made them of what."""
    with Repo(_wait_for_lock=True) as repo:
        place = _place(repo)
        with repo.lock:
            stages = [stage for name in names for stage in repo.stage.collect(name)] or repo.index.stages
            outs = [out.hash_info.value for stage in stages for out in stage.outs if _is_pushed(out)]
            entries = [entry for stage in stages if (entry := _entry_path(place, stage))]
        count, size = _push_objects(place, outs)
        count += sum(_map(lambda entry: _put(place, place.root / entry, entry), entries, "push", "entries"))
    log.info("pushed %d objects, %.1f MB", count, size / 1e6)
    return 0


def _place(repo: Repo) -> Place:
    place = Place(repo, _remote())
    _clear(place)
    return place


@cache
def _remote() -> Remote:
    """The remote of the project that this process works in, which has answered: its client takes a while to make."""
    with Repo() as repo, _few_attempts():
        remote = remote_of(repo)
        assert remote  # or nobody had asked
        remote.probe()
    return remote


@contextmanager
def _few_attempts() -> Iterator[None]:
    """Make a client that tries four times: s3fs tries most things five times more, and the flow again after that."""
    if "AWS_MAX_ATTEMPTS" in os.environ:
        yield
        return
    os.environ["AWS_MAX_ATTEMPTS"] = "4"
    try:
        yield
    finally:
        del os.environ["AWS_MAX_ATTEMPTS"]  # a stage that is run by this process has a client of its own


def _clear(place: Place) -> None:
    """Remove what downloads left that were killed."""
    for path in (place.root / "partial").glob("*"):
        if path.stat().st_mtime < time.time() - LEFT_AFTER_SECONDS:
            path.unlink(missing_ok=True)


def _fetch_inputs(place: Place, stage: Any, known: Iterable[Any]) -> None:
    """Have what the stages before this one made, where it isn't here: on a node that runs just this stage."""
    before = [out for other in known for out in other.outs if _is_input(out, stage)]
    lacking = [out for out in before if out.hash_info and not out.exists]
    if lacking:
        _fetch_outs(place, f"inputs of {stage.addressing}", [out.hash_info.value for out in lacking])
        place.repo.checkout([out.def_path for out in lacking], force=True)


def _is_input(out: Any, stage: Any) -> bool:
    """Whether the stage depends on this out, on a file in it, or on a folder that it is in."""
    path = Path(out.fs_path)
    return any(path.is_relative_to(dep.fs_path) or Path(dep.fs_path).is_relative_to(path) for dep in stage.deps)


def _needed(place: Place, stage: Any) -> tuple[str | None, list[str]]:
    """The name of the stage's inputs as they are, and the digests of what DVC would restore it with.

    No name if it is up to date, or DVC has none for it; no digests if it was never built of these inputs.
    """
    try:
        if not stage.changed():
            return None, []
        entry = _entry(place, stage)
        stage.save_deps()
        key = _get_stage_hash(stage) if _can_hash(stage) else None
    except DvcException:  # a dependency is missing, say: DVC will tell
        return None, []
    return key, [out["md5"] for out in entry["outs"] if "md5" in out] if entry else []


def _entry(place: Place, stage: Any) -> dict[str, Any] | None:
    """What the stage made of its inputs as they are, by dvc.lock or by the run-cache, as DVC's `restore` has it."""
    if not stage.changed_stage() and stage.deps_cached() and all(out.hash_info for out in stage.outs):
        return dict(to_single_stage_lockfile(stage))
    stage.save_deps()
    if not _can_hash(stage):
        return None
    _fetch_entries(place, _get_stage_hash(stage))
    entry = place.repo.stage_cache._load(stage)
    return dict(entry) if entry else None


def _fetch_entries(place: Place, key: str) -> None:
    """Have the entries of the run-cache for these inputs, the newest last, unless there are some already."""
    folder = f"runs/{key[:2]}/{key}"
    if (place.root / folder).is_dir():
        return
    with explained(place.remote):
        found = sorted(place.remote.find(folder).items(), key=lambda item: str(item[1].get("LastModified", "")))
        for path, _ in found:
            _get(place, path, place.root / folder / path.rpartition("/")[2])


def _fetch_outs(place: Place, name: str, digests: list[str]) -> bool:
    """Have these outs in the cache; whether all of them were to be had."""
    try:
        fetched = _fetch(place, digests, name)
        folders = [md5 for md5 in digests if md5.endswith(".dir")]
        fetched += _fetch(place, [md5 for folder in folders for md5 in files_of(place.cached(folder))], name)
    except Gone as gone:
        log.info("%s: %s", name, gone)
        return False
    if fetched:
        log.info("%s: downloaded %d objects, %.1f MB", name, len(fetched), sum(fetched) / 1e6)
    return True


def _fetch(place: Place, digests: Iterable[str], name: str) -> list[int]:
    """The sizes of those of the objects that weren't in the cache, and are now."""
    lacking = sorted({md5 for md5 in digests if not place.cached(md5).exists()})
    return _map(lambda md5: _get_object(place, md5), lacking, f"{name}: download", "objects")


def _get_object(place: Place, md5: str) -> int:
    path = place.cached(md5)
    size = _get(place, place.remote.object(md5), path, md5.removesuffix(".dir"))
    place.repo.cache.local.protect(str(path))
    return size


def _get(place: Place, source: str, target: Path, digest: str | None = None) -> int:
    """Download one file beside its place, and rename it when it is whole; its size.

    Raises:
        Gone: if it isn't there, or hasn't the digest.
        Refusal, Unreachable: as `explained` says.
    """
    partial = place.root / "partial" / uuid4().hex
    place.repo.cache.local.makedirs(str(partial.parent))
    place.repo.cache.local.makedirs(str(target.parent))
    try:
        with explained(place.remote):
            place.remote.fs.get_file(source, str(partial))
        if digest and digest_of(partial) != digest:
            raise Gone(f"{source} is damaged in the remote; `pedigree store check --repair` mends it where it is whole")
        partial.rename(target)
    except FileNotFoundError:
        raise Gone(f"the remote lacks {source}") from None
    finally:
        partial.unlink(missing_ok=True)
    return target.stat().st_size


def _push_objects(place: Place, outs: list[str]) -> tuple[int, int]:
    """Upload what the remote lacks, a folder's list of files after them; how many objects and bytes that were."""
    lists = sorted({md5 for md5 in outs if md5.endswith(".dir") and place.cached(md5).exists()})
    files = {md5 for md5 in outs if not md5.endswith(".dir")} | {
        md5 for each in lists for md5 in files_of(place.cached(each))
    }
    here = sorted(md5 for md5 in files if place.cached(md5).exists())
    absent = _absent(place, files.difference(here))
    whole = [each for each in lists if absent.isdisjoint(files_of(place.cached(each)))]
    if absent:
        log.info("%d objects are neither in the cache nor in the remote", len(absent))
    sizes: list[int] = []
    for digests in (here, whole):
        pushed = _map(
            lambda md5: (md5, _put(place, place.cached(md5), f"files/md5/{md5[:2]}/{md5[2:]}")),
            digests, "push", "objects",
        )  # fmt: skip
        sizes += [place.cached(md5).stat().st_size for md5, was_put in pushed if was_put]
    return len(sizes), sum(sizes)


def _absent(place: Place, digests: Iterable[str]) -> set[str]:
    def lacks(md5: str) -> str | None:
        with explained(place.remote):
            return None if place.remote.fs.exists(place.remote.object(md5)) else md5

    return {md5 for md5 in _map(lacks, sorted(digests), "push: look", "objects") if md5}


def _put(place: Place, source: Path, target: str) -> bool:
    """Upload one file, if the remote hasn't one of its size under this name; whether it had to be."""
    path = f"{place.remote.path}/{target}"
    with explained(place.remote):
        try:
            if place.remote.fs.info(path)["size"] == source.stat().st_size:
                return False
        except FileNotFoundError:
            pass
        place.remote.fs.put_file(str(source), path)
    return True


def _is_pushed(out: Any) -> bool:
    return bool(out.hash_info and out.use_cache and out.can_push)


def _entry_path(place: Place, stage: Any) -> str | None:
    """The path of the run-cache's entry that says what dvc.lock says of this stage, if there is one."""
    if not all(out.hash_info for out in stage.outs) or not _can_hash(stage):  # never built: its inputs may not exist
        return None
    key, value = _get_stage_hash(stage), _get_cache_hash(to_single_stage_lockfile(stage))
    path = f"runs/{key[:2]}/{key}/{value}"
    return path if (place.root / path).exists() else None


def files_of(path: Path) -> list[str]:
    """The digests of a folder's files, out of its list."""
    return [entry["md5"] for entry in json.loads(path.read_bytes())]


def _map(function: Callable[[Any], Any], items: Iterable[Any], label: str, unit: str) -> list[Any]:
    """`function` of every item, AT_ONCE at once; the first error ends it, and what hasn't begun by then doesn't."""
    items = list(items)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return list(progress((future.result() for future in as_completed(futures)), len(items), label, unit))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
