"""Files of a git repository at a commit, as they are, in uncompressed tars: never one file for each of them."""

import io
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlencode

from stages.documents import publish, shard_name
from stages.download.licence import licence_of
from stages.download.made import fill_made, is_the_same, refuse_another, taken
from stages.download.params import GitParams
from stages.download.scratch import folder_of
from stages.globs import is_among
from stages.locked import Locked, LockedFile, drifted
from stages.params import Refusal
from stages.remote import Interrupted, Pace, pace_of, patiently

# What git says (in English, as we ask it) when the trouble is on the way.
NETWORK_TROUBLE = re.compile(
    r"Could not resolve|Connection|[Tt]imed? ?out|early EOF|hung up|RPC failed|unable to connect|"
    r"returned error: (?:429|5\d\d)|Failed to connect"
)
ORDINARY = (b"100644", b"100755")  # neither links, which may lead anywhere, nor other repositories
LICENCES = re.compile(r"(?:LICEN[CS]E|COPYING|UNLICENSE)(?:[.-][\w.-]+)?", re.IGNORECASE)


class Blob(NamedTuple):
    """A file of a commit."""

    path: str
    oid: str
    size: int


def ask(params: GitParams, source: str, before: Locked | None) -> Locked:
    """The files at the commit that the revision is now, and the licence; `before` if that is of the same commit.

    Raises:
        Refusal: if there is no such revision, or no file that the globs match.
    """
    repository, commit = _fetched(params, params.revision, source, pace_of(source))
    if before and is_the_same(before, commit, url_of(params, commit)):
        return before
    blobs = _listed(repository, commit)
    made = _made(params, repository, commit, blobs, source)
    return Locked(kind="git", revision=commit, license=_licence(repository, blobs), files=tuple(made))


def fill(params: GitParams, source: str, locked: Locked, folder: Path) -> None:
    """Put the tars of the locked commit into `folder`.

    Raises:
        Refusal: if the parameters mean something else, or the commit can't be had.
    """
    commit = locked.revision or ""
    refuse_another(source, locked, url_of(params, commit))
    if params.is_commit and params.revision != commit:
        raise drifted(source, [f"revision {params.revision} (locked: {commit})"])

    def make() -> list[LockedFile]:
        repository, found = _fetched(params, commit, source, pace_of(source))
        return _made(params, repository, found, _listed(repository, found), source)

    fill_made(source, locked, folder, make)


def url_of(params: GitParams, commit: str) -> str:
    """What is asked for, without credentials."""
    asked_for = urlencode({"files": ",".join(params.files), "shard_bytes": params.shard_bytes})
    return f"git+{_public(params.url)}@{commit}?{asked_for}"


def _public(url: str) -> str:
    return re.sub(r"(?<=://)[^/\s@]+@", "", url)


def _fetched(params: GitParams, revision: str, source: str, pace: Pace) -> tuple[Path, str]:
    """A bare repository in scratch that has `revision`, and the commit that this is."""
    repository = folder_of(source) / f"{sha256(params.url.encode()).hexdigest()[:16]}.git"
    if not (repository / "HEAD").exists():
        _git(None, "init", "--quiet", "--bare", str(repository))
    if params.is_commit or revision != params.revision:
        if _has(repository, revision):
            return repository, revision
        patiently(lambda: _fetch_commit(repository, params.url, revision, pace), _public(params.url))
        return repository, revision
    patiently(lambda: _fetch(repository, params.url, [revision], pace), _public(params.url))
    return repository, _git(repository, "rev-parse", "--verify", "FETCH_HEAD^{commit}").decode().strip()


def _fetch_commit(repository: Path, url: str, commit: str, pace: Pace) -> None:
    """Fetch one commit; where the server gives only what has a name, all that has one."""
    try:
        _fetch(repository, url, [commit], pace)
    except Refusal:
        _fetch(repository, url, ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"], pace, depth=None)
        if not _has(repository, commit):
            raise Refusal(f"{_public(url)} has no commit {commit} on a branch or tag; correct the revision") from None


def _fetch(repository: Path, url: str, references: list[str], pace: Pace, depth: int | None = 1) -> None:
    pace.wait()
    # A path is relative to the project, not to the bare repository.
    where = str(Path(url).resolve()) if "://" not in url and Path(url).exists() else url
    shallow = [f"--depth={depth}"] if depth and not Path(where).exists() else []
    _git(repository, "fetch", "--quiet", "--force", "--no-auto-gc", *shallow, "--", where, *references)


def _has(repository: Path, commit: str) -> bool:
    done = subprocess.run(
        ["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=repository, capture_output=True, check=False
    )
    return done.returncode == 0


def _listed(repository: Path, commit: str) -> list[Blob]:
    """The ordinary files of `commit`, in order of their paths as bytes."""
    blobs = []
    for line in _git(repository, "ls-tree", "-r", "-z", "-l", "--full-tree", commit).split(b"\0")[:-1]:
        facts, _, path = line.partition(b"\t")
        mode, _, oid, size = facts.split()
        if mode in ORDINARY:
            blobs.append(Blob(path.decode(errors="surrogateescape"), oid.decode(), int(size)))
    return blobs


def _licence(repository: Path, blobs: list[Blob]) -> str | None:
    """The SPDX identifier of the licence in the repository's root; None if there is none that is known."""
    texts = [blob for blob in blobs if LICENCES.fullmatch(blob.path)]
    found = {licence_of(content.decode(errors="replace")) for _, content in _contents(repository, texts)} - {None}
    return " AND ".join(sorted(each for each in found if each)) or None


def _made(params: GitParams, repository: Path, commit: str, blobs: list[Blob], source: str) -> list[LockedFile]:
    """The tars of the files that the globs match, in their order; a tar ends with the file that fills it."""
    wanted = [blob for blob in blobs if is_among(blob.path, params.files)]
    if not wanted:
        raise Refusal(
            f"{_public(params.url)} has no file at {commit} that matches {', '.join(params.files)}; correct the globs"
        )
    folder = folder_of(source) / f"{commit}-{sha256(url_of(params, commit).encode()).hexdigest()[:16]}"
    folder.mkdir(exist_ok=True)
    contents = _contents(repository, wanted)
    made, number = [], 0
    while _write_tar(folder / shard_name("files", number, "tar"), contents, params.shard_bytes):
        made.append(taken(folder / shard_name("files", number, "tar"), url_of(params, commit)))
        number += 1
    return made


def _write_tar(path: Path, contents: Iterator[tuple[Blob, bytes]], shard_bytes: int) -> int:
    """Write the next files, up to that which fills `shard_bytes`, without times and owners; how many."""
    partial = path.with_name(f".{path.name}.partial")
    written = size = 0
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
        for blob, content in contents:
            entry = tarfile.TarInfo(blob.path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
            written, size = written + 1, size + len(content)
            if size >= shard_bytes:
                break
    if written:
        publish(partial, path)
    else:
        partial.unlink()
    return written


def _contents(repository: Path, blobs: list[Blob]) -> Iterator[tuple[Blob, bytes]]:
    """Each of `blobs` with its bytes, in their order; one at a time is in memory."""
    with subprocess.Popen(
        ["git", "cat-file", "--batch"], cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        for blob in blobs:
            process.stdin.write(f"{blob.oid}\n".encode())
            process.stdin.flush()
            yield blob, _next_content(process.stdout, blob)
        process.stdin.close()


def _next_content(stream: IO[bytes], blob: Blob) -> bytes:
    header = stream.readline()
    content = stream.read(blob.size)
    if len(content) != blob.size or not header.endswith(f" {blob.size}\n".encode()):
        raise Refusal(f"git can't read {blob.path} ({blob.oid}); remove the repository in scratch, and run again")
    stream.read(1)
    return content


def _git(repository: Path | None, *arguments: str) -> bytes:
    """What git prints.

    Raises:
        Interrupted: if the network is the trouble.
        Refusal: if something else is.
    """
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    done = subprocess.run(
        ["git", *arguments], cwd=repository, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        said = _public(" ".join(done.stderr.decode(errors="replace").split()))
        if NETWORK_TROUBLE.search(said):
            raise Interrupted(f"git can't reach it ({said}); check the network")
        raise Refusal(f"git {arguments[0]} failed ({said}); correct the URL, the revision or the access to it")
    return done.stdout
