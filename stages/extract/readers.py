"""Read the formats that hold a text as it stands: a file, a line of JSON, a row of CSV."""

import csv
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import IO, Any, cast

from stages.extract.columns import from_columns
from stages.extract.encodings import as_utf8, decoded
from stages.extract.jats import read_jats
from stages.extract.language import programming_language
from stages.extract.params import ExtractParams
from stages.extract.parquet import read_parquet, read_part_of_parquet
from stages.extract.parts import PartOfLines
from stages.extract.records import Found, Part, Reader, Record, Rejected, Unreadable
from stages.extract.web import read_html, read_warc, read_wet
from stages.extract.wiki import read_mediawiki

READ_BYTES = 1 << 20


def read_text(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """The whole file as one document; Markdown and reStructuredText keep their markup."""
    yield Record(decoded(whole(stream, params.max_document_bytes)))


def whole(stream: IO[bytes], max_bytes: int) -> bytes:
    """All of `stream`, which is refused if it is more than `max_bytes`."""
    content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise Rejected("oversized", f"more than {max_bytes} bytes")
    return content


def read_code(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """The whole file as one document in a programming language."""
    for found in read_text(stream, name, params):
        yield found._replace(language=programming_language(name)) if isinstance(found, Record) else found


# ---- lines --------------------------------------------------------------------------------------------------


def read_jsonl(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """One document for each line, a JSON object."""
    return parse_lines(as_utf8(stream), params, 0)


def read_part_of_jsonl(stream: IO[bytes], params: ExtractParams, part: Part) -> Iterator[Found]:
    """One document for each line that begins in a part of the file."""
    return parse_lines(PartOfLines(stream, part), params, part.first)


def parse_lines(stream: Any, params: ExtractParams, first: int) -> Iterator[Found]:
    """The document of each line of `stream`, the first of which has the number `first`."""
    lines = Lines(stream, params.max_document_bytes)
    return filter(None, map(partial(_found_in, params), count(first), lines))


def _found_in(params: ExtractParams, number: int, line: bytes | None) -> Found | None:
    """The document of a line, why there is none, or nothing if the line is blank."""
    if line is None:
        return Unreadable("oversized", f"more than {params.max_document_bytes} bytes", number)
    return parse_line(line, number, params) if line.strip() else None


class Lines:
    """The lines of `stream`; None for one that is longer than `max_bytes`, which is never held whole."""

    def __init__(self, stream: Any, max_bytes: int):
        self.stream, self.max_bytes = stream, max_bytes

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> bytes | None:
        line = self.stream.readline(self.max_bytes + 1)
        if not line:
            raise StopIteration
        if len(line) <= self.max_bytes or line.endswith(b"\n"):
            return cast(bytes, line)
        while line and not line.endswith(b"\n"):
            line = self.stream.readline(READ_BYTES)
        return None


def parse_line(line: bytes, number: int, params: ExtractParams) -> Found:
    """The document in a line of JSON, or why there is none."""
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Unreadable("invalid_utf8", f"byte {error.start}: {error.reason}", number)
    except (ValueError, RecursionError) as error:
        return Unreadable("invalid_json", str(error), number)
    if not isinstance(values, dict):
        return Unreadable("invalid_json", "not an object", number)
    return from_columns(values, number, params)


# ---- CSV ----------------------------------------------------------------------------------------------------


def read_csv(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """One document for each row after the first, which names the columns. A file `*.tsv` has tabs for commas."""
    csv.field_size_limit(params.max_document_bytes)
    rows = csv.reader(
        _TextLines(as_utf8(stream), params.max_document_bytes), delimiter="\t" if name.lower().endswith(".tsv") else ","
    )
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise Rejected("invalid_csv", f"the header: {error}") from None
    for number, row in enumerate(_rows_of_csv(rows)):
        yield row._replace(number=number) if isinstance(row, Unreadable) else parse_row(header, row, number, params)


def _rows_of_csv(rows: Iterator[list[str]]) -> Iterator[list[str] | Unreadable]:
    """The rows that aren't blank, and in place of each that is none, why."""
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Unreadable("invalid_csv", str(error))
        except Rejected as error:
            yield Unreadable(error.rule, error.detail)
        else:
            if row:
                yield row


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


def parse_row(header: list[str], row: list[str], number: int, params: ExtractParams) -> Found:
    """The document in a row of CSV, or why there is none."""
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return Unreadable("invalid_utf8", "", number)
    if len(row) != len(header):
        return Unreadable("invalid_csv", f"{len(row)} fields, the header has {len(header)}", number)
    return from_columns(dict(zip(header, row, strict=True)), number, params)


READERS: dict[str, Reader] = {
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "csv": read_csv,
    "text": read_text,
    "markdown": read_text,
    "rst": read_text,
    "html": read_html,
    "warc": read_warc,
    "wet": read_wet,
    "mediawiki": read_mediawiki,
    "jats": read_jats,
    "code": read_code,
}

# Of the formats in stages.extract.parts.PARTS.
PART_READERS: dict[str, Callable[[IO[bytes], ExtractParams, Part], Iterator[Found]]] = {
    "jsonl": read_part_of_jsonl,
    "parquet": read_part_of_parquet,
}
