"""Read the formats that hold a text as it stands: a file, a line of JSON, a row of Parquet."""

import json
from collections.abc import Iterator
from typing import IO, Any

import pyarrow.parquet

from stages.extract.jats import read_jats
from stages.extract.language import programming_language
from stages.extract.params import ExtractParams
from stages.extract.records import Found, Reader, Record, Unreadable, known
from stages.extract.web import read_html, read_warc
from stages.extract.wiki import read_mediawiki


def read_text(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """The whole file as one document; Markdown and reStructuredText keep their markup."""
    content = stream.read(params.max_document_bytes + 1)
    if len(content) > params.max_document_bytes:
        yield Unreadable("oversized", f"more than {params.max_document_bytes} bytes")
        return
    try:
        yield Record(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        yield Unreadable("invalid_utf8", f"byte {error.start}: {error.reason}")


def read_code(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """The whole file as one document in a programming language."""
    for found in read_text(stream, name, params):
        yield found._replace(language=programming_language(name)) if isinstance(found, Record) else found


def read_jsonl(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """One document for each line, a JSON object."""
    for number, line in enumerate(_lines(stream, params.max_document_bytes)):
        if line is None:
            yield Unreadable("oversized", f"more than {params.max_document_bytes} bytes", number)
        elif line.strip():
            yield parse_line(line, number, params)


def _lines(stream: IO[bytes], max_bytes: int) -> Iterator[bytes | None]:
    """The lines of `stream`; None for one that is longer than `max_bytes`, which is never held whole."""
    while line := stream.readline(max_bytes + 1):
        if len(line) <= max_bytes or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(max_bytes + 1)
        yield None


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


def from_columns(values: dict[str, Any], number: int, params: ExtractParams) -> Found:
    """The document in a row, by the columns that the parameters name."""
    text = values.get(params.text_column)
    if not isinstance(text, str):
        return Unreadable("no_text", f"column {params.text_column} holds {type(text).__name__}", number)
    return Record(
        text,
        number,
        license=_value(values, params.license_column),
        date=_value(values, params.date_column),
        language=_value(values, params.language_column),
        meta=known(id=_value(values, params.id_column), url=_value(values, params.url_column)),
    )


def _value(values: dict[str, Any], column: str | None) -> str | None:
    value = values.get(column) if column else None
    if value is None:
        return None
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)


def read_parquet(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """One document for each row."""
    file = pyarrow.parquet.ParquetFile(stream)
    columns = [column for column in file.schema_arrow.names if column in params.columns()]
    number = 0
    for batch in file.iter_batches(batch_size=256, columns=columns):
        for row in batch.to_pylist():
            yield from_columns(row, number, params)
            number += 1


READERS: dict[str, Reader] = {
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "text": read_text,
    "markdown": read_text,
    "rst": read_text,
    "html": read_html,
    "warc": read_warc,
    "mediawiki": read_mediawiki,
    "jats": read_jats,
    "code": read_code,
}
