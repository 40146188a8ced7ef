"""What changed from each build of the table to the next one.

Row, Row, the cache  ->  Change
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from lineage.diff.causes import Again, Cause
from lineage.diff.compare import Difference, difference
from lineage.diff.documents import Moved
from lineage.diff.results import Score
from lineage.report.versions import Row

MOST_CHANGES = 8  # each reads the ledgers of two builds
MOST_WAYS = 12


@dataclass(frozen=True)
class Change:
    """What differs between a build and a later one."""

    before: Row
    after: Row
    found: Difference

    @property
    def ways(self) -> list[Moved]:
        """The ways that most documents went from one fate to another."""
        return sorted(self.found.moved, key=lambda each: (-each.documents, each.source, each.old, each.new))[:MOST_WAYS]

    @property
    def scores(self) -> list[Score]:
        """The metrics that changed, after the bits per byte of all sources."""
        return [each for each in self.found.scores if each.name == "bits per byte" or each.old != each.new]

    @property
    def reasons(self) -> list[tuple[str, str, str]]:
        """Stages, why they ran again, what came of it: stages that follow each other for the same reason in one row."""
        told = [(each.stage, because(each), _result(each)) for each in self.found.again]
        grouped = groupby(told, key=lambda row: (row[0].partition("@")[0], *row[1:]))
        return [(", ".join(stage for stage, *_ in rows), why, made) for (_, why, made), rows in grouped]


def changes(root: Path, table: Sequence[Row]) -> list[Change]:
    """The changes between neighbours of `table`, the newest first."""
    pairs = list(zip(table[1:], table, strict=False))[:MOST_CHANGES]
    return [Change(before, after, difference(root, before.build, after.build)) for before, after in pairs]


def because(again: Again) -> str:
    """Why a stage ran again, in a phrase."""
    if again.is_unexplained:
        return "the same inputs made something else"
    return ", ".join(map(_phrase, again.causes))


def _result(again: Again) -> str:
    return "differ" if again.changed else "are the same" if again.same else "–"


def _phrase(cause: Cause) -> str:
    match cause.kind:
        case "parameter":
            return f"parameter {cause.what}"
        case "input":
            return f"{cause.what} ({', '.join(cause.because)})" if cause.because else cause.what
        case "command":
            return "its command"
        case "stage":
            return "it is new" if cause.new == "new" else "it is gone"
        case _:
            return cause.what
