"""Pages whose publishers opt out are left out, with the signal in the ledger."""

import io

import pytest

from stages.extract.opt_out import opt_out
from stages.extract.params import ExtractParams
from stages.extract.records import Record, Unreadable
from stages.extract.web import read_warc


@pytest.mark.parametrize(
    ("headers", "page", "signal"),
    [
        ([], "<p>open</p>", None),
        ([("X-Robots-Tag", "noai")], "", "x-robots-tag: noai"),
        ([("x-robots-tag", "nofollow, NoIndex")], "", "x-robots-tag: nofollow, NoIndex"),
        ([("X-Robots-Tag", "nofollow"), ("X-Robots-Tag", "none")], "", "x-robots-tag: none"),
        ([("X-Robots-Tag", "googlebot: noindex")], "", None),
        ([("X-Robots-Tag", "max-snippet: 0, noarchive")], "", None),
        ([("TDM-Reservation", "1")], "", "tdm-reservation: 1"),
        ([("tdm-reservation", "0")], "", None),
        ([], '<meta name="robots" content="noai, noimageai">', "robots: noai, noimageai"),
        ([], "<META CONTENT='noindex' NAME='ROBOTS'/>", "robots: noindex"),
        ([], "<meta name=robots content=none>", "robots: none"),
        ([], '<meta name="tdm-reservation" content="1">', "tdm-reservation: 1"),
        ([], '<meta name="robots" content="index, follow">', None),
        ([], '<!-- <meta name="robots" content="noai"> -->', None),
        ([], '<meta name="description" content="noai robots">', None),
        ([], "<p>robots noai</p>", None),
        ([], "robots" + " " * (1 << 16) + '<meta name="robots" content="noai">', None),
        ([], '<meta name="robots"' + '<meta name="robots"' * 3000, None),
    ],
)
def test_an_opt_out_is_read_in_headers_and_page(headers, page, signal):
    assert opt_out(headers, page.encode()) == signal


def archive(*heads: str) -> bytes:
    """A WARC with one page for each piece of an HTTP header."""
    records = []
    for number, head in enumerate(heads):
        page = f"<html><body><p>{'A page of the web. ' * 20}</p></body></html>"
        answer = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{head}Content-Length: {len(page)}\r\n\r\n{page}"
        records.append(
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a/{number}\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(answer)}\r\n\r\n{answer}\r\n\r\n"
        )
    return "".join(records).encode()


@pytest.mark.parametrize("honour", [True, False])
def test_the_switch_says_if_an_opt_out_is_honoured(honour):
    warc = archive("", "X-Robots-Tag: noai\r\n")

    first, second = read_warc(io.BytesIO(warc), "a.warc", ExtractParams(honour_opt_out=honour))

    assert isinstance(first, Record)
    if honour:
        assert second == Unreadable("opted_out", "x-robots-tag: noai http://a/1", 1)
    else:
        assert isinstance(second, Record)
