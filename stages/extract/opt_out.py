"""Whether a page was published with the wish that machines don't learn from it.

Read are the robots directives `noai`, `noindex` and `none`, in the header X-Robots-Tag and in <meta name="robots">, and
a reservation of text and data mining, `tdm-reservation: 1`, in the header or in <meta> (TDM Reservation Protocol, W3C
community group report of 2024). A directive for one named robot is not for us.
"""

import re
from collections.abc import Iterable, Iterator
from html import unescape

DIRECTIVES = ("noai", "noindex", "none")
RESERVED = "tdm-reservation"
HEAD_BYTES = 1 << 16  # what is looked through for <meta>

COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
META = re.compile(rb"<meta\b([^>]*)>", re.IGNORECASE)
ATTRIBUTE = re.compile(rb"""([\w-]+)\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)""")


def opt_out(headers: Iterable[tuple[str, str]], content: bytes) -> str | None:
    """The signal of an answer by which its publisher opts out, as it stands there; None if there is none."""
    return next((f"{name}: {value}" for name, value in _signals(headers, content) if _is_opt_out(name, value)), None)


def _signals(headers: Iterable[tuple[str, str]], content: bytes) -> Iterator[tuple[str, str]]:
    for name, value in headers:
        if name.lower() in ("x-robots-tag", RESERVED):
            yield name.lower(), value
    head = content[:HEAD_BYTES]
    folded = head.lower()
    if b"robots" in folded or RESERVED.encode() in folded:
        yield from _of_page(head)


def _of_page(head: bytes) -> Iterator[tuple[str, str]]:
    for tag in META.findall(COMMENT.sub(b"", head)):
        found = {name.decode().lower(): _value(value) for name, value in ATTRIBUTE.findall(tag)}
        if (name := found.get("name", "").strip().lower()) in ("robots", RESERVED):
            yield name, found.get("content", "")


def _value(quoted: bytes) -> str:
    return unescape(quoted.strip(b"\"'").decode(errors="replace"))


def _is_opt_out(name: str, value: str) -> bool:
    if name == RESERVED:
        return value.strip() == "1"
    return any(part.strip().lower() in DIRECTIVES for part in value.split(","))
