"""Whether the store holds every object that a published version needs, and holds it as its digest says."""

import hashlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dvc.repo import Repo
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from infra.store.needed import Locked, files_of, locked, versions
from infra.store.remote import Remote, Unreachable, default_remote, digest_of, explained
from stages.params import Refusal

AT_ONCE = 8
BLOCK_BYTES = 8 << 20
RETRY_AFTER_SECONDS = (1.0, 5.0, 15.0)

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Scrub:
    """What was found: the objects that were looked at, and those that aren't as they should be."""

    objects: int = 0
    size: int = 0  # bytes
    missing: list[str] = field(default_factory=list)  # digests
    damaged: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    whose: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # digest -> `stage path` -> versions

    @property
    def left(self) -> list[str]:
        """What is wrong still."""
        return [md5 for md5 in (*self.missing, *self.damaged) if md5 not in self.repaired]


def check(root: Path, quick: bool = False, repair: bool = False) -> int:
    """Print what is missing or damaged of all published versions, and return the exit code: 1 if anything is.

    `quick` compares sizes and downloads lists of files alone; `repair` uploads what the cache here holds whole.

    Raises:
        Refusal: if there is no default remote, or it can't be read.
    """
    remote = default_remote(root)
    if not remote:
        raise Refusal("no default remote: `dvc remote add --default NAME URL` says where builds are pushed to")
    remote.probe()
    found = scrub(remote, cache_of(root), locked(root, versions(root)), quick, repair)
    for line in report(found):
        print(line)
    return 1 if found.left else 0


def scrub(remote: Remote, cache: Path, named: dict[str, Locked], quick: bool, repair: bool) -> Scrub:
    """Look at all that the versions in `named` need; `cache` is where this machine keeps objects."""
    found = Scrub()
    with explained(remote):
        listed = remote.find("files/md5")
    sizes = {md5: int(info["size"]) for path, info in listed.items() if (md5 := digest_in(path))}
    folders = {out.md5 for each in named.values() for out in each.outs if out.md5.endswith(".dir")}
    lists = _lists(remote, cache, folders, found)
    found.whose = _whose(named, lists)
    files = sorted(md5 for md5 in found.whose if not md5.endswith(".dir"))
    found.missing += [md5 for md5 in files if md5 not in sizes]
    here = [md5 for md5 in files if md5 in sizes]
    found.objects, found.size = len(found.whose), sum(sizes.get(md5, 0) for md5 in found.whose)
    found.damaged += _wrong_size(here, sizes, named, lists, cache) if quick else _wrong_digest(remote, here, sizes)
    if repair:
        found.repaired = [md5 for md5 in found.left if _repair(remote, cache, md5)]
    return found


def report(found: Scrub) -> Iterator[str]:
    """The lines for a reader: each wrong object with the outs and versions that need it, and the sum."""
    for md5 in (*found.missing, *found.damaged):
        what = "missing" if md5 in found.missing else "damaged"
        fate = ", uploaded again" if md5 in found.repaired else ""
        for out, names in found.whose[md5].items():
            yield f"{what}{fate}: {out} ({md5}) of {', '.join(names)}"
    wrong = f"{len(found.missing)} missing, {len(found.damaged)} damaged"
    mended = f", {len(found.repaired)} of them uploaded again" if found.repaired else ""
    yield f"{found.objects} objects, {found.size / 1e6:.1f} MB: {wrong}{mended}"


def digest_in(path: str) -> str | None:
    """The digest that an object's path stands for; None for another file."""
    folder, _, name = path.rpartition("/")
    start = folder.rpartition("/")[2]
    return start + name if len(start) == 2 and len(name.removesuffix(".dir")) == 30 else None


def read_list(remote: Remote, md5: str) -> bytes | None:
    """The object that lists a folder's files; None if it isn't as its digest says.

    Raises:
        FileNotFoundError: if the remote lacks it.
    """
    content = trying(remote, lambda: bytes(remote.fs.fs.cat_file(remote.object(md5))))
    return content if hashlib.md5(content, usedforsecurity=False).hexdigest() == md5.removesuffix(".dir") else None


def cached(cache: Path, md5: str) -> Path:
    """Where this machine's cache has an object."""
    return cache / md5[:2] / md5[2:]


def trying(remote: Remote, action: Callable[[], R]) -> R:
    """What `action` returns, which is tried again when the store doesn't answer."""
    for pause in RETRY_AFTER_SECONDS:
        try:
            with explained(remote):
                return action()
        except Unreachable:
            time.sleep(pause)
    with explained(remote):
        return action()


def each(function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Every item with its result, as they come; the first error ends it."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {pool.submit(function, item): item for item in items}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def cache_of(root: Path) -> Path:
    """Where this machine keeps the objects of the project."""
    with Repo(str(root)) as repo:
        return Path(repo.cache.local.path)


def _lists(remote: Remote, cache: Path, folders: set[str], found: Scrub) -> dict[str, dict[str, str]]:
    """What is in each folder, as the remote or else the cache has it; what the remote lacks goes to `found`."""

    def read(md5: str) -> tuple[str, bytes | None]:
        try:
            content = read_list(remote, md5)
        except FileNotFoundError:
            return "missing", None
        return ("whole" if content else "damaged"), content

    lists = {}
    for md5, (state, content) in each(read, sorted(folders)):
        if state != "whole":
            (found.missing if state == "missing" else found.damaged).append(md5)
            content = cached(cache, md5).read_bytes() if is_whole(cache, md5) else None
        lists[md5] = files_of(content) if content else {}
    return lists


def _whose(named: dict[str, Locked], lists: dict[str, dict[str, str]]) -> dict[str, dict[str, list[str]]]:
    whose: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, lock in named.items():
        for out in lock.outs:
            whose[out.md5][f"{out.stage} {out.path}"].append(name)
            for path, md5 in lists.get(out.md5, {}).items():
                whose[md5][f"{out.stage} {out.path}/{path}"].append(name)
    return whose


def _wrong_size(
    here: list[str], sizes: dict[str, int], named: dict[str, Locked], lists: dict[str, dict[str, str]], cache: Path
) -> list[str]:
    """Those that haven't the size of the object in the cache, or of the out; of a folder's files, any that differ."""
    wrong = {md5 for md5 in here if (path := cached(cache, md5)).exists() and path.stat().st_size != sizes[md5]}
    for out in {out for lock in named.values() for out in lock.outs if out.size is not None}:
        files = list(lists[out.md5].values()) if out.md5.endswith(".dir") else [out.md5]
        if files and all(md5 in sizes for md5 in files) and sum(sizes[md5] for md5 in files) != out.size:
            wrong |= set() if wrong.intersection(files) else {out.md5}
    return sorted(wrong)


def _wrong_digest(remote: Remote, here: list[str], sizes: dict[str, int]) -> list[str]:
    wrong = []
    with _progress(sum(sizes[md5] for md5 in here)) as advance:

        def has_digest(md5: str) -> bool:
            return trying(remote, lambda: _digest(remote, md5)) == md5

        for md5, whole in each(has_digest, here):
            advance(sizes[md5])
            wrong += [] if whole else [md5]
    return sorted(wrong)


def _digest(remote: Remote, md5: str) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with remote.fs.fs.open(remote.object(md5), "rb", block_size=BLOCK_BYTES) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("check"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task("check", total=total)
        yield lambda size: progress.advance(task, size)


def is_whole(cache: Path, md5: str) -> bool:
    """Whether this machine's cache has an object, as its digest says."""
    path = cached(cache, md5)
    return path.exists() and digest_of(path) == md5.removesuffix(".dir")


def _repair(remote: Remote, cache: Path, md5: str) -> bool:
    """Upload the object from the cache, if that holds it whole."""
    if not is_whole(cache, md5):
        return False
    trying(remote, lambda: remote.fs.put_file(str(cached(cache, md5)), remote.object(md5)))
    return True
