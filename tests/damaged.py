"""A corpus of damaged files, from a seed: small valid files of every format, packed in every way, and then spoilt.

python tests/damaged.py FOLDER [NUMBER]     writes the cases, to look at one
"""

import io
import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl
from reading import PACKERS, tarred, zipped

CASES = 2400

SENTENCE = "The old river of the narrow garden carried that letter with the quiet winter, and it had to be patient. "


class Case(NamedTuple):
    """A damaged file, and how it came to be."""

    name: str
    format: str
    content: bytes
    story: str  # `truncated tar.gz`: what was done to which container, or to what lies in it
    is_cut: bool  # the container lost its end


# ---- valid files ---------------------------------------------------------------------------------------------


def text(draw: random.Random) -> str:
    """Prose of some lines, one of them in another script."""
    return (
        "\n".join(SENTENCE * draw.randint(1, 3) + str(draw.random()) for _ in range(draw.randint(2, 6))) + "\nñ 語 😀"
    )


def jsonl(draw: random.Random) -> bytes:
    """Lines of JSON, one of them with half a pair of UTF-16 in it."""
    lines = [json.dumps({"text": text(draw), "id": number}) for number in range(8)]
    return ("\n".join([*lines, '{"text": "half \\ud800 a pair"}']) + "\n").encode()


def csv(draw: random.Random) -> bytes:
    """A header and rows, with quotes and line ends in the fields."""
    rows = [f'{number},"{text(draw)} ""quoted"""' for number in range(8)]
    return ("id,text\r\n" + "\r\n".join(rows) + "\r\n").encode()


def parquet(draw: random.Random) -> bytes:
    """Three row groups; sometimes the column is missing, null or of another type."""
    columns: list[dict[str, list[object]]] = [
        {"text": [text(draw) for _ in range(12)]},
        {"text": [None, "a text", None] * 4},
        {"text": list(range(12))},
        {"text": [[b"in a list"]] * 12},
        {"body": ["of another name"] * 12},
    ]
    written = io.BytesIO()
    table = pl.DataFrame(draw.choices(columns, [8, 1, 1, 1, 1])[0])
    table.write_parquet(written, row_group_size=4, compression=draw.choice(["zstd", "snappy", "uncompressed"]))
    return written.getvalue()


def plain(draw: random.Random) -> bytes:
    """A text."""
    return text(draw).encode()


def html(draw: random.Random) -> bytes:
    """A page; sometimes nested beyond all reason."""
    depth = draw.choice([1, 1, 1, 20, 3000])
    return ("<html><head><title>T</title><body>" + "<div>" * depth + f"<p>{text(draw)}</p>").encode()


def warc(draw: random.Random, kind: str = "response") -> bytes:
    """Five records."""
    return b"".join(record(draw, kind, number) for number in range(5))


def wet(draw: random.Random) -> bytes:
    """Five conversion records."""
    return warc(draw, "conversion")


def record(draw: random.Random, kind: str, number: int) -> bytes:
    """A record of a WARC."""
    body = html(draw) if kind == "response" else plain(draw)
    if kind == "response":
        body = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a/{number}\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/http; msgtype=response\r\n" if kind == "response" else ""
    return head.encode() + b"\r\n" + body + b"\r\n\r\n"


def mediawiki(draw: random.Random) -> bytes:
    """A dump of three articles."""
    page = "<page><title>T{}</title><ns>0</ns><revision><text>''{}'' [[a|b]] {{{{c}}}}</text></revision></page>"
    return f"<mediawiki>{''.join(page.format(number, text(draw)) for number in range(3))}</mediawiki>".encode()


def jats(draw: random.Random) -> bytes:
    """An article."""
    return f"<article><front/><body><sec><title>T</title><p>{text(draw)}</p></sec></body></article>".encode()


def code(draw: random.Random) -> bytes:
    """A program."""
    return f'def f(a):\n    """{text(draw)}"""\n    return a\n'.encode()


FORMATS: dict[str, tuple[str, Callable[[random.Random], bytes]]] = {
    "jsonl": ("jsonl", jsonl), "csv": ("csv", csv), "parquet": ("parquet", parquet), "text": ("txt", plain),
    "markdown": ("md", plain), "html": ("html", html), "warc": ("warc", warc), "wet": ("wet", wet),
    "mediawiki": ("xml", mediawiki), "jats": ("xml", jats), "code": ("py", code),
}  # fmt: skip


# ---- containers ----------------------------------------------------------------------------------------------


def member(draw: random.Random, name: str) -> str:
    """The name of a member; sometimes one that leads out of the folder, or is no name."""
    return draw.choice([name, name, f"x/{name}", f"../../{name}", f"/etc/{name}", f"a\n\x1b[2J{name}", f"\udc80{name}"])


def in_zip(draw: random.Random, name: str, content: bytes) -> bytes:
    """A zip of three members."""
    return zipped({member(draw, name).replace("\udc80", "é"): content, f"b.{name}": content, "c.bin": b"c"})


def in_tar(draw: random.Random, name: str, content: bytes, mode: str = "w") -> bytes:
    """A tar of three members, sometimes two of one name."""
    second = draw.choice([f"b.{name}", name])
    return tarred([(member(draw, name), content), (second, content), ("c.bin", b"c")], mode)


CONTAINERS: dict[str, Callable[[random.Random, str, bytes], bytes]] = {
    **{ending: lambda _, __, content, pack=pack: pack(content) for ending, pack in PACKERS.items()},
    ".zip": in_zip,
    ".tar": in_tar,
    ".tar.gz": lambda draw, name, content: in_tar(draw, name, content, "w:gz"),
    ".tar.zst": lambda draw, name, content: PACKERS[".zst"](in_tar(draw, name, content)),
    ".zip.tar": lambda draw, name, content: tarred([("in.zip", in_zip(draw, name, content)), (name, content)]),
    ".tar.gz.zip": lambda draw, name, content: zipped({"in.tar.gz": in_tar(draw, name, content, "w:gz")}),
    ".zip.zip.zip": lambda draw, name, content: zipped({"i.zip": zipped({"j.zip": in_zip(draw, name, content)})}),
}

OUTERMOST = {".zip.tar": ".tar", ".tar.gz.zip": ".zip", ".zip.zip.zip": ".zip"}


# ---- damage --------------------------------------------------------------------------------------------------


def cut(draw: random.Random, content: bytes) -> bytes:
    """Without its end."""
    return content[: draw.randrange(len(content))]


def flipped(draw: random.Random, content: bytes) -> bytes:
    """With some bytes changed."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 3, 30])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def holed(draw: random.Random, content: bytes) -> bytes:
    """Without a piece of its middle."""
    begin = draw.randrange(len(content))
    return content[:begin] + content[begin + draw.choice([1, 7, 100, 1000]) :]


def twice(draw: random.Random, content: bytes) -> bytes:
    """With a piece of it a second time."""
    begin = draw.randrange(len(content))
    return content[: begin + draw.choice([1, 100, 1000])] + content[begin:]


def with_junk(junk: bytes) -> Callable[[random.Random, bytes], bytes]:
    """With something in its middle."""

    def spoilt(draw: random.Random, content: bytes) -> bytes:
        begin = draw.randrange(len(content))
        return content[:begin] + junk + content[begin:]

    return spoilt


def miscounted(draw: random.Random, content: bytes) -> bytes:
    """With another number in the place of one."""
    numbers = list(re.finditer(rb"(?<=Content-Length: )\d+|\d+", content))
    if not numbers:
        return b""
    lengths = [each for each in numbers if content[each.start() - 2 : each.start()] == b": "]
    chosen = draw.choice(lengths or numbers)
    number = draw.choice([b"0", b"1", b"-1", b"99999999999999999999", b"x", str(int(chosen[0]) + 5).encode(), b"9" * 9])
    return content[: chosen.start()] + number + content[chosen.end() :]


def zeroed(draw: random.Random, content: bytes) -> bytes:
    """With a block of zeros, as after a power cut."""
    begin = draw.randrange(len(content))
    return content[:begin] + bytes(len(content) - begin)


DAMAGES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "cut": cut, "flipped": flipped, "holed": holed, "twice": twice, "miscounted": miscounted, "zeroed": zeroed,
    "empty": lambda _, __: b"", "whole": lambda _, content: content,
    "behind junk": lambda _, content: b"\0junk" + content,
    "before junk": lambda _, content: content + b"junk\xff" * 50,
    "joined": lambda _, content: content + content,
    "with NULs": with_junk(b"\0" * 40), "with no UTF-8": with_junk(b"\xff\xc3\x28\xed\xa0\x80"),
    "with an open quote": with_junk(b'"'), "with a bracket": with_junk(b"<![CDATA["),
    "with a carriage return": with_junk(b"\r"), "with a mark": with_junk(b"\xef\xbb\xbf"),
    "with a nest": with_junk(b"[" * 5000), "with tags": with_junk(b"<b>" * 5000),
    "with a long line": with_junk(b"x" * 70_000),
    "in UTF-16": lambda _, content: content.decode("utf-8", "ignore").encode("utf-16"),
    "in UTF-16 without a mark": lambda _, content: content.decode("utf-8", "ignore").encode("utf-16-le"),
}  # fmt: skip


def damaged_case(number: int) -> Case:
    """Case `number`: the same for ever."""
    draw = random.Random(number)
    format_ = draw.choice(list(FORMATS))
    ending, make = FORMATS[format_]
    container = draw.choice([*CONTAINERS, "", "", ".gz"])
    damage = draw.choice(list(DAMAGES))
    outside = draw.random() < 0.5
    name = f"a.{ending}"
    content = make(draw)
    if not outside:
        content = DAMAGES[damage](draw, content)
    content = CONTAINERS[container](draw, name, content)
    whole = content
    if outside:
        content = DAMAGES[damage](draw, content)
    is_archive = ".tar" in container or ".zip" in container
    file = f"{number:05d}{OUTERMOST.get(container, container)}" if is_archive else f"{number:05d}.{ending}{container}"
    lost = whole[len(content) :].strip(b"\0") != b""  # a tar ends with blocks of zeros
    is_cut = outside and damage == "cut" and lost and (container != "" or format_ == "parquet")
    return Case(file, format_, content, f"{damage} {'outside' if outside else 'inside'} {format_}{container}", is_cut)


def main() -> None:
    """Write the cases, or one."""
    folder = Path(sys.argv[1])
    for number in [int(sys.argv[2])] if len(sys.argv) > 2 else range(CASES):
        case = damaged_case(number)
        (folder / case.name).write_bytes(case.content)
        print(case.name, case.story)


if __name__ == "__main__":
    main()
