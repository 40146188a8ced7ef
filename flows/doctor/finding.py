"""What is found: one thing that is wrong, and how it is mended."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")

NAMED = 3  # of many of a kind


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where, what, and how it is mended. A build fails by an error only."""

    level: Level
    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.what}; {self.remedy}"


def some(names: list[str]) -> str:
    """The first of `names`, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def one_line(error: BaseException) -> str:
    """What `error` says, and its cause, without line breaks."""
    reasons = [str(each) for each in (error, error.__cause__) if each and str(each)]
    return " ".join(": ".join(reasons).split())
