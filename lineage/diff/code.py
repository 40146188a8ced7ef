"""How much the files differ that stages read and no stage wrote, as git counts it."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lineage.history import Build


@dataclass(frozen=True)
class File:
    """A file that changed; lines are None where git doesn't count them, as in a binary file."""

    path: str
    added: int | None
    removed: int | None


def changed_files(root: Path, first: Build, second: Build, paths: Iterable[str]) -> list[File]:
    """The files at or below `paths` that differ between the commits of two builds; without a commit, the working tree.

    Nothing if git doesn't have them any more: a file that isn't in git, a commit that a shallow clone lacks.
    """
    ends = [build.commit for build in (first, second) if build.commit]
    wanted = list(paths)
    if not ends or not wanted:
        return []
    backwards = ["-R"] if first.commit is None else []
    command = ["git", "diff", "--numstat", "--no-renames", "-z", *backwards, *ends, "--", *wanted]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    lines = [line.split("\t") for line in done.stdout.split("\0") if line] if done.returncode == 0 else []
    return [File(path, *(int(count) if count != "-" else None for count in counts)) for *counts, path in lines]
