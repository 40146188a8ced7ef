"""The takedown list: documents that nothing is trained on, whatever the rules say.

    takedown.jsonl  ->  for each document, whether it is taken down

    {"id": "0c7f…", "reason": "asked for by its author", "date": "2026-11-24"}
    {"url": "https://example.org/a.html"}
    {"url_prefix": "https://example.org/forum/"}
    {"sha256": "9f86…"}

A line names documents by exactly one of: their id, their URL, how their URL begins, the SHA-256 of their text
(UTF-8) as extract wrote it. A list that names nothing is an empty line: DVC warns of a file without a byte.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import Field, ValidationError

from stages.documents import read_shard
from stages.params import Refusal, StageParams

TAKEDOWN = Path("takedown.jsonl")
RULE = "takedown"
FORMS = {
    "id": "32 hexadecimal digits, lower case",
    "url": "a URL",
    "url_prefix": "the beginning of a URL",
    "sha256": "64 hexadecimal digits, lower case",
    "reason": "a text",
    "date": "a date like 2026-11-24",
}
NAMING = ("id", "url", "url_prefix", "sha256")


class Entry(StageParams):
    """One line of the list: exactly one of id, url, url_prefix, sha256; why and since when, if it is known."""

    id: str | None = Field(None, pattern=r"^[0-9a-f]{32}$")
    url: str | None = Field(None, min_length=1)
    url_prefix: str | None = Field(None, min_length=1)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    reason: str | None = None
    date: str | None = Field(None, pattern=r"^\d{4}-\d{2}-\d{2}$")

    @property
    def kind(self) -> str:
        """By what it names documents: id, url, url_prefix or sha256."""
        return next(name for name in NAMING if getattr(self, name) is not None)

    @property
    def value(self) -> str:
        """The id, URL, prefix or digest."""
        return str(getattr(self, self.kind))


@dataclass(frozen=True)
class Takedown:
    """What the list names."""

    entries: tuple[Entry, ...]

    def named(self, kind: str) -> list[str]:
        """The ids, URLs, prefixes or digests that are named, in order."""
        return [entry.value for entry in self.entries if entry.kind == kind]

    @property
    def columns(self) -> list[str]:
        """What must be read of documents to tell which are meant: no text unless there is a digest."""
        wanted = {"id": "id", "url": "meta", "url_prefix": "meta", "sha256": "text"}
        return sorted({wanted[entry.kind] for entry in self.entries})

    @property
    def hit(self) -> pl.Expr:
        """Whether a document is meant: of `columns` of the documents."""
        url = pl.col("meta").str.json_path_match("$.url")
        asked = [pl.lit(False)]
        if ids := self.named("id"):
            asked.append(pl.col("id").is_in(ids))
        if urls := self.named("url"):
            asked.append(url.is_in(urls))
        asked += [url.str.starts_with(prefix) for prefix in self.named("url_prefix")]
        if digests := self.named("sha256"):
            asked.append(pl.col("text").map_batches(text_digests, pl.String, is_elementwise=True).is_in(digests))
        return pl.any_horizontal(asked).fill_null(False)


def text_digests(texts: pl.Series) -> pl.Series:
    """The SHA-256 of each text, as 64 hexadecimal digits."""
    return pl.Series(texts.name, [hashlib.sha256(text.encode()).hexdigest() for text in texts], dtype=pl.String)


def read_takedown(path: Path = TAKEDOWN) -> Takedown:
    """The list at `path`.

    Raises:
        Refusal: if there is none, or a line doesn't name documents by exactly one thing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise Refusal(f"{path} is missing; make it (an empty file takes nothing down)") from None
    except UnicodeDecodeError as error:
        raise Refusal(f"{path} is not UTF-8 (byte {error.start}); write it again") from None
    return Takedown(
        tuple(parse_entry(line, f"{path} line {n}") for n, line in enumerate(lines, start=1) if line.strip())
    )


def parse_entry(line: str, where: str) -> Entry:
    """The entry that `line`, which stands at `where`, says.

    Raises:
        Refusal: if it isn't one; it names the place, the field and its value.
    """
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise Refusal(f'{where} is {line[:80]!r}, not a JSON object like {{"id": "…"}}; correct it or take it out')
    if strangers := [key for key in values if key not in FORMS]:
        raise Refusal(f"{where}: {strangers[0]} is no field of an entry (known: {', '.join(FORMS)}); correct it")
    given = [name for name in NAMING if values.get(name) is not None]
    if len(given) != 1:
        raise Refusal(f"{where} has {' and '.join(given) or 'none'} of {', '.join(NAMING)}; give exactly one of them")
    try:
        return Entry.model_validate(values)
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        raise Refusal(f"{where}: {field} is {values[field]!r}; it must be {FORMS[field]}") from None


def taken_down(documents: Path, takedown: Takedown) -> pl.Series | None:
    """Whether each document of a shard is taken down; None if the list is empty, and nothing was read."""
    if not takedown.entries:
        return None
    return read_shard(documents, takedown.columns).select(hit=takedown.hit)["hit"]
