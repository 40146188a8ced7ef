"""Read web pages, one in a file or many in a WARC archive.

The main content of a page is taken by Resiliparse (Bevendorff et al. 2018, doi:10.1007/978-3-319-76941-7_83).
"""

import io
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any

import numpy as np
from fastwarc.warc import ArchiveIterator, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import HTMLTree, traverse_dom

from stages.extract.encodings import decoded
from stages.extract.opt_out import opt_out
from stages.extract.params import ExtractParams
from stages.extract.records import Found, Record, Unreadable, known, tried, unreadable

HTML_TYPES = ("text/html", "application/xhtml+xml")
RECORD_END = b"\r\n\r\n"
GZIP_MEMBER, WARC_RECORD = b"\x1f\x8b\x08", b"WARC/1."
SEARCH_BYTES = 1 << 20
MAX_OVERLONG = 16  # records of a file that claim to go on past its end; each is a read to the end

# Browsers show 512 levels. Finding the main content takes time by the square of the depth: 5 s for 10,000.
MAX_DEPTH = 512
MANY_TAGS = 10_000


def read_html(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """The main content of one page, in whatever encoding it says or seems to be."""
    content = stream.read(params.max_document_bytes + 1)
    if len(content) > params.max_document_bytes:
        yield Unreadable("oversized", f"more than {params.max_document_bytes} bytes")
        return
    text, title = read_page(content, None)
    yield Record(text, meta=known(title=title))


def read_page(content: bytes, charset: str | None) -> tuple[str, str | None]:
    """The main content of a page, lists and preformatted text as they stand, and its title.

    Raises:
        ValueError: if the page is nested deeper than a browser would show it.
    """
    encoding = map_encoding_to_html5(charset) if charset else detect_encoding(content, from_html_meta=True)
    html = bytes_to_str(content, encoding or "utf-8")
    tree = HTMLTree.parse(html)
    if may_be_deep(html) and tree.body is not None:
        traverse_dom(tree.body, _refuse_deep, elements_only=True)
    return extract_plain_text(tree, main_content=True, alt_texts=False), tree.title


def may_be_deep(html: str) -> bool:
    """If a page might be nested deeper than MAX_DEPTH; to be sure costs more than to extract an ordinary page."""
    marks = np.frombuffer(html.encode("utf-8", "replace"), np.uint8)
    begins = np.flatnonzero(marks[:-1] == ord("<"))
    depth = np.cumsum(np.where(marks[begins + 1] == ord("/"), -1, 1))
    return len(begins) > MANY_TAGS or bool(depth.max(initial=0) > MAX_DEPTH)


def _refuse_deep(context: Any) -> None:
    if context.depth > MAX_DEPTH:
        raise ValueError(f"elements are nested deeper than {MAX_DEPTH}")


def read_warc(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """The main content of each HTML page that was answered with success; url and date beside it."""
    return read_records(stream, WarcRecordType.response, params, read_response)


def read_wet(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """The text that a crawler made of each page (Common Crawl's WET: conversion records); url and date beside it."""
    return read_records(stream, WarcRecordType.conversion, params, read_conversion)


def read_records(stream: IO[bytes], kind: Any, params: ExtractParams, read: Callable[..., Found]) -> Iterator[Found]:
    """What `read` makes of each record of a `kind`.

    After a broken record, it goes on with the next one that can be found.
    """
    number, position, start, overlong = 0, -1, 0, 0
    found: Found | None = None
    while True:
        begun = number
        try:
            for record in _records(stream, kind):
                position = record.stream_pos
                found = tried(partial(read, record, number, params), number)
                yield found
                number += 1
            if not is_truncated(found):
                if is_cut_off(stream, position):
                    yield Unreadable("truncated", "the last record is not whole", number)
                return
            # A length that is too large takes in the records that follow.
            found, overlong = None, overlong + 1
            if overlong > MAX_OVERLONG:
                return
        except OSError as error:
            # Of a broken record that comes first after a search, it was told before.
            if number > begun or start == 0:
                yield unreadable(error, number)
                number += 1
        start = next_record(stream, max(position, start) + 1)
        if start < 0:
            return
        stream.seek(start)


def is_truncated(found: Found | None) -> bool:
    """If the file ended before the record did."""
    return isinstance(found, Unreadable) and found.rule == "truncated"


def _records(stream: IO[bytes], kind: Any) -> Any:
    return ArchiveIterator(stream, record_types=kind, parse_http=True, auto_decode="all")


def is_cut_off(stream: IO[bytes], position: int) -> bool:
    """If a WARC ends in the middle of something; `position` is where its last known record begins, -1 if none is.

    FastWARC takes a record that breaks off in its head for the end.
    """
    if not stream.seekable() or stream.seek(0, io.SEEK_END) == 0:
        return False
    stream.seek(0)
    if stream.read(len(GZIP_MEMBER)) == GZIP_MEMBER:
        return is_cut_off_in_gzip(stream, position)
    stream.seek(max(stream.seek(0, io.SEEK_END) - len(RECORD_END), 0))
    return stream.read() != RECORD_END


def is_cut_off_in_gzip(stream: IO[bytes], position: int) -> bool:
    """If the last gzip member isn't whole, or doesn't end as a record does."""
    stream.seek(max(position, 0))
    if stream.read(len(GZIP_MEMBER)) != GZIP_MEMBER:  # all records in one member
        position = 0
    stream.seek(max(position, 0))
    unpacker, tail = zlib.decompressobj(31), b""
    try:
        while block := unpacker.unused_data or stream.read(SEARCH_BYTES):
            if unpacker.eof:
                unpacker = zlib.decompressobj(31)
            tail = (tail + unpacker.decompress(block))[-len(RECORD_END) :]
    except zlib.error:
        return True
    return not unpacker.eof or tail != RECORD_END


def next_record(stream: IO[bytes], start: int) -> int:
    """Where, from byte `start` on, the next WARC record may begin; -1 if nowhere, or if `stream` can't seek."""
    if not stream.seekable():
        return -1
    stream.seek(0)
    mark = GZIP_MEMBER if stream.read(len(GZIP_MEMBER)) == GZIP_MEMBER else WARC_RECORD
    stream.seek(start)
    overlap = b""
    while block := stream.read(SEARCH_BYTES):
        found = (overlap + block).find(mark)
        if found >= 0:
            return start - len(overlap) + found
        start, overlap = start + len(block), (overlap + block)[1 - len(mark) :]
    return -1


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
    # FastWARC takes the end of the file for the end of the record. (Packed content has another length.)
    if len(content) < record.content_length and "Content-Encoding" not in record.http_headers:
        return Unreadable("truncated", f"{len(content)} of {record.content_length} bytes {url}", number)
    if params.honour_opt_out and (signal := opt_out(record.http_headers.astuples(), content)):
        return Unreadable("opted_out", f"{signal} {url}", number)
    date = date_of(record)
    text, title = read_page(content, record.http_charset)
    return Record(text, number, date=date, meta=known(url=url, title=title))


def date_of(record: Any) -> str | None:
    """When a WARC record was made, in UTC, if it says so."""
    return record.record_date.strftime("%Y-%m-%dT%H:%M:%SZ") if record.record_date else None


def read_conversion(record: Any, number: int, params: ExtractParams) -> Found:
    """The document of a WARC conversion record, or why there is none."""
    url = record.headers.get("WARC-Target-URI") or ""
    content = record.reader.read(params.max_document_bytes + 1)
    if len(content) > params.max_document_bytes:
        return Unreadable("oversized", f"more than {params.max_document_bytes} bytes {url}", number)
    if len(content) < record.content_length:
        return Unreadable("truncated", f"{len(content)} of {record.content_length} bytes {url}", number)
    return Record(decoded(content), number, date=date_of(record), meta=known(url=url))
