"""What no build needs of a store: first a plan, in a file that can be read, then the deletion of what it lists.

Needed is what the dvc.lock of any branch, tag, remote branch or experiment names, of HEAD, and of the working tree:
outs, the files of outs that are folders, and the entries of the run-cache. What is younger than some days is kept
with all that it names: a build that isn't finished may have pushed it. Its age is by the store's own clock alone.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from infra.store.needed import fetch_refs, files_of, locked, revisions
from infra.store.remote import Remote, default_remote, explained
from infra.store.scrub import cache_of, cached, digest_in, each, is_whole, read_list, trying
from stages.params import Refusal

OBJECT = re.compile(r"files/md5/[0-9a-f]{2}/[0-9a-f]{30}(\.dir)?|runs/[0-9a-f]{2}/[0-9a-f]{64}/[0-9a-f]{64}")


@dataclass(frozen=True)
class Plan:
    """What is to be deleted of a store, by path below `remote`, in bytes."""

    remote: str
    keep_days: float
    total: int
    objects: dict[str, int]


def plan(root: Path, file: Path, keep_days: float) -> str:
    """Write to `file` what nothing needs, and say how much that is. Nothing is deleted.

    Raises:
        Refusal: if what is needed can't be known for sure.
    """
    remote = _remote(root)
    unneeded = _unneeded(root, remote, keep_days)
    made = Plan(remote.url, keep_days, sum(unneeded.values()), dict(sorted(unneeded.items())))
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(asdict(made), indent=1) + "\n", encoding="utf-8")
    partial.rename(file)
    return (
        f"{len(unneeded)} objects, {made.total / 1e6:.1f} MB, are needed by nothing: listed in {file}; "
        f"`pedigree store gc --apply {file}` deletes them"
    )


def apply(root: Path, file: Path) -> str:
    """Delete what the plan in `file` lists, if nothing of it is needed now; say how much that was.

    Raises:
        Refusal: if it is no plan for this remote, or something of it is needed by now.
    """
    remote, planned = _remote(root), _read(file)
    if planned.remote != remote.url:
        raise Refusal(f"{file} is a plan for {planned.remote}, the default remote is {remote.url}; make a new plan")
    there = _files(remote)
    listed = {path: size for path, size in planned.objects.items() if path in there}  # the rest is gone already
    needed = sorted(set(listed).difference(_unneeded(root, remote, planned.keep_days)))
    if needed:
        more = f" and {len(needed) - 3} more" if len(needed) > 3 else ""
        raise Refusal(f"{file} lists what is needed or new by now: {', '.join(needed[:3])}{more}; make a new plan")
    # The list of a folder's files before its files: what is left after a kill never names what is gone.
    for kind in (_names_others, lambda path: not _names_others(path)):
        paths = [f"{remote.path}/{path}" for path in listed if kind(path)]
        if paths:
            trying(remote, lambda paths=paths: remote.fs.fs.rm(paths))  # type: ignore[misc]
    return f"deleted {len(listed)} objects, {sum(listed.values()) / 1e6:.1f} MB"


def _remote(root: Path) -> Remote:
    remote = default_remote(root)
    if not remote:
        raise Refusal("no default remote: there is nothing to collect")
    remote.probe()
    return remote


def _read(file: Path) -> Plan:
    try:
        planned = Plan(**json.loads(file.read_text(encoding="utf-8")))
        strange = [path for path in planned.objects if not OBJECT.fullmatch(path)]
    except FileNotFoundError:
        raise Refusal(f"{file} is missing; `pedigree store gc --plan {file}` makes it") from None
    except (ValueError, TypeError, AttributeError):
        raise Refusal(f"{file} is no plan; `pedigree store gc --plan {file}` makes one") from None
    if strange:
        raise Refusal(f"{file} lists {strange[0]}, which is no object; make a new plan")
    return planned


def _files(remote: Remote) -> dict[str, dict[str, Any]]:
    """All objects and run-cache entries of the remote, by their path in it."""
    with explained(remote):
        found = {**remote.find("files/md5"), **remote.find("runs")}
    start = f"{remote.path}/"
    return {path: info for full, info in found.items() if OBJECT.fullmatch(path := full.removeprefix(start))}


def _unneeded(root: Path, remote: Remote, keep_days: float) -> dict[str, int]:
    """The size of all that nothing needs, by path."""
    fetch_refs(root)
    files = _files(remote)
    young = _young(files, keep_days)
    cache = cache_of(root)
    needed = _named(root, remote, cache) | young | _named_by(remote, cache, young, files)
    return {path: int(info["size"]) for path, info in files.items() if path not in needed}


def _young(files: dict[str, dict[str, Any]], keep_days: float) -> set[str]:
    """What was written less than `keep_days` before the newest file that the store has: by its own clock."""
    times = {path: _written(info) for path, info in files.items()}
    if not times:
        return set()
    since = max(times.values()) - timedelta(days=keep_days)
    return {path for path, time in times.items() if time > since}


def _written(info: dict[str, Any]) -> datetime:
    time = info.get("LastModified") or info.get("mtime") or info.get("last_modified")
    return time if isinstance(time, datetime) else datetime.fromtimestamp(float(time or 0), UTC)


def _named(root: Path, remote: Remote, cache: Path) -> set[str]:
    """What the revisions of the project name, and what is in folders among that."""
    locks = locked(root, revisions(root), working_tree=True)
    outs = {out.md5 for lock in locks.values() for out in lock.outs}
    inside = _inside(remote, cache, (md5 for md5 in outs if md5.endswith(".dir")))
    return {_path(md5) for md5 in outs | inside}.union(*(lock.entries for lock in locks.values()))


def _named_by(remote: Remote, cache: Path, young: set[str], files: dict[str, dict[str, Any]]) -> set[str]:
    """What young lists and entries name, which may be older than they are."""
    entries = [path for path in young if path.startswith("runs/")]
    outs = {md5 for _, each_outs in each(lambda path: _outs_of(remote, path), entries) for md5 in each_outs}
    lists = {md5 for path in young | {_path(md5) for md5 in outs} if path in files and (md5 := digest_in(path))}
    inside = _inside(remote, cache, (md5 for md5 in lists if md5.endswith(".dir")))
    return {_path(md5) for md5 in outs | inside}


def _outs_of(remote: Remote, entry: str) -> list[str]:
    content = trying(remote, lambda: remote.fs.fs.cat_file(f"{remote.path}/{entry}"))
    return [out["md5"] for out in yaml.safe_load(content)["outs"] if "md5" in out]


def _inside(remote: Remote, cache: Path, lists: Iterable[str]) -> set[str]:
    """The files of folders.

    Raises:
        Refusal: if a list can't be read: what it names isn't known then, and would be deleted.
    """

    def read(md5: str) -> bytes | None:
        try:
            return read_list(remote, md5)
        except FileNotFoundError:  # not pushed, or lost: only what is here can make it whole again
            return cached(cache, md5).read_bytes() if is_whole(cache, md5) else b"[]"

    found = set()
    for md5, content in each(read, sorted(lists)):
        if content is None:
            raise Refusal(f"{_path(md5)} is damaged, so what it names isn't known; run `pedigree store check --repair`")
        found |= set(files_of(content).values())
    return found


def _path(md5: str) -> str:
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def _names_others(path: str) -> bool:
    return path.startswith("runs/") or path.endswith(".dir")
