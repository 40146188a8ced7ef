"""What scratch keeps of downloads: verified files by their digest, and parts of others, to go on from there."""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from stages.documents import publish
from stages.remote import Interrupted, Pace, RemoteFile, asked, base_name, look_up, open_at, patiently
from stages.settings import settings

log = logging.getLogger("pedigree")

CHUNK_BYTES = 1 << 20
SAY_EVERY_SECONDS = 5.0


def folder_of(source: str) -> Path:
    """Where scratch keeps what is not whole yet of `source`."""
    folder = settings().scratch_folder / "download" / source
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def kept(sha256: str) -> Path:
    """Where scratch keeps the verified file of this digest."""
    return settings().scratch_folder / "download" / sha256


def is_kept(sha256: str) -> bool:
    """If scratch has the file of this digest, undamaged."""
    return kept(sha256).is_file() and digest_of(kept(sha256)) == sha256


def keep(path: Path) -> str:
    """Move the whole file at `path` to where scratch keeps it; its digest."""
    sha256 = digest_of(path)
    kept(sha256).parent.mkdir(parents=True, exist_ok=True)
    publish(path, kept(sha256))
    return sha256


def place(path: Path, target: Path) -> None:
    """Give the file at `path` the second name `target`, or copy it where the file systems differ."""
    try:
        os.link(path, target)
    except OSError:
        copy(path, target)


def copy(path: Path, target: Path) -> None:
    """Copy the file at `path` to `target`, whole or not at all."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(path, partial)
    publish(partial, target)


def digest_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(url: str, source: str, pace: Pace, version_id: str | None = None) -> Path:
    """The whole file at `url` (see `look_up`), in scratch; what `source` has there of it already isn't asked for again.

    Raises:
        Refusal: if there is no such file, it may not be read, or it stays out of reach.
    """
    return patiently(lambda: _fetched(url, source, pace, version_id), url)


def _fetched(url: str, source: str, pace: Pace, version_id: str | None) -> Path:
    file = look_up(url, pace, version_id)
    part = folder_of(source) / f"{file.version}.part"
    part.touch()
    begin = part.stat().st_size
    try:
        asked(lambda: _append(file, part), url, pace)
    except Interrupted as trouble:
        raise Interrupted(str(trouble), advanced=part.stat().st_size > begin) from trouble
    size = part.stat().st_size
    if file.size is not None and size != file.size:
        raise Interrupted(f"broke off after {size} of {file.size} bytes", advanced=size > begin)
    return part


def _append(file: RemoteFile, part: Path) -> None:
    """Add to `part` what is missing of `file`; begin afresh where the file system can't seek."""
    begin, size = part.stat().st_size, file.size
    if begin == size:
        return
    source, begin = open_at(file, begin if size and begin < size else 0)
    with source, part.open("r+b") as target:
        target.truncate(begin)
        target.seek(begin)
        for chunk in _told(iter(lambda: source.read(CHUNK_BYTES), b""), begin, file):
            target.write(chunk)


def _told(chunks: Iterator[bytes], begin: int, file: RemoteFile) -> Iterator[bytes]:
    """Pass `chunks` on, and say every few seconds how far they are."""
    done, said = begin, time.monotonic()
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        if time.monotonic() - said > SAY_EVERY_SECONDS:
            said = time.monotonic()
            log.info(
                "%s: %.1f of %s MB", base_name(file.url), done / 1e6, f"{file.size / 1e6:.1f}" if file.size else "?"
            )
