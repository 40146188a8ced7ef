"""What a takedown asks for: ids, URLs, prefixes and digests, as people write them down.

0c7f…32 digits…                an id
https://example.org/a.html     a URL
https://example.org/forum/*    all that begin so
sha256:9f86…                   the digest of a text as extract wrote it
{"url": "https://…"}           a line of takedown.jsonl
"""

import json
import re
from pathlib import Path

from stages.params import Refusal
from stages.takedown import Entry, Takedown, parse_entry

_FORMS = (
    (re.compile(r"[0-9a-f]{32}"), "id"),
    (re.compile(r"sha256:([0-9a-f]{64})"), "sha256"),
    (re.compile(r"(\w+://\S+)\*"), "url_prefix"),
    (re.compile(r"\w+://\S+"), "url"),
)


def read_question(path: Path, stdin: str | None = None) -> Takedown:
    """What the file at `path` asks for, or `stdin`, if that is given.

    Raises:
        Refusal: if there is no such file, nothing in it, or a line is none of the above.
    """
    where = "stdin" if stdin is not None else str(path)
    try:
        text = path.read_text(encoding="utf-8") if stdin is None else stdin
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{path} can't be read ({error}); name a file of ids, URLs or digests, or - for stdin") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    entries = [entry_of(line, f"{where} line {number}") for number, line in lines if line and line[0] != "#"]
    if not entries:
        raise Refusal(f"{where} asks for nothing; give it a line for each id, URL, prefix or digest")
    return Takedown(tuple(dict.fromkeys(entries)))


def entry_of(line: str, where: str) -> Entry:
    """What one line asks for.

    Raises:
        Refusal: if it is none of the forms.
    """
    if line.startswith("{"):
        return parse_entry(line, where)
    for form, kind in _FORMS:
        if match := form.fullmatch(line):
            return parse_entry(json.dumps({kind: match[match.re.groups]}), where)
    raise Refusal(
        f"{where} is {line[:80]!r}; give an id (32 hexadecimal digits), a URL, a prefix (https://…/*), sha256:DIGEST, "
        "or a line of takedown.jsonl"
    )
