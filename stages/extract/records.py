"""What readers yield: one Record for each text they find, one Unreadable for each they can't make a text of."""

from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

from stages.extract.params import ExtractParams


class Record(NamedTuple):
    """A text as it was read, before cleaning, and what the format tells of it."""

    text: str
    number: int | None = None  # position in the file, from 0; None where a file is one record
    license: str | None = None
    date: str | None = None
    language: str | None = None  # only where it needs no detection: a programming language
    meta: dict[str, Any] = {}  # noqa: RUF012 -- never changed


class Unreadable(NamedTuple):
    """Input of which no text could be made, and by which rule."""

    rule: str
    detail: str = ""
    number: int | None = None


Found = Record | Unreadable

# A reader gets the decompressed bytes, the file's name without folders, and the parameters. It never
# raises on bad input: it yields an Unreadable, and goes on with what can still be read.
Reader = Callable[[IO[bytes], str, ExtractParams], Iterator[Found]]
