"""The published versions of the model, and what is known of each; also of builds that weren't published.

tags of GTO, branches of candidates, dvc.lock of each, metrics from the cache or the publication's record  ->  Row
"""

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from lineage.checkout import Missing
from lineage.diff.results import EVALUATION, TRAINING, figures, read_json
from lineage.history import Build, all_builds, build_at, builds, is_shallow, text_at
from lineage.objects import Objects, objects
from lineage.plain import plain
from lineage.terminal import UNKNOWN, console
from stages.params import Refusal

VERSION = re.compile(r"base@(v\d+\.\d+\.\d+)")  # GTO's tags: docs/publication.md
_ASSIGNED = re.compile(r"base#([a-z][a-z0-9-]*)#(\d+)")
_CANDIDATE = re.compile(r"(?:refs/heads|refs/remotes/[^/]+)/(candidate/.+)")
PROD = "prod"
CURRENT, WAS_CURRENT, PUBLISHED = "current", "was current", "published"
CANDIDATE, UNPUBLISHED = "candidate", "not published"
METRICS = (TRAINING, EVALUATION)


@dataclass(frozen=True)
class Reference:
    """A tag or branch that names a build."""

    name: str  # v1.2.0, candidate/3a7c…
    full: str  # refs/tags/base@v1.2.0
    commit: str
    date: str  # when it was made
    status: str

    @property
    def short(self) -> str:
        """What git calls it: base@v1.2.0."""
        return self.full.removeprefix("refs/tags/").removeprefix("refs/heads/")


@dataclass(frozen=True)
class Row:
    """A build, under the name that it was published by. What isn't known is None."""

    name: str
    status: str
    date: str | None
    commit: str | None
    parameters: int | None = None
    tokens: int | None = None  # trained on
    flops: float | None = None
    bits_per_byte: float | None = None
    low: float | None = None  # of the 95% interval
    high: float | None = None
    unknown: str | None = None  # why metrics aren't known


def rows(root: Path, with_all: bool = False) -> list[Row]:
    """The versions and candidates, the newest first; `with_all`, every other build of the history, too."""
    history = builds(root)
    named = {name: build for build in history for name in build.names}
    found = [(reference, _build(root, reference, named)) for reference in references(root)]
    with objects(root) as shelf:
        table = [_row(shelf, reference, build) for reference, build in found]
        if with_all:
            told = {build.lock for _, build in found}
            table += [_row(shelf, None, build) for build in all_builds(root, history) if build.lock not in told]
    return sorted(table, key=lambda row: row.date or "9", reverse=True)


def _build(root: Path, reference: Reference, known: Mapping[str, Build]) -> Build:
    """The build that `reference` names, of those `known` by tag and branch, else asked of git."""
    build = known.get(reference.short) or build_at(root, reference.full)
    return replace(build, commit=reference.commit, names=(reference.name,))


def references(root: Path) -> list[Reference]:
    """Every version and candidate that git has here."""
    form = "%(refname)%09%(objectname)%09%(*objectname)%09%(creatordate:iso-strict)"
    command = ["git", "for-each-ref", f"--format={form}", "refs/tags/base@*", "refs/tags/base#*",
               "refs/heads/candidate/", "refs/remotes/*/candidate/*"]  # fmt: skip
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    tags = [(name.removeprefix("refs/tags/"), commit, date) for name, _, commit, date in lines if commit]
    stages = _stages([(name, commit) for name, commit, _ in tags])
    found = [
        Reference(match[1], f"refs/tags/{name}", commit, date, stages.get(commit, PUBLISHED))
        for name, commit, date in tags
        if (match := VERSION.fullmatch(name))
    ]
    branches = {
        match[1]: Reference(match[1], name, commit, date, CANDIDATE)
        for name, commit, _, date in lines
        if (match := _CANDIDATE.fullmatch(name))
    }
    return [*found, *branches.values()]


def _stages(tags: list[tuple[str, str]]) -> dict[str, str]:
    """What each version is, by commit: current or was current if it is or was prod, and the stages that it has else."""
    versions = {commit for name, commit in tags if VERSION.fullmatch(name)}
    assigned = sorted(
        (int(match[2]), match[1], commit)
        for name, commit in tags
        if (match := _ASSIGNED.fullmatch(name)) and commit in versions
    )
    newest = {stage: commit for _, stage, commit in assigned}
    words: dict[str, dict[str, None]] = {}
    for _, stage, commit in assigned:
        has_it = newest[stage] == commit
        if stage == PROD or has_it:
            word = stage if stage != PROD else CURRENT if has_it else WAS_CURRENT
            words.setdefault(commit, {})[word] = None
    return {commit: ", ".join(each) for commit, each in words.items()}


def _row(shelf: Objects, reference: Reference | None, build: Build) -> Row:
    metrics, unknown = metrics_of(shelf, build)
    training, evaluation = (metrics.get(path) or {} for path in METRICS)
    return Row(
        name=reference.name if reference else build.title,
        status=reference.status if reference else UNPUBLISHED,
        date=reference.date if reference else build.date,
        commit=reference.commit if reference else build.commit,
        unknown=unknown,
        **figures(training, evaluation),
    )


def metrics_of(shelf: Objects, build: Build) -> tuple[Mapping[str, Any], str | None]:
    """The metrics of `build` by path: from the cache, else from the record that its publication left; else why not."""
    try:
        return {path: read_json(shelf, build, path) for path in METRICS}, None
    except Missing as missing:
        record = text_at(shelf.root, build, f"records/base/{build.title}.json")
        return (json.loads(record).get("metrics", {}), None) if record else ({}, str(missing))
    except Refusal as refusal:
        return {}, str(refusal)


def print_log(with_all: bool = False, as_json: bool = False, root: Path = Path()) -> None:
    """Write the versions to stdout."""
    table = rows(root, with_all)
    if as_json:
        print(json.dumps({"builds": [asdict(row) for row in table], "shallow": is_shallow(root)}, indent=2))
        return
    terminal = console()
    if table:
        terminal.print(_table(table))
    else:
        terminal.print("Nothing is published yet: `pedigree publish` does it, `pedigree log --all` shows all builds.")
    for row in table:
        if row.unknown:
            terminal.print(f"Unknown of {plain(row.name)}: {plain(row.unknown)}", soft_wrap=True)
    if is_shallow(root):
        terminal.print("This clone is shallow: `git fetch --unshallow --tags` brings older builds.")


def _table(table: list[Row]) -> Table:
    shown = Table(title="Versions of the model", title_justify="left", title_style="bold")
    for column in ("version", "date", "status", "commit"):
        shown.add_column(column, overflow="fold")
    for column in ("tokens", "FLOPs", "bits per byte", "95% interval"):
        shown.add_column(column, justify="right")
    for row in table:
        bits = UNKNOWN if row.bits_per_byte is None else f"{row.bits_per_byte:.4f}"
        interval = UNKNOWN if row.low is None or row.high is None else f"{row.low:.4f} to {row.high:.4f}"
        shown.add_row(
            plain(row.name), (row.date or UNKNOWN)[:10], row.status, (row.commit or UNKNOWN)[:12],
            UNKNOWN if row.tokens is None else f"{row.tokens:,}", UNKNOWN if row.flops is None else f"{row.flops:.3g}",
            bits, interval,
        )  # fmt: skip
    return shown
