"""The checks of the machine, whatever the project is."""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from packaging.specifiers import SpecifierSet

from flows.dependencies import LOCK, differing, read_lock
from flows.doctor.finding import Finding, some


def check_python() -> Iterator[Finding]:
    """The Python that runs this, beside the one that pyproject.toml asks for."""
    if not Path("pyproject.toml").is_file():
        return
    wanted = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8")).get("project", {}).get("requires-python")
    version = ".".join(map(str, sys.version_info[:3]))
    if wanted and version not in SpecifierSet(wanted):
        yield Finding("error", "Python", f"this is {version}, and {wanted} is needed", "install in another Python")


def check_packages() -> Iterator[Finding]:
    """The installed packages beside the lock."""
    if not LOCK.is_file():
        yield Finding("warning", str(LOCK), "it is missing, so no version is known", "restore it from git")
        return
    sentences = differing(read_lock())
    absent = [sentence for sentence in sentences if "but nothing is installed" in sentence]
    others = [sentence for sentence in sentences if sentence not in absent]
    remedy = f"run `pip install -r {LOCK}`"
    if others:
        yield Finding("error", str(LOCK), f"{len(others)} packages differ: {some(others)}", remedy)
    if absent:
        yield Finding("warning", str(LOCK), f"{len(absent)} packages are absent: {some(absent)}", remedy)


def check_git() -> Iterator[Finding]:
    """git, which DVC needs to tell a version by."""
    if not shutil.which("git"):
        yield Finding("error", "git", "it isn't installed, and DVC needs it", "install git")
    elif subprocess.run(["git", "rev-parse", "--git-dir"], capture_output=True, check=False).returncode:
        yield Finding("note", "git", "the project is in no git repository, so it has no versions", "run `git init`")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (check_python, check_packages, check_git)
