"""Read the formats that hold one text in a file, or one in each line, row or web page.

Of HTML, the main content is taken by Resiliparse (Bevendorff et al. 2018, doi:10.1007/978-3-319-76941-7_83).
"""

import json
from collections.abc import Iterator
from typing import IO, Any

import pyarrow.parquet
from fastwarc.warc import ArchiveIterator, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import HTMLTree

from stages.extract.jats import read_jats
from stages.extract.language import programming_language
from stages.extract.params import ExtractParams
from stages.extract.records import Found, Reader, Record, Unreadable
from stages.extract.wiki import read_mediawiki

HTML_TYPES = ("text/html", "application/xhtml+xml")


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


def read_html(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """The main content of one page, in whatever encoding it says or seems to be."""
    content = stream.read(params.max_document_bytes + 1)
    if len(content) > params.max_document_bytes:
        yield Unreadable("oversized", f"more than {params.max_document_bytes} bytes")
        return
    text, title = read_page(content, None)
    yield Record(text, meta=_known(title=title))


def read_page(content: bytes, encoding: str | None) -> tuple[str, str | None]:
    """The main content of a page, lists and preformatted text as they stand, and its title."""
    html = bytes_to_str(content, encoding or detect_encoding(content, from_html_meta=True) or "utf-8")
    tree = HTMLTree.parse(html)
    return extract_plain_text(tree, main_content=True, alt_texts=False), tree.title


def _known(**facts: str | None) -> dict[str, str]:
    """The facts that have a value."""
    return {name: value for name, value in facts.items() if value}


def read_warc(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """The main content of each HTML page that was answered with success; url and date beside it."""
    archive = ArchiveIterator(stream, record_types=WarcRecordType.response, parse_http=True)
    for number, record in enumerate(archive):
        yield read_response(record, number, params)


def read_response(record: Any, number: int, params: ExtractParams) -> Found:
    """The document of a WARC response, or why there is none."""
    url = record.headers.get("WARC-Target-URI") or ""
    status = record.http_headers.status_code if record.http_headers else None
    if status is None or not 200 <= status < 300:
        return Unreadable("http_status", f"{status} {url}", number)
    if record.http_content_type not in HTML_TYPES:
        return Unreadable("not_html", f"{record.http_content_type} {url}", number)
    content = record.reader.read(params.max_document_bytes + 1)
    if len(content) > params.max_document_bytes:
        return Unreadable("oversized", f"more than {params.max_document_bytes} bytes {url}", number)
    date = record.record_date.strftime("%Y-%m-%dT%H:%M:%SZ") if record.record_date else None
    text, title = read_page(content, record.http_charset)
    return Record(text, number, date=date, meta=_known(url=url, title=title))


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
        meta=_known(id=_value(values, params.id_column), url=_value(values, params.url_column)),
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
