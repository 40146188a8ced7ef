"""What readers yield: one Record for each text they find, one Unreadable for each they can't make a text of."""

import errno
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

from lxml import etree

from stages.extract.params import ExtractParams
from stages.params import Refusal


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


class Rejected(Exception):
    """Raised where input is refused by a rule of its own."""

    def __init__(self, rule: str, detail: str):
        super().__init__(rule, detail)
        self.rule, self.detail = rule, detail


class Part(NamedTuple):
    """A range of a large file: of bytes (the lines, rows or members that begin there), or of row groups."""

    begin: int
    end: int
    first: int  # number of its first record in the file; 0 where records have none


Sized = tuple[int, Part]  # its bytes, and the part
Found = Record | Unreadable

# A reader gets the decompressed bytes, the file's name without folders, and the parameters. Of bad input
# it yields an Unreadable, and goes on with what can still be read; where nothing can, it may raise.
Reader = Callable[[IO[bytes], str, ExtractParams], Iterator[Found]]


def known(**facts: str | None) -> dict[str, str]:
    """The facts that have a value."""
    return {name: value for name, value in facts.items() if value}


def tried(read: Callable[[], Found], number: int) -> Found:
    """What `read` gives of record `number`, or why that record, alone, can't be read."""
    try:
        return read()
    # Parsers raise what they like on hostile input; one record must not cost the others.
    except Exception as error:
        return unreadable(error, number)


class Guarded:
    """`found`, and if reading breaks, one Unreadable that says where and why.

    Like what else passes records on, it holds none: a text may be large, and is cleaned and measured meanwhile.
    """

    def __init__(self, found: Iterator[Found]):
        self.found: Iterator[Found] | None = found
        self.number: int | None = None

    def __iter__(self) -> "Guarded":
        return self

    def __next__(self) -> Found:
        if self.found is None:
            raise StopIteration
        try:
            each = next(self.found)
        except StopIteration:
            raise
        except Exception as error:
            self.found = None
            return unreadable(error, None if self.number is None else self.number + 1)
        self.number = each.number
        return each


def unreadable(error: Exception, number: int | None) -> Unreadable:
    """What `error`, raised while record `number` was read, says about the input; raised again if it says nothing."""
    # A number in broken input can send a reader before the beginning of its file: EINVAL.
    of_system = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
    if of_system or isinstance(error, MemoryError | Refusal):
        raise error  # the machine's trouble, or the source's, not the input's
    if isinstance(error, Rejected):
        return Unreadable(error.rule, error.detail, number)
    detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, etree.XMLSyntaxError):
        return Unreadable("broken_xml", detail, number)
    if isinstance(error, EOFError | zlib.error | zipfile.BadZipFile | tarfile.TarError | lzma.LZMAError):
        return Unreadable("truncated", detail, number)
    return Unreadable("unreadable", detail, number)
