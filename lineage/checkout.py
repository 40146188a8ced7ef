"""The files of a build, from the cache, laid out as in a project: for whoever reads a build that isn't here any more.

Build, DVC's cache  ->  a folder of links: data/dedup/papers/decisions-00000.parquet -> .dvc/cache/files/md5/3a/7c…
"""

import configparser
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from lineage.history import Build, Object, build_at, text_at
from stages.params import Refusal


class Missing(Refusal):
    """An object of a build that neither the cache nor the working tree has."""


@contextmanager
def checked_out(root: Path, build: Build, wanted: Iterable[str] = ("",)) -> Iterator[Path]:
    """A folder in which the outs of `build` at or below the paths `wanted` lie as in a project, with its params.yaml.

    The files are links into the cache: read them only. It is gone after the block.

    Raises:
        Missing: if an object is neither in the cache nor in the working tree; it names the object, and how to get it.
    """
    prefixes = [PurePosixPath(path) for path in wanted]
    with tempfile.TemporaryDirectory(prefix="pedigree-build-") as name:
        folder = Path(name)
        for path, out in build.outs.items():
            if any(PurePosixPath(path).is_relative_to(prefix) for prefix in prefixes):
                lay_out(root, build, out, folder / path)
        if params := text_at(root, build, "params.yaml"):
            (folder / "params.yaml").write_text(params, encoding="utf-8")
        yield folder


def lay_out(root: Path, build: Build, out: Object, target: Path) -> None:
    """Make `target` a link to the file, or a folder of links to the files, of `out`.

    Raises:
        Missing: if the cache lacks one, and the working tree holds no such out.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    files = files_of(root, out)
    if files is not None and all(file.is_file() for file in files.values()):
        for relative, file in files.items():
            link = target / relative if relative else target
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    elif _stands_here(root, out):
        target.symlink_to((root / out.path).resolve())
    else:
        raise Missing(_sentence(root, build, out, files))


def files_of(root: Path, out: Object) -> dict[str, Path] | None:
    """Where the cache has, or would have, each file of `out`, by its path within it ("" for a file).

    None if the list of a folder's files isn't in the cache.
    """
    cache = cache_folder(root)
    if not out.md5.endswith(".dir"):
        return {"": _cached(cache, out.md5)}
    listed = _cached(cache, out.md5)
    if not listed.is_file():
        return None
    entries = json.loads(listed.read_text(encoding="utf-8"))
    return {entry["relpath"]: _cached(cache, entry["md5"]) for entry in entries}


def cache_folder(root: Path) -> Path:
    """DVC's cache of the project at `root`, as its configuration has it."""
    for name in ("config.local", "config"):
        if folder := _config(root / ".dvc" / name).get("cache", "dir", fallback=None):
            return ((root / ".dvc" / folder) / "files" / "md5").resolve()
    return (root / ".dvc" / "cache" / "files" / "md5").resolve()


def default_remote(root: Path) -> str | None:
    """The name of the remote that builds are pushed to; None if there is none."""
    for name in ("config.local", "config"):
        config = _config(root / ".dvc" / name)
        if config.has_option("core", "remote"):
            return config.get("core", "remote") or None
    return None


def _config(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    if path.is_file():
        parser.read_string(path.read_text(encoding="utf-8"))
    return parser


def _cached(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def _stands_here(root: Path, out: Object) -> bool:
    """Whether the working tree has `out`: its dvc.lock says so, and the path is there."""
    try:
        here = build_at(root).outs.get(out.path)
    except Refusal:
        return False
    return here is not None and here.md5 == out.md5 and (root / out.path).exists()


def _sentence(root: Path, build: Build, out: Object, files: dict[str, Path] | None) -> str:
    gone = out.md5 if files is None else next(_name(file) for file in files.values() if not file.is_file())
    where = f"object {gone} of {out.path} ({build.title}) is not in the cache"
    remote = default_remote(root)
    if not remote:
        return f"{where}, and there is no remote to fetch it from; build that commit again (`pedigree verify`)"
    if build.commit is None:
        return f"{where}; `dvc pull {out.path}` fetches it from the remote {remote}"
    return f"{where}; `git checkout {build.commit[:12]} && dvc pull {out.path}` fetches it from the remote {remote}"


def _name(file: Path) -> str:
    return file.parent.name + file.name
