"""Read CSV, whole or in parts that end with a row: only who reads the rows before knows where one ends."""

import csv
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import IO

from stages.extract.columns import from_columns
from stages.extract.encodings import UTF_16, as_utf8
from stages.extract.lines import Lines
from stages.extract.params import ExtractParams
from stages.extract.records import Found, Part, Rejected, Sized, Unreadable


def read_csv(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """One document for each row after the first, which names the columns. A file `*.tsv` has tabs for commas."""
    rows = Rows(as_utf8(stream), name, params.max_document_bytes)
    return map(partial(_found_in, rows.header, params), count(), rows)


def read_part_of_csv(stream: IO[bytes], name: str, params: ExtractParams, part: Part) -> Iterator[Found]:
    """One document for each row that begins in a part of the file."""
    rows = Rows(stream, name, params.max_document_bytes)
    rows.go_to(part)
    return map(partial(_found_in, rows.header, params), count(part.first), rows)


def csv_parts(path: Path, size: int, params: ExtractParams) -> list[Sized]:
    """Ranges of bytes that end with the row which fills `shard_bytes`. None of UTF-16, or without a header.

    The rows are read for it, in one process, as a line's end may stand in a field: a fortieth of the time that it takes
    to extract them. Each begins afresh, also after one that is broken, so that a part has those of the whole file.
    """
    with path.open("rb") as file:
        if file.peek(2)[:2] in UTF_16:
            return []
        try:
            rows = Rows(file, path.name, params.max_document_bytes)
        except Rejected:
            return []
        begins = [(file.tell(), 0)]
        for number, _ in enumerate(rows, start=1):
            if (position := file.tell()) >= begins[-1][0] + params.shard_bytes:
                begins.append((position, number))
    if begins[-1][0] < size:
        begins.append((size, 0))
    return [(end - begin, Part(begin, end, first)) for (begin, first), (end, _) in pairwise(begins)]


class Rows:
    """The rows of `stream` that aren't blank, and in place of each that is none, why; the first one is the header.

    Raises:
        Rejected: if it has no header that can be read.
    """

    def __init__(self, stream: IO[bytes], name: str, max_bytes: int):
        self.stream, self.end = stream, sys.maxsize
        csv.field_size_limit(max_bytes)
        delimiter = "\t" if name.lower().endswith(".tsv") else ","
        self.rows = csv.reader(_TextLines(stream, max_bytes), delimiter=delimiter)
        try:
            self.header = next(self.rows, [])
        except csv.Error as error:
            raise Rejected("invalid_csv", f"the header: {error}") from None

    def go_to(self, part: Part) -> None:
        """Go on with the rows that begin in `part`."""
        self.stream.seek(part.begin)
        self.end = part.end

    def __iter__(self) -> "Rows":
        return self

    def __next__(self) -> list[str] | Unreadable:
        if self.end < sys.maxsize and self.stream.tell() >= self.end:
            raise StopIteration
        try:
            while not (row := next(self.rows)):
                pass
        except csv.Error as error:
            return Unreadable("invalid_csv", str(error))
        except Rejected as error:
            return Unreadable(error.rule, error.detail)
        return row


class _TextLines:
    """The lines of `stream` as text, for csv; bytes that aren't UTF-8 become lone surrogates.

    csv asks for the next line after an error, where a generator would have ended.
    """

    def __init__(self, stream: IO[bytes], max_bytes: int):
        self.lines, self.max_bytes, self.codec = Lines(stream, max_bytes), max_bytes, "utf-8-sig"

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        if line is None:
            raise Rejected("oversized", f"more than {self.max_bytes} bytes")
        text, self.codec = line.decode(self.codec, "surrogateescape"), "utf-8"
        return text


def _found_in(header: list[str], params: ExtractParams, number: int, row: list[str] | Unreadable) -> Found:
    """The document in a row, or why there is none."""
    if isinstance(row, Unreadable):
        return row._replace(number=number)
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return Unreadable("invalid_utf8", "", number)
    if len(row) != len(header):
        return Unreadable("invalid_csv", f"{len(row)} fields, the header has {len(header)}", number)
    return from_columns(dict(zip(header, row, strict=True)), number, params)
