"""What each source is made of, byte for byte, as it was when it was locked: sources.lock.

    source -> its kind, its revision, and of each file the name, the bytes and the sha256

`pedigree lock` writes it, download refuses what is another, and DVC knows a source by its `digest`, so that a listing
of a hundred thousand files is one line of dvc.lock.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from stages.params import Refusal, StageParams, parse_params

LOCK = Path("sources.lock")
SHA256 = r"^[0-9a-f]{64}$"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
NAMED = 5  # of many differences in one sentence
HEADER = (
    "# What each source is made of, written by `pedigree lock`. DVC knows a source by its digest: that of its files.\n"
)


class LockedFile(StageParams):
    """One file. What is taken by reference, and wasn't read, has no sha256 but what its server calls its version."""

    name: str = Field(min_length=1)
    bytes: int = Field(ge=0)
    sha256: str | None = Field(None, pattern=SHA256)
    etag: str | None = None
    version_id: str | None = None  # in a versioned bucket
    url: str | None = None  # where it is from, if it isn't a file of the project's machine

    @property
    def content(self) -> str:
        """What stands for its bytes: the digest, or else the server's word."""
        return f"sha256 {self.sha256}" if self.sha256 else f"ETag {self.etag}"

    @property
    def remembered(self) -> list[str | None]:
        """What stands for it where its bytes were never read: what is asked for later."""
        return [self.etag, self.url, *([self.version_id] if self.version_id else [])]


class Locked(StageParams):
    """A source."""

    kind: str
    revision: str | None = None  # the commit, where it has one
    license: str | None = None  # where it was detected
    digest: str = Field("", description="of all the rest")
    files: tuple[LockedFile, ...]

    def signed(self) -> "Locked":
        """The same with its digest."""
        return self.model_copy(update={"digest": self.computed()})

    def computed(self) -> str:
        """The digest of what the files are; where they are from is left out, but for what is read there later."""
        facts: list[Any] = [self.kind, self.revision, self.license]
        facts += [[file.name, file.bytes, file.sha256 or file.remembered] for file in self.files]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def by_name(self) -> dict[str, LockedFile]:
        """Its files."""
        return {file.name: file for file in self.files}


def read_lock(path: Path = LOCK) -> dict[str, Any]:
    """The whole lock as plain values; empty if there is none.

    Raises:
        Refusal: if it isn't as `pedigree lock` writes it.
    """
    try:
        lock = yaml.load(path.read_text(encoding="utf-8"), _LOADER) or {}
        return {name: each | {"files": _files(each["files"])} for name, each in lock.items()}
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise Refusal(
            f"{path} is not as `pedigree lock` writes it ({reason}); restore it, or remove it and lock anew"
        ) from error


def _files(text: str) -> list[Any]:
    """The files of a source: a line of JSON for each.

    As a text in the YAML, not as a part of it: with the 90,000 files of a whole crawl, DVC reads the lock in less than
    a second so, and in half a minute otherwise.
    """
    return [json.loads(line) for line in text.splitlines()]


def locked_source(source: str, lock: Mapping[str, Any] | None = None) -> Locked:
    """What `source` is locked as.

    Raises:
        Refusal: if it isn't, or its entry was changed by hand.
    """
    lock = read_lock() if lock is None else lock
    if source not in lock:
        raise Refusal(f"{LOCK} has no source {source}; run `pedigree lock {source}`, and commit the file")
    locked = parse_params(Locked, lock[source], f"{LOCK}: {source}")
    if locked.digest != locked.computed():
        raise Refusal(f"{LOCK}: {source} was changed by hand or by a merge; run `pedigree lock {source}`")
    return locked


def known_source(source: str) -> Locked | None:
    """What `source` is locked as; None if it isn't, or not in a way that can be trusted."""
    try:
        return locked_source(source)
    except Refusal:
        return None


def lock_text(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of sources.lock with these entries: one line for each file, in the order that is given."""
    parts = [HEADER]
    for name, each in entries.items():
        head = {key: value for key, value in each.items() if key != "files"}
        parts += [yaml.safe_dump({name: head}, sort_keys=False, allow_unicode=True, width=1 << 30), "  files: |\n"]
        parts += (f"    {json.dumps(file)}\n" for file in each["files"])
    return "".join(parts)


def entry(locked: Locked) -> dict[str, Any]:
    """`locked` as it stands in the lock."""
    return locked.signed().model_dump(exclude_none=True)


def differences(before: Locked | None, after: Locked) -> list[str]:
    """What has changed, a phrase for each file and for the revision; none if it is the same."""
    old, new = before.by_name() if before else {}, after.by_name()
    found = []
    if before and before.revision != after.revision:
        found.append(f"revision {after.revision} (locked: {before.revision})")
    if before and before.license != after.license:
        found.append(f"licence {after.license} (locked: {before.license})")
    found += [f"{name} is new ({new[name].bytes} bytes, {new[name].content})" for name in sorted(new.keys() - old)]
    found += [f"{name} is gone" for name in sorted(old.keys() - new)]
    for name in sorted(old.keys() & new):
        found += difference(old[name], new[name])
    return found


def difference(old: LockedFile, new: LockedFile) -> list[str]:
    """What differs between two files of one name: nothing, or a phrase."""
    if (old.bytes, old.content) != (new.bytes, new.content):
        return [f"{new.name} has {new.bytes} bytes, {new.content} (locked: {old.bytes} bytes, {old.content})"]
    if not old.sha256 and old.url != new.url:
        return [f"{new.name} is at {new.url} (locked: {old.url})"]
    if not old.sha256 and old.version_id != new.version_id:
        return [f"{new.name} is version {new.version_id} (locked: {old.version_id})"]
    return []


def drifted(source: str, found: Iterable[str]) -> Refusal:
    """The refusal of a source that isn't what was locked, by its differences."""
    phrases = list(found)
    more = f" and {len(phrases) - NAMED} more" if len(phrases) > NAMED else ""
    return Refusal(
        f"source {source} is not what {LOCK} has: {', '.join(phrases[:NAMED])}{more}; "
        f"run `pedigree lock {source}` to take it as it is now"
    )
