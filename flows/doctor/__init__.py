"""What would break a build, found before it does. docs/doctor.md has the table."""

import json
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import asdict
from functools import partial
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from flows.doctor import machine, pipeline, surroundings
from flows.doctor.finding import LEVELS, Finding, one_line
from stages.params import Refusal


def diagnose(root: Path = Path()) -> list[Finding]:
    """All that is wrong with the project at `root` and this machine, the worst first, always in the same order."""
    with chdir(root):
        found = [finding for check in machine.CHECKS for finding in _refusal_too(check)]
        try:
            with Repo() as repo:
                stages = sorted(repo.index.stages, key=lambda stage: str(stage.addressing))
                for check in (*pipeline.CHECKS, *surroundings.CHECKS):
                    found += _refusal_too(partial(check, repo, stages))
        except DvcException as error:
            found.append(Finding("error", "dvc.yaml", f"DVC can't read the project: {one_line(error)}", "mend it"))
    return sorted(set(found), key=lambda each: (LEVELS.index(each.level), each.where, each.what))


def _refusal_too(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What `check` finds; or why it can't."""
    try:
        return list(check())
    except Refusal as refusal:
        what, _, remedy = str(refusal).partition("; ")
        return [Finding("error", "settings", what, remedy or "correct it")]


def show(findings: list[Finding], as_json: bool) -> int:
    """Print `findings`, one a line, and return the exit code: 1 if one of them is an error."""
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(finding)
        counts = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
        print(", ".join(f"{count} {level}{'s' * (count != 1)}" for level, count in counts.items()))
    return int(any(finding.level == "error" for finding in findings))
