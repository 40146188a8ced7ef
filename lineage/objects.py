"""Outs of many builds, each laid out once: most builds share most of their outs.

Build, path of an out  ->  a folder in which it lies at that path
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lineage.checkout import Missing, files_of, lay_out
from lineage.history import Build


class Objects:
    """The outs of the builds of a project, as links in a temporary folder. Read them only."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self._folder = folder
        self._places: dict[tuple[str, str], Path] = {}
        self._missing: dict[tuple[str, str], str] = {}

    def folder(self, build: Build, path: str) -> Path:
        """A folder in which the out `path` of `build` lies, at that path.

        Raises:
            Missing: if it is neither in the cache nor in the working tree.
        """
        out = build.outs[path]
        key = out.md5, path
        if key in self._missing:
            raise Missing(self._missing[key])
        if key not in self._places:
            place = self._folder / str(len(self._places))
            try:
                lay_out(self.root, build, out, place / path)
            except Missing as missing:
                self._missing[key] = str(missing)
                raise
            self._places[key] = place
        return self._places[key]

    def file(self, build: Build, path: str, within: str = "") -> Path:
        """One file of the out `path` of `build`, "" if the out is a file; the rest of the out may be missing.

        Raises:
            Missing: if the file is neither in the cache nor in the working tree.
        """
        files = files_of(self.root, build.outs[path])
        found = (files or {}).get(within)
        return found if found and found.is_file() else self.folder(build, path) / path / within


@contextmanager
def objects(root: Path) -> Iterator[Objects]:
    """The outs of all builds of `root`, for the time of a block."""
    with tempfile.TemporaryDirectory(prefix="pedigree-objects-") as folder:
        yield Objects(root, Path(folder))
