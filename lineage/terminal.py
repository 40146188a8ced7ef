"""What lineage shows in a terminal: tables of text that may be from the web."""

import sys
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table

from lineage.plain import plain

UNKNOWN = "–"


def console() -> Console:
    """Where answers go: no markup and no emoji, for what comes from the web is shown as it is."""
    return Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else 120)


def marked(name: str, synthetic: bool) -> str:
    """`name`, and whether a language model wrote what is called so."""
    return f"{name} (synthetic)" if synthetic else name


def tables(title: str, columns: Sequence[str], rows: Iterable[tuple[str, ...]], numbers: int = 0) -> Iterator[Table]:
    """A table of `rows`, or none if there are no rows; the last `numbers` columns are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place >= len(columns) - numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    if table.row_count:
        yield table
