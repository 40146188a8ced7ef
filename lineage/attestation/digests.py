"""Digests of what stages read and write: sha256 for trust, and DVC's md5 for identity.

The sha256 of a folder is that of a text with one line for each file, in the order of their paths as bytes:

    <sha256 of the file>  <path within the folder>

which is what sha256sum prints, so that anybody can compute it, within the folder:

    find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from stages.documents import MANIFEST

IGNORED = "__pycache__"  # .dvcignore
Digests = dict[str, str]  # by path within the folder; of a single file by ""


def sha256_files(path: Path, trusting: bool) -> Digests:
    """The sha256 of each file of `path`, a folder or a file.

    `trusting` takes it from the manifest beside the file if that says so and the size is right; else it is computed.
    """
    if path.is_file():
        return {"": sha256_file(path)}
    return {name: digest for folder, names in _folders(path) for name, digest in _of(path, folder, names, trusting)}


def sha256_of(files: Mapping[str, str]) -> str:
    """The sha256 of a folder with these `files`, as the docstring above has it; of a single file its own."""
    if files.keys() == {""}:
        return files[""]
    lines = (f"{files[name]}  {name}\n" for name in sorted(files, key=str.encode))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def md5_files(path: Path) -> Digests:
    """The md5 of each file of `path`, a folder or a file."""
    if path.is_file():
        return {"": _digest(path, "md5")}
    return {
        file.relative_to(path).as_posix(): _digest(file, "md5")
        for folder, names in _folders(path)
        for file in (folder / name for name in names)
    }


def md5_of(files: Mapping[str, str]) -> str:
    """DVC's digest of a folder with these files (by their md5), which ends in .dir; of a single file its own."""
    if files.keys() == {""}:
        return files[""]
    entries = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def below(files: Mapping[str, str], folder: str) -> Digests:
    """Those of `files` that are in `folder`, by their paths within it."""
    return {name.removeprefix(f"{folder}/"): digest for name, digest in files.items() if name.startswith(f"{folder}/")}


def parts_of(files: Mapping[str, str]) -> list[str]:
    """The folders within a folder with these `files` that have a manifest of their own, sorted."""
    return sorted(name.removesuffix(f"/{MANIFEST}") for name in files if name.endswith(f"/{MANIFEST}"))


def sha256_file(path: Path) -> str:
    """The sha256 of a file."""
    return _digest(path, "sha256")


def _of(root: Path, folder: Path, names: list[str], trusting: bool) -> list[tuple[str, str]]:
    listed = _listed(folder) if trusting and MANIFEST in names else {}
    found = []
    for name in names:
        path = folder / name
        size, digest = listed.get(name, (None, ""))
        same = size is not None and size == path.stat().st_size
        found.append((path.relative_to(root).as_posix(), digest if same else sha256_file(path)))
    return found


def _listed(folder: Path) -> dict[str, tuple[int, str]]:
    """Bytes and sha256 of each shard that the manifest of `folder` lists; nothing if it isn't a stage's."""
    try:
        shards = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["shards"]
        return {shard["path"]: (shard["bytes"], shard["sha256"]) for shard in shards}
    except (ValueError, KeyError, TypeError):
        return {}


def _folders(path: Path) -> list[tuple[Path, list[str]]]:
    """Each folder at or below `path`, with the names of its files."""
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name != IGNORED)
        found.append((Path(folder), sorted(names)))
    return found


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
