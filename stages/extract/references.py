"""Downloaded files as extract opens them: here, or at their URL, each byte of the version that was locked."""

import hashlib
import io
import tempfile
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol, cast

from stages.documents import read_manifest
from stages.extract.records import Found, Record
from stages.locked import LockedFile
from stages.params import Refusal
from stages.remote import Changed, Interrupted, Pace, asked, look_up, open_at, pace_of, patiently
from stages.settings import settings

BUFFER_BYTES = 1 << 20
REMEDY = "run `pedigree lock` for the source to take it as it is now"


class File(Protocol):
    """What of a path is needed to read it."""

    @property
    def name(self) -> str:
        """Its last part."""

    def open(self, mode: Any = "rb", /) -> Any:
        """It, opened for reading bytes."""


class Downloaded:
    """The files of a downloaded source."""

    def __init__(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        self._folder = folder
        self._pace = pace_of(folder.name, sharers=settings().workers)
        self._references = {
            entry["path"]: LockedFile(
                **{key: value for key, value in entry.items() if key != "path"}, name=entry["path"]
            )
            for entry in manifest.get("references", ())
        }
        self.by_reference = bool(self._references)
        self.sizes = {str(entry["path"]): int(entry["bytes"]) for entry in manifest["shards"]}
        self.sizes |= {name: file.bytes for name, file in self._references.items()}
        self.about: dict[str, Any] = manifest.get("about", {})  # of every document, as download knows it

    def told(self, found: Found, license: str | None) -> Found:
        """`found`, with what download knows of every document: its commit, and its licence if none is stated."""
        if not self.about or not isinstance(found, Record):
            return found
        about = {key: value for key, value in self.about.items() if key != "license"}
        return found._replace(meta=about | found.meta, license=found.license or license or self.about.get("license"))

    def file(self, name: str) -> File:
        """The file of that name.

        Raises:
            Refusal: if it should be here, and isn't whole.
        """
        if name in self._references:
            return Reference(self._references[name], self._pace)
        path = self._folder / name
        if not path.is_file() or path.stat().st_size != self.sizes[name]:
            raise Refusal(
                f"{path} is missing or truncated; remove {self._folder} and run `dvc repro` to download it again"
            )
        return path


class Reference:
    """A file at its URL."""

    def __init__(self, file: LockedFile, pace: Pace) -> None:
        self._file = file
        self._pace = pace

    @property
    def name(self) -> str:
        """Its name in the source."""
        return self._file.name

    @property
    def is_read_whole(self) -> bool:
        """If it is copied and compared, whatever is asked for of it."""
        return self._file.sha256 is not None

    def open(self, _mode: Any = "rb", /) -> IO[bytes]:
        """The file, which can be read from any byte on.

        Where a digest is locked, as the server names no versions, it is read whole and compared before; then a copy
        in scratch is given, which is gone when it is closed.

        Raises:
            Changed: if it is another one than was locked.
            Refusal: if it stays out of reach.
        """
        stream = io.BufferedReader(Stream(self._file, self._pace), BUFFER_BYTES)
        return _compared(stream, self._file) if self._file.sha256 else stream


def _compared(stream: IO[bytes], file: LockedFile) -> IO[bytes]:
    """A copy of `stream`, which has the digest that is locked."""
    scratch = settings().scratch_folder
    scratch.mkdir(parents=True, exist_ok=True)
    copy, digest = tempfile.TemporaryFile(dir=scratch, buffering=0), hashlib.sha256()  # noqa: SIM115 -- it is returned
    with stream:
        while block := stream.read(BUFFER_BYTES):
            digest.update(block)
            copy.write(block)
    if digest.hexdigest() != file.sha256:
        copy.close()
        raise Changed(f"{file.url}: sha256 is {digest.hexdigest()}, locked is {file.sha256}; {REMEDY}")
    copy.seek(0)
    return io.BufferedReader(cast(io.RawIOBase, copy), BUFFER_BYTES)


class Stream(io.RawIOBase):
    """The bytes of a remote file, asked for again from where they broke off.

    Each answer must be of the version that was locked: of its size, and with its ETag if it has one.

    Raises:
        Changed: if the file is another one.
        Refusal: if it stays out of reach.
    """

    def __init__(self, file: LockedFile, pace: Pace) -> None:
        self._file, self._pace = file, pace
        self._url = file.url or ""
        self._position = 0
        self._source: Any = None

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The number of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go on at another byte."""
        target = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.bytes}[whence]
        if target != self._position:
            self._let_go()
            self._position = max(target, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """The next bytes, as many as came; 0 at the end."""
        size = min(len(buffer), self._file.bytes - self._position)
        if size <= 0:
            return 0
        data = patiently(lambda: self._read(size), self._url)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Let the connection go."""
        self._let_go()
        super().close()

    def _read(self, size: int) -> bytes:
        """Some of the next bytes.

        Raises:
            Interrupted: if there are none now; the next attempt begins with a new request.
        """
        try:
            if self._source is None:
                self._source = self._opened()
            data: bytes = asked(lambda: self._source.read(size), self._url, Pace(None))
        except Interrupted:
            self._let_go()
            raise
        if not data:
            self._let_go()
            raise Interrupted(f"broke off after {self._position} of {self._file.bytes} bytes; check the network")
        return data

    def _opened(self) -> Any:
        """The file, opened at the next byte."""
        remote = look_up(self._url, self._pace, self._file.version_id)
        if remote.size not in (None, self._file.bytes):
            raise Changed(f"{self._url} has {remote.size} bytes, locked are {self._file.bytes}; {REMEDY}")
        if self._file.etag and remote.etag != self._file.etag:
            raise Changed(f"{self._url}: ETag is {remote.etag}, locked is {self._file.etag}; {REMEDY}")
        source, begin = asked(lambda: open_at(remote, self._position), self._url, self._pace)
        while begin < self._position:  # a server that can't enter it in the middle
            skipped = asked(partial(source.read, min(self._position - begin, BUFFER_BYTES)), self._url, Pace(None))
            if not skipped:
                raise Interrupted(f"broke off after {begin} of {self._file.bytes} bytes; check the network")
            begin += len(skipped)
        return source

    def _let_go(self) -> None:
        if self._source is not None:
            self._source.close()
        self._source = None
