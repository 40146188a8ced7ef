"""Read the formats that hold a text as it stands: a file, or a line of JSON."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import IO, Any

from stages.extract.columns import from_columns
from stages.extract.delimited import read_csv, read_part_of_csv
from stages.extract.encodings import as_utf8, decoded
from stages.extract.jats import read_jats
from stages.extract.language import programming_language
from stages.extract.lines import Lines, PartOfLines
from stages.extract.params import ExtractParams
from stages.extract.parquet import read_parquet, read_part_of_parquet
from stages.extract.records import Found, Part, Reader, Record, Rejected, Unreadable
from stages.extract.web import read_html, read_warc, read_wet
from stages.extract.wiki import read_mediawiki


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


def read_part_of_jsonl(stream: IO[bytes], name: str, params: ExtractParams, part: Part) -> Iterator[Found]:
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
PART_READERS: dict[str, Callable[[IO[bytes], str, ExtractParams, Part], Iterator[Found]]] = {
    "csv": read_part_of_csv,
    "jsonl": read_part_of_jsonl,
    "parquet": read_part_of_parquet,
}
