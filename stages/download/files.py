"""Files by URL or glob, as they are, or by reference: then nothing is copied, and extract reads at the URLs."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from stages.documents import MANIFEST
from stages.download.params import FilesParams
from stages.download.scratch import copy, digest_of, fetch, is_kept, keep, kept, place
from stages.locked import Locked, LockedFile, difference, drifted
from stages.params import Refusal
from stages.remote import Pace, base_name, expand, is_local, look_up, pace_of, patiently, side_by_side


def ask(params: FilesParams, source: str, before: Locked | None) -> Locked:
    """The files that the URLs mean now.

    Raises:
        Refusal: if one is missing or out of reach, or its digest is not the expected one.
    """
    pace = pace_of(source)
    urls = _urls(params, pace)
    files = ask_files(urls, source, before, pace, params.by_reference)
    _refuse_unexpected(params, files)
    return Locked(kind="files", files=tuple(files))


def ask_files(
    urls: dict[str, str], source: str, before: Locked | None, pace: Pace, by_reference: bool
) -> list[LockedFile]:
    """The files at `urls` (by name) as they are now, in order of name; what was locked and is the same isn't read."""
    known = before.by_name() if before else {}

    def describe(name: str) -> LockedFile:
        if by_reference:
            return referenced(name, urls[name], source, pace)
        return described(name, urls[name], known.get(name), source, pace)

    return list(side_by_side(describe, sorted(urls)))


def described(name: str, url: str, known: LockedFile | None, source: str, pace: Pace) -> LockedFile:
    """The file at `url` with its digest; scratch keeps it, but for a local one."""
    if is_local(url):
        return _local(name, url)
    remote = patiently(lambda: look_up(url, pace), url)
    # What was only referred to has no digest.
    if known and known.sha256 and known.etag and (known.url, known.etag) == (url, remote.etag):
        return known.model_copy(update={"version_id": remote.version_id})
    fetched = fetch(url, source, pace, remote.version_id)
    return LockedFile(
        name=name, bytes=fetched.stat().st_size, sha256=keep(fetched), etag=remote.etag, url=url,
        version_id=remote.version_id,
    )  # fmt: skip


def referenced(name: str, url: str, source: str, pace: Pace) -> LockedFile:
    """The file at `url` without reading it, where its server names the version; else with its digest.

    Raises:
        Refusal: if it is a file of this machine, which another can't read.
    """
    if is_local(url):
        raise Refusal(f"{url} is a file of this machine; only a URL can be taken by reference, remove `by_reference`")
    remote = patiently(lambda: look_up(url, pace), url)
    if remote.etag and remote.size is not None:
        return LockedFile(name=name, bytes=remote.size, etag=remote.etag, url=url, version_id=remote.version_id)
    fetched = fetch(url, source, pace)
    file = LockedFile(name=name, bytes=fetched.stat().st_size, sha256=digest_of(fetched), url=url)
    fetched.unlink()
    return file


def referred(file: LockedFile, pace: Pace) -> LockedFile:
    """What the URL of `file` means now; in a versioned bucket, what it has under the version that was locked."""
    url = file.url or ""
    remote = patiently(lambda: look_up(url, pace, file.version_id), url)
    size = file.bytes if remote.size is None else remote.size
    return file.model_copy(update={"bytes": size, "etag": remote.etag})


def fill(params: FilesParams, source: str, locked: Locked, folder: Path) -> None:
    """Put the locked files into `folder`, unless they are taken by reference.

    Raises:
        Refusal: if the URLs mean other files than were locked, or one has other bytes.
    """
    pace = pace_of(source)
    _refuse_unexpected(params, locked.files)
    fill_files(_urls(params, pace), source, locked, folder, pace, params.by_reference)


def fill_files(urls: dict[str, str], source: str, locked: Locked, folder: Path, pace: Pace, by_reference: bool) -> None:
    """Put the locked files, which are at `urls` (by name), into `folder`; nothing if they are taken by reference."""
    known = locked.by_name()
    phrases = [f"{name} is new" for name in sorted(urls.keys() - known)]
    phrases += [f"{name} is gone" for name in sorted(known.keys() - urls)]
    phrases += [
        f"{name} is at {urls[name]} (locked: {known[name].url or 'a local path'})"
        for name in sorted(urls.keys() & known)
        if (None if is_local(urls[name]) else urls[name]) != known[name].url
    ]
    if phrases:
        raise drifted(source, phrases)

    def find(file: LockedFile) -> LockedFile:
        if not by_reference:
            return _placed(file, urls[file.name], source, folder, pace)
        return file if file.sha256 else referred(file, pace)

    for file, found in zip(locked.files, side_by_side(find, locked.files), strict=True):
        if differs := difference(file, found):
            raise drifted(source, differs)


def _placed(file: LockedFile, url: str, source: str, folder: Path, pace: Pace) -> LockedFile:
    """The file at `url` as it is, put into `folder`."""
    if is_local(url):
        found = _local(file.name, url)
        copy(_path(url), folder / file.name)
        return found
    if not (file.sha256 and is_kept(file.sha256)):
        fetched = fetch(url, source, pace, file.version_id)
        found = LockedFile(name=file.name, bytes=fetched.stat().st_size, sha256=keep(fetched))
        if difference(file, found):
            return found
    place(kept(file.sha256 or ""), folder / file.name)
    return file


def _path(url: str) -> Path:
    return Path(url.removeprefix("file://").removeprefix("local://"))


def _local(name: str, url: str) -> LockedFile:
    path = _path(url)
    try:
        return LockedFile(name=name, bytes=path.stat().st_size, sha256=digest_of(path))
    except FileNotFoundError:
        raise Refusal(f"{url}: there is no such file; correct the URL in params.yaml") from None
    except (PermissionError, IsADirectoryError) as error:
        raise Refusal(f"{url}: can't be read ({error.strerror}); correct the URL or the access to it") from None


def _urls(params: FilesParams, pace: Pace) -> dict[str, str]:
    """File name -> URL.

    Raises:
        Refusal: if two URLs end in the same name, or one in none, or a digest is given for none of them.
    """
    urls = by_name([url for given in params.urls for url in expand(given, pace)])
    if unknown := sorted(params.sha256.keys() - urls):
        raise Refusal(f"sha256 names {unknown[0]}, which is none of the files; correct the name in params.yaml")
    return urls


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


def _refuse_unexpected(params: FilesParams, files: Iterable[LockedFile]) -> None:
    """Refuse a file with another digest than params.yaml expects."""
    for file in files:
        expected = params.sha256.get(file.name)
        if expected and file.sha256 and expected != file.sha256:
            raise Refusal(
                f"{file.url or file.name}: sha256 is {file.sha256}, expected in params.yaml is {expected}; "
                f"it is truncated or another file, mend either"
            )
