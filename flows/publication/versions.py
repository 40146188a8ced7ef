"""The versions of the base model: GTO tags in git, the registry that DVC reads.

base@v1.4.0     the commit of this version
base#prod#7     the seventh assignment of the stage `prod`: its commit's version is the current one
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.git import Upstream, git, is_ancestor
from stages.params import Refusal

ARTIFACT = "base"
PROD = "prod"
_WANTED = re.compile(rf"(?:{ARTIFACT}@)?(?:(?P<version>v\d+\.\d+\.\d+)|(?P<stage>[a-z][a-z0-9-]*))")


@dataclass(frozen=True)
class Version:
    """A published build."""

    name: str  # v1.4.0
    commit: str


def versions(root: Path) -> list[Version]:
    """All versions, the oldest number first."""
    from gto.versions import SemVer

    found = [Version(parsed["version"], commit) for parsed, commit in _tags(root) if "version" in parsed]
    return sorted(found, key=lambda version: SemVer(version.name))


def history(root: Path, stage: str = PROD) -> list[Version]:
    """The versions that `stage` was assigned to, in that order; the last one is the current one."""
    names = {version.commit: version for version in versions(root)}
    assigned = [(int(parsed["counter"]), commit) for parsed, commit in _tags(root) if parsed.get("stage") == stage]
    return [names[commit] for _, commit in sorted(assigned) if commit in names]


def current(root: Path, stage: str = PROD) -> Version | None:
    """The version that has `stage`."""
    return next(iter(history(root, stage)[::-1]), None)


def named(root: Path, wanted: str) -> Version:
    """The version that `base@v1.2.0`, or `base@prod`, stands for; `base@` may be left out.

    Raises:
        Refusal: if there is none.
    """
    parts = _WANTED.fullmatch(wanted)
    if not parts:
        raise Refusal(f"{wanted} names no version; say {ARTIFACT}@v1.2.0, or {ARTIFACT}@{PROD} for the current one")
    if parts["stage"]:
        found = current(root, parts["stage"])
    else:
        found = next((version for version in versions(root) if version.name == parts["version"]), None)
    if not found:
        known = ", ".join(version.name for version in versions(root)[-5:]) or "none"
        raise Refusal(f"there is no {ARTIFACT}@{parts[0].removeprefix(f'{ARTIFACT}@')} here (versions: {known})")
    return found


def next_name(root: Path) -> str:
    """The name of a version that follows all others: the middle number counts."""
    from gto.versions import SemVer

    last = versions(root)
    if not last:
        return "v1.0.0"
    return str(SemVer(last[-1].name).bump(bump_minor=True).version)  # type: ignore[no-untyped-call]


def register(root: Path, commit: str, name: str) -> str:
    """Make the tag that gives `commit` a version name; the tag's name."""
    from gto.api import register as gto_register

    _wait_out_the_second(root)
    with _refusing():
        return str(gto_register(str(root), ARTIFACT, commit, version=name).tag)


def assign(root: Path, version: str, stage: str) -> str:
    """Make the tag that gives the version named `version` the `stage`; the tag's name."""
    from gto.api import assign as gto_assign

    _wait_out_the_second(root)
    with _refusing():
        return str(gto_assign(str(root), ARTIFACT, stage, version=version, force=True).tag)


def drop_leftovers(root: Path, upstream: Upstream | None) -> list[str]:
    """Remove tags that a killed publication left: not upstream, or another one there, and on no commit of the branch.

    Returns:
        the tags that stand here alone, of versions that were published here alone.
    """
    there = {}
    if upstream:
        lines = git(root, "ls-remote", "--refs", "--tags", upstream.remote, f"{ARTIFACT}@*", f"{ARTIFACT}#*")
        there = {name.removeprefix("refs/tags/"): tag for tag, name in map(str.split, lines.splitlines())}
    own = []
    for name, tag, commit in _lines(root):
        if there.get(name) == tag:
            continue
        if name not in there and is_ancestor(root, commit, "HEAD"):
            own.append(name)
        else:
            git(root, "tag", "--delete", name)
    return own


def _tags(root: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """What each tag says that gives a commit a version or a stage, and that commit."""
    from gto.constants import Action
    from gto.tag import parse_name

    for name, _, commit in _lines(root):
        parsed = parse_name(name, raise_on_fail=False)
        if parsed and parsed["action"] in (Action.REGISTER, Action.ASSIGN):
            yield parsed, commit


def _lines(root: Path) -> list[tuple[str, str, str]]:
    """Name, tag object and commit of each annotated tag of the model: GTO and DVC count no others."""
    form = "--format=%(refname:strip=2) %(objectname) %(*objectname)"
    listed = git(root, "for-each-ref", form, f"refs/tags/{ARTIFACT}@*", f"refs/tags/{ARTIFACT}#*").splitlines()
    return [(name, tag, commit) for name, tag, commit in (line.split(" ") for line in listed) if commit]


@contextmanager
def _refusing() -> Iterator[None]:
    from gto.exceptions import GTOException

    try:
        yield
    except GTOException as error:
        raise Refusal(f"GTO makes no such tag ({' '.join(str(error).split())})") from error


def _wait_out_the_second(root: Path) -> None:
    """Wait until a new tag is later than all others: GTO and DVC order tags by their time, in seconds.

    Raises:
        Refusal: if the clock stands before the newest tag.
    """
    form = "--format=%(taggerdate:unix)"
    dates = git(root, "for-each-ref", form, f"refs/tags/{ARTIFACT}@*", f"refs/tags/{ARTIFACT}#*").split()
    newest = max(map(int, dates), default=0)
    if newest > time.time() + 60:
        raise Refusal("the clock of this machine stands before the newest version's tag; set it, and publish again")
    while time.time() < newest + 1:
        time.sleep(0.05)
