"""The documents that the search page knows, as values for its script.

Census of each source  ->  {"sources": […], "rules": […], …, "rows": [[id, source, origin, …], …]}
"""

from collections.abc import Sequence
from typing import Any

from lineage.plain import plain
from lineage.report.census import FATES, Census

COLUMNS = (
    "id", "source", "origin", "fate", "rule", "value", "threshold", "tokens", "words", "license", "language",
    "date", "title", "url", "duplicate_of", "similarity", "detail",
    "synthetic",
)  # fmt: skip
NAMED = ("source", "rule", "license", "language")  # many rows share a text: a row holds its number
MOST_LETTERS = 300


def index(censuses: Sequence[Census]) -> dict[str, Any]:
    """The sampled documents of all sources: `columns`, the names that rows have by number, `rows`.

    Trailing columns of which nothing is known are left out of a row.
    """
    names: dict[str, dict[str, int]] = {column: {} for column in NAMED}
    rows = [
        _row({**document, "source": census.source}, names)
        for census in censuses
        for document in census.sampled.iter_rows(named=True)
    ]
    return {
        "columns": COLUMNS,
        "fates": FATES,
        "names": {key: list(found) for key, found in names.items()},
        "rows": rows,
    }


def _row(document: dict[str, Any], names: dict[str, dict[str, int]]) -> list[Any]:
    row = [_cell(column, document[column], names) for column in COLUMNS]
    while row and row[-1] is None:
        row.pop()
    return row


def _cell(column: str, value: Any, names: dict[str, dict[str, int]]) -> Any:
    if column == "synthetic":
        return value or None  # of most documents there is nothing to say
    if column == "fate":
        return FATES.index(value)
    if isinstance(value, str):
        value = _shown(value)
    if column in NAMED and value is not None:
        return names[column].setdefault(value, len(names[column]))
    return round(value, 6) if isinstance(value, float) else value


def _shown(text: str) -> str:
    """`text` in one line, without what could steer or reorder what is shown, cut."""
    line = " ".join(plain(text).split())
    return line if len(line) <= MOST_LETTERS else f"{line[: MOST_LETTERS - 1]}…"
