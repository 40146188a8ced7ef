"""What is asked to go is added to the takedown list; the next build is without it."""

import fcntl
import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from stages.takedown import TAKEDOWN, Entry, read_takedown


def take_down(entries: Iterable[Entry], root: Path = Path(), reason: str | None = None) -> int:
    """Add `entries` to the list of `root`, with today's date, unless it names the same; how many were added.

    The list is replaced whole, and by one at a time: a reader has the old one or the new one.

    Raises:
        Refusal: if the list that is there isn't valid.
    """
    path = root / TAKEDOWN
    lock = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = {(entry.kind, entry.value) for entry in read_takedown(path).entries} if path.exists() else set()
        new = {(entry.kind, entry.value): entry for entry in entries}
        lines = [line_of(entry, reason) for key, entry in new.items() if key not in known]
        if lines:
            _replace(path, lines)
        return len(lines)
    finally:
        os.close(lock)


def line_of(entry: Entry, reason: str | None = None) -> str:
    """`entry` as a line of the list; its own reason and date, if it has them, else `reason` and today."""
    given = {"reason": reason, "date": datetime.now(UTC).date().isoformat()}
    values = given | entry.model_dump(exclude_none=True)
    ordered = {entry.kind: entry.value, **{name: values[name] for name in ("reason", "date") if values[name]}}
    return json.dumps(ordered, ensure_ascii=False)


def _replace(path: Path, lines: list[str]) -> None:
    before = path.read_text(encoding="utf-8").lstrip() if path.exists() else ""
    if before and not before.endswith("\n"):
        before += "\n"
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(before + "".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
