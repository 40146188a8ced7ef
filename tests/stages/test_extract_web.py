"""Pages of the web are read, one in a file or many in a WARC, and what is broken costs only itself."""

import gzip
import re

import pytest
from reading import PACKERS, found_in, read, shown

from stages.extract.records import Found, Record, Unreadable

PROSE = "This is the main content of a page, and it is long enough to be taken for it. " * 5
NAVIGATION = "<nav><a href=/>Home</a></nav>"
PAGE = f"<html><head><title>A title</title></head><body>{NAVIGATION}<main><p>{PROSE}</p><ul><li>x</ul></main>"


def test_the_main_content_of_a_page_is_taken_and_its_title(tmp_path):
    ((_, found),) = found_in(tmp_path, {"a.html": PAGE.encode()})

    assert isinstance(found, Record)
    assert found.text.startswith(PROSE.strip())
    assert "Home" not in found.text
    assert found.meta == {"title": "A title"}


@pytest.mark.parametrize(
    "content",
    [
        "<meta charset=iso-8859-1><p>déjà vu".encode("latin-1"),
        "<meta charset=nonsense><p>déjà vu".encode(),
        "\ufeff<p>déjà vu".encode("utf-8"),
        "<p>déjà vu".encode(),
    ],
)
def test_a_page_is_decoded_by_what_it_says_or_seems(tmp_path, content):
    assert read(tmp_path, {"a.html": content}) == [("a.html", "déjà vu")]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"", ""),
        (b"\0\xff\xfe", None),
        (b"<" * 5000, None),
        (b"<div>" * 400 + b"deep", "deep"),
        (b"<div>" * 50_000 + b"too deep", "!unreadable"),
        (b"<div></p>" * 50_000 + b"too deep", "!unreadable"),
        (b"<p>flat" * 50_000, "\n\n".join(["flat"] * 50_000)),
    ],
)
@pytest.mark.timeout(60)
def test_no_page_takes_long_or_is_an_exception(tmp_path, content, shown):
    ((origin, found),) = read(tmp_path, {"a.html": content})

    assert origin == "a.html"
    assert shown is None or found == shown


def response(
    number: int, body: bytes = PAGE.encode(), head: str = "200 OK\r\nContent-Type: text/html; charset=utf-8"
) -> bytes:
    http = f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    return (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a/{number}\r\nWARC-Date: 2024-05-06T07:08:09Z\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    ).encode() + http + b"\r\n\r\n"  # fmt: skip


def numbers_and_rules(found: list[tuple[str, Found]]) -> list[str]:
    """`2` for the document of http://a/2, `!rule` for what is unreadable."""
    return [f"!{it.rule}" if isinstance(it, Unreadable) else it.meta["url"][-1] for _, it in found]


def test_html_answers_of_a_warc_are_documents_with_url_and_date(tmp_path):
    warcinfo = response(9).replace(b"WARC-Type: response", b"WARC-Type: warcinfo")

    found = found_in(tmp_path, {"a.warc.gz": b"".join(map(gzip.compress, (warcinfo, response(0), response(1))))})

    assert [origin for origin, _ in found] == ["a.warc.gz#0", "a.warc.gz#1"]
    assert found[0][1].text.startswith(PROSE.strip())
    assert found[1][1].date == "2024-05-06T07:08:09Z"
    assert found[1][1].meta == {"url": "http://a/1", "title": "A title"}


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (response(1, head="404 Not Found\r\nContent-Type: text/html"), "!http_status"),
        (response(1, b"{}", head="200 OK\r\nContent-Type: application/json"), "!not_html"),
        (response(1, b"x" * 20_000), "!oversized"),
        (response(1).replace(b"HTTP/1.1 200 OK", b"nonsense is this"[:15]), "!http_status"),
    ],
)
def test_other_answers_are_unreadable_by_a_rule(tmp_path, bad, rule):
    found = found_in(tmp_path, {"a.warc": response(0) + bad + response(2)}, max_document_bytes=10_000)

    assert numbers_and_rules(found) == ["0", rule, "2"]


def test_packed_answers_are_unpacked(tmp_path):
    packed = response(0, gzip.compress(PAGE.encode()), "200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip")

    ((_, found),) = found_in(tmp_path, {"a.warc": packed})

    assert found.text.startswith(PROSE.strip())


def test_an_unknown_charset_is_no_trouble(tmp_path):
    page = response(0, head="200 OK\r\nContent-Type: text/html; charset=nonsense")

    assert numbers_and_rules(found_in(tmp_path, {"a.warc": page})) == ["0"]


def test_after_a_broken_record_the_rest_of_a_warc_is_read(tmp_path):
    broken = b"WARC/what?\r\n\r\n"

    found = found_in(tmp_path, {"a.warc": response(0) + broken + response(2) + response(3)})

    assert numbers_and_rules(found) == ["0", "!unreadable", "2", "3"]
    assert [origin for origin, _ in found] == [f"a.warc#{number}" for number in range(4)]


def test_after_a_broken_member_the_rest_of_a_packed_warc_is_read(tmp_path):
    members = [bytearray(gzip.compress(response(number))) for number in range(4)]
    members[1][40:80] = bytes(40)

    found = found_in(tmp_path, {"a.warc.gz": b"".join(members)})

    assert numbers_and_rules(found) == ["0", "!unreadable", "2", "3"]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_last_record_of_a_truncated_warc_is_unreadable(tmp_path, pack):
    content = pack(response(0)) + pack(response(1))[:-60]

    found = found_in(tmp_path, {"a.warc.gz": content})

    assert numbers_and_rules(found) == ["0", "!truncated"]


@pytest.mark.parametrize("length", [b"1", b"60", b"99999", b"-5", b"x", b"9" * 40, b""])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_wrong_length_costs_its_record_and_no_other(tmp_path, pack, length):
    bad = re.sub(rb"(?<=msgtype=response\r\nContent-Length: )\d+", length, response(1))

    found = numbers_and_rules(found_in(tmp_path, {"a.warc.gz": pack(response(0)) + pack(bad) + pack(response(2))}))

    assert (found[0], found[-1]) == ("0", "2")
    assert len(found) > 2


@pytest.mark.parametrize("ending", [".zst", ".bz2", ".xz", ""])
def test_a_warc_is_read_in_any_packing_and_after_a_broken_record(tmp_path, ending):
    content = PACKERS[ending](response(0) + b"WARC/what?\r\n\r\n" + response(2))

    found = numbers_and_rules(found_in(tmp_path, {f"a.warc{ending}": content}))

    assert found == ["0", "!unreadable", "2"]


CONVERSION = (
    "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://a/{}\r\nWARC-Date: 2024-05-06T07:08:09Z\r\n"
    "Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n"
)


def conversion(number: int, text: bytes) -> bytes:
    return CONVERSION.format(number, len(text)).encode() + text + b"\r\n\r\n"


def test_the_texts_of_a_wet_are_documents_with_url_and_date(tmp_path):
    texts = ["語 one".encode(), b"latin \xe9", b"x" * 200, b"last"]
    content = b"".join(gzip.compress(conversion(number, text)) for number, text in enumerate(texts))

    found = found_in(tmp_path, {"a.warc.wet.gz": content}, max_document_bytes=100)

    assert [shown(each) for _, each in found] == ["語 one", "!invalid_utf8", "!oversized", "last"]
    meta = {"url": "http://a/0"}
    assert found[0] == ("a.warc.wet.gz#0", Record("語 one", 0, date="2024-05-06T07:08:09Z", meta=meta))


@pytest.mark.parametrize("cut", [1, 20, 70, 120])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_end_of_a_truncated_wet_is_told(tmp_path, pack, cut):
    content = pack(conversion(0, b"a text")) + pack(conversion(1, b"the last text"))[:-cut]

    found = [shown(each) for _, each in found_in(tmp_path, {"a.wet": content})]
    assert (found[0], found[-1]) == ("a text", "!truncated")


@pytest.mark.parametrize("content", [b"", b"no warc at all" * 100, bytes(1000)])
def test_what_is_no_warc_gives_no_document(tmp_path, content):
    found = numbers_and_rules(found_in(tmp_path, {"a.warc": content}))

    assert found in ([], ["!unreadable"], ["!truncated"])
