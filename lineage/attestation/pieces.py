"""What a stage of a build read and wrote, piece by piece, each with its digests.

A folder that it read but that several stages wrote (data/filter) is there as a whole, and out by out. A folder that it
wrote but that other stages read in parts (data/dedup) is there as a whole, and part by part: each folder in it that has
a manifest of its own. So a chain of records can be followed without the data.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lineage.attestation.digests import Digests, below, md5_files, md5_of, parts_of, sha256_files, sha256_of
from lineage.checkout import files_of, lay_out
from lineage.history import Build, Object, Stage

_known: dict[str, Digests] = {}  # sha256 of the files of an out, by DVC's digest of it: it is read once by a process


@dataclass(frozen=True)
class Piece:
    """A file or folder. `sha256` is None if what stands there is not what the stage read."""

    path: str
    md5: str  # DVC's
    sha256: str | None
    part_of: str | None = None


def written(root: Path, build: Build, stage: Stage) -> list[Piece]:
    """What `stage` wrote: its outs, each followed by its parts.

    Raises:
        Missing: if neither the cache nor the working tree has one.
    """
    return [piece for out in stage.outs.values() for piece in _with_parts(root, build, out)]


def read(root: Path, build: Build, stage: Stage) -> list[Piece]:
    """What `stage` read: its dependencies, each followed by the outs of which it is made.

    Raises:
        Missing: if it read an out that neither the cache nor the working tree has.
    """
    return [piece for dep in stage.deps.values() for piece in _dependency(root, build, dep)]


def _dependency(root: Path, build: Build, dep: Object) -> list[Piece]:
    path, outs = PurePosixPath(dep.path), list(build.outs.values())
    for out in outs:
        if path.is_relative_to(out.path):
            files = _sha256_files(root, build, out)
            inner = path.relative_to(out.path).as_posix()
            return [Piece(dep.path, dep.md5, sha256_of(files if inner == "." else _inside(files, inner)))]
    if beneath := [out for out in outs if PurePosixPath(out.path).is_relative_to(path)]:
        return _joined(root, build, dep, beneath)
    return [_own(root, dep)]


def _joined(root: Path, build: Build, dep: Object, outs: Iterable[Object]) -> list[Piece]:
    """A folder that holds the outs of several stages, and each of them."""
    files: Digests = {}
    pieces = []
    for out in outs:
        inner = PurePosixPath(out.path).relative_to(dep.path).as_posix()
        of_out = _sha256_files(root, build, out)
        files |= {f"{inner}/{name}" if name else inner: digest for name, digest in of_out.items()}
        pieces.append(Piece(out.path, out.md5, sha256_of(of_out), part_of=dep.path))
    return [Piece(dep.path, dep.md5, sha256_of(files)), *pieces]


def _own(root: Path, dep: Object) -> Piece:
    """A file or folder that no stage wrote, such as code: it may have been changed since the stage read it."""
    path = root / dep.path
    same = path.exists() and md5_of(md5_files(path)) == dep.md5
    return Piece(dep.path, dep.md5, sha256_of(sha256_files(path, trusting=False)) if same else None)


def _with_parts(root: Path, build: Build, out: Object) -> list[Piece]:
    files = _sha256_files(root, build, out)
    whole = Piece(out.path, out.md5, sha256_of(files))
    if not (names := parts_of(files)):
        return [whole]
    md5s = _md5_files(root, out)
    parts = (
        Piece(f"{out.path}/{name}", md5_of(below(md5s, name)), sha256_of(below(files, name)), part_of=out.path)
        for name in names
    )
    return [whole, *parts]


def _inside(files: Digests, inner: str) -> Digests:
    """The file or folder `inner` of a folder with these `files`."""
    return {"": files[inner]} if inner in files else below(files, inner)


def _sha256_files(root: Path, build: Build, out: Object) -> Digests:
    if out.md5 not in _known:
        with tempfile.TemporaryDirectory(prefix="pedigree-out-") as folder:
            lay_out(root, build, out, Path(folder, "out"))
            _known[out.md5] = sha256_files(Path(folder, "out"), trusting=True)
    return _known[out.md5]


def _md5_files(root: Path, out: Object) -> Digests:
    if (files := files_of(root, out)) is not None:
        return {name: file.parent.name + file.name for name, file in files.items()}
    return md5_files(root / out.path)
