"""Markdown of text that may be hostile: a licence, a domain or a name comes out of the data."""

import textwrap
from collections.abc import Iterable, Sequence

from lineage.export.facts import UNKNOWN
from lineage.plain import plain
from stages.pretrain import card

WIDTH = 118


def paragraph(text: str) -> list[str]:
    """The lines of a paragraph."""
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table; what is None is unknown, and numbers have their thousands apart."""
    return card.table(head, [[shown(value) for value in row] for row in rows])


def line(value: object) -> str:
    """`value` on one line, without control characters, Markdown or HTML."""
    return card.cell(shown(value))


def shown(value: object) -> str:
    """`value` as people read it."""
    match value:
        case None:
            return UNKNOWN
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case _:
            return plain(str(value))


def share(part: float | None, whole: float | None) -> str | None:
    """A part of a whole in percent; None if either is unknown."""
    return None if part is None or not whole else f"{part / whole:.1%}"
