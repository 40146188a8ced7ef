"""Read files over a network: asked again with growing waits, at a given pace, from the byte where it broke off."""

import errno
import hashlib
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.core import url_to_fs

from stages.params import Refusal
from stages.settings import settings

log = logging.getLogger("pedigree")

T = TypeVar("T")
R = TypeVar("R")

WEB = ("http", "https")
# What fsspec needs beside what this project installs.
PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs", "hf": "huggingface_hub"}
PARTIAL_CONTENT = 206
AT_ONCE = 4  # files that are asked for side by side
ATTEMPTS = 6
FIRST_WAIT_SECONDS = 1.0  # doubled after each attempt
LONGEST_WAIT_SECONDS = 60.0


class Interrupted(Exception):
    """Trouble on the way, which may be gone at the next attempt; `advanced` if this one came further."""

    def __init__(self, reason: str, advanced: bool = False) -> None:
        super().__init__(reason)
        self.advanced = advanced


class Changed(Refusal):
    """A remote file is no longer the one that was locked."""


def patiently(attempt: Callable[[], T], what: str) -> T:
    """The result of `attempt`, which is repeated with growing waits, and given up after ATTEMPTS in vain.

    The waits are drawn, so that many workers don't come back all at once.

    Raises:
        Refusal: if the last attempt was Interrupted, too.
    """
    vain = 0
    while True:
        try:
            return attempt()
        except Interrupted as trouble:
            vain = 1 if trouble.advanced else vain + 1
            if vain >= ATTEMPTS:
                raise Refusal(f"{what}: {trouble}") from trouble
            longest = min(FIRST_WAIT_SECONDS * 2 ** (vain - 1), LONGEST_WAIT_SECONDS)
            wait = random.uniform(longest / 2, longest)
            log.info("%s: %s; trying again in %.1f s", what, trouble, wait)
            time.sleep(wait)


def side_by_side(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """`function` of each item, in their order, of a few at a time; the first exception ends it."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(cancel_futures=True)


class Pace:
    """At most so many requests a second."""

    def __init__(self, requests_per_second: float | None) -> None:
        self._gap = 1 / requests_per_second if requests_per_second else 0.0
        self._next = 0.0
        self._lock = Lock()

    def wait(self) -> None:
        """Wait until the next request may be made, of this thread or another."""
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + self._gap
        if begin > now:
            time.sleep(begin - now)

    def before(self, _request: object) -> None:
        """The same, as a hook of a client that makes requests of its own."""
        self.wait()


def pace_of(source: str, sharers: int = 1) -> Pace:
    """The pace at which one of `sharers` processes may ask for the files of `source`."""
    allowed = settings().allowed_requests(source)
    return Pace(allowed / sharers if allowed else None)


def is_web(url: str) -> bool:
    """If `url` is read by HTTP."""
    return urlsplit(url).scheme in WEB


def is_local(url: str) -> bool:
    """If `url` is a path of this machine."""
    return "://" not in url or url.startswith(("file://", "local://"))


def expand(url: str, pace: Pace) -> list[str]:
    """The URLs that `url` stands for, in order of name: itself, or all that match if it is a glob.

    Raises:
        Refusal: if nothing matches.
    """
    if not re.search(r"\*" if is_web(url) else r"[*?\[]", url):
        return [url]
    files = patiently(lambda: asked(lambda: _matching(url), url, pace), url)
    if not files:
        raise Refusal(f"{url}: no file matches; correct the URL in params.yaml, or put the files there")
    return files


def _matching(url: str) -> list[str]:
    """The URLs of the files that a glob matches."""
    filesystem, pattern = url_to_fs(url)
    found = filesystem.glob(pattern, detail=True)
    return [filesystem.unstrip_protocol(name) for name in sorted(found) if found[name]["type"] == "file"]


def base_name(url: str) -> str:
    """The file name at the end of `url`."""
    path = unquote(urlsplit(url).path) if is_web(url) else url
    return path.rstrip("/").rpartition("/")[2]


class RemoteFile(NamedTuple):
    """A file at a URL, as its server describes it."""

    url: str
    filesystem: fsspec.AbstractFileSystem
    path: str  # in there
    info: dict[str, Any]

    @property
    def size(self) -> int | None:
        """Bytes, if the server says."""
        size = self.info.get("size")
        return int(size) if size is not None else None

    @property
    def etag(self) -> str | None:
        """What the server calls this version of the content; a weak one promises too little."""
        etag = self.info.get("ETag")
        return None if not etag or str(etag).startswith("W/") else str(etag).strip('"')

    @property
    def version_id(self) -> str | None:
        """By what name a versioned bucket keeps this version; None if it is none."""
        version_id = self.info.get("VersionId")
        return None if version_id in (None, "null") else str(version_id)

    @property
    def version(self) -> str:
        """A name for the content as it is now, so that parts of two versions are never joined."""
        facts = [str(self.info.get(key)) for key in ("size", "ETag", "Last-Modified", "LastModified", "mtime")]
        return hashlib.sha256("\0".join([self.url, *facts]).encode()).hexdigest()[:32]


def look_up(url: str, pace: Pace, version_id: str | None = None) -> RemoteFile:
    """What is known of the file at `url`, as it is now or as a versioned bucket keeps it under `version_id`.

    Raises:
        Refusal: if there is no such file, or it may not be read.
        Interrupted: if that can't be said now.
    """
    named = url if version_id is None else f"{url} (version {version_id})"
    return asked(lambda: _look_up(url, version_id), named, pace)


def _look_up(url: str, version_id: str | None) -> RemoteFile:
    if version_id is None:
        filesystem, path = url_to_fs(url)
    else:
        filesystem, path = url_to_fs(f"{url}?versionId={version_id}", version_aware=True)
    filesystem.invalidate_cache()
    return RemoteFile(url, filesystem, path, filesystem.info(path))


def open_at(file: RemoteFile, begin: int) -> tuple[Any, int]:
    """`file` open at byte `begin`, or at 0 where it can't be entered in the middle; and which of the two."""
    if not is_web(file.url):
        source = file.filesystem.open(file.path, "rb")
        return source, source.seek(begin) if begin and source.seekable() else 0
    # fsspec's seekable web file takes whole blocks, and fails at servers that ignore the range. A
    # stream keeps each byte that came, and the status tells if the range was heard.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={begin}-"} if begin else {})}
    source = file.filesystem.open(file.path, "rb", block_size=0, size=file.size, headers=headers)
    return source, begin if source.r.status == PARTIAL_CONTENT else 0


def asked(question: Callable[[], T], url: str, pace: Pace) -> T:
    """The answer of a file system to `question`, which is put when the pace allows.

    Raises:
        Refusal: if it says that asking again won't help.
        Interrupted: if it may.
    """
    pace.wait()
    try:
        return question()
    # Each file system has exceptions of its own (aiohttp's, botocore's), with no common base.
    except Exception as error:
        if isinstance(error, Refusal | Interrupted):
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        # fsspec's http says "not found" for whatever went wrong, and names the cause.
        cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
        reason = " ".join(str(cause).split()) or type(cause).__name__
        if isinstance(cause, ImportError):
            package = PACKAGES.get(urlsplit(url).scheme, "the package for it")
            raise Refusal(f"{url}: {urlsplit(url).scheme}:// needs {package}; run `pip install {package}`") from error
        if is_missing(cause):
            raise Refusal(f"{url}: there is no such file; correct the URL in params.yaml") from error
        if is_final(cause):
            raise Refusal(f"{url}: can't be read ({reason}); correct the URL or the access to it") from error
        raise Interrupted(f"can't be read ({reason}); check the network") from error


def is_missing(error: BaseException) -> bool:
    """If a file system says that there is no such file."""
    return isinstance(error, FileNotFoundError) or _status(error) in (404, 410)


def is_final(error: BaseException) -> bool:
    """If a file system says no for a reason that stays: no access, no such protocol."""
    if isinstance(error, PermissionError | IsADirectoryError | ValueError):
        return True
    status = _status(error)
    return status is not None and 400 <= status < 500 and status not in (408, 425, 429)


def _status(error: BaseException) -> int | None:
    """The status of an HTTP answer, wherever a client's exception keeps it."""
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
