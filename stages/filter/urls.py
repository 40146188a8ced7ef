"""Lists of URLs that are not wanted: by domain, by how they begin, by their words.

a pinned list, the URLs of documents  ->  how many entries of the list each hits
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from urllib.parse import unquote

import polars as pl

from stages.pinned import PinnedFile, pinned_lines

HOST = r"^(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?//(?:[^/?#@]*@)?([^/?#:@]+)"
SCHEME = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class UrlList:
    """A list of one kind: domains, prefixes or words."""

    kind: str
    entries: frozenset[str]

    @property
    def hits(self) -> pl.Expr:
        """How many entries a document's URL hits: words, or one by its host or beginning. Null without a URL."""
        counts: dict[str, Callable[[pl.Series], pl.Series]] = {
            "domains": self._domains, "prefixes": self._prefixes, "words": self._words,
        }  # fmt: skip
        url = pl.col("meta").str.json_path_match("$.url")
        return url.map_batches(counts[self.kind], pl.Int64, is_elementwise=True)

    def _domains(self, urls: pl.Series) -> pl.Series:
        hosts = urls.str.extract(HOST, 1).str.to_lowercase().str.strip_chars_end(".")
        named = [host for host in hosts.unique().drop_nulls().to_list() if not self.entries.isdisjoint(parents(host))]
        return hosts.is_in(named).cast(pl.Int64) if named else hosts.is_not_null().cast(pl.Int64) * 0

    def _prefixes(self, urls: pl.Series) -> pl.Series:
        lengths = sorted({len(entry) for entry in self.entries})

        def count(url: str) -> int:
            stripped = bare(url)
            return int(any(stripped[:length] in self.entries for length in lengths))

        return urls.map_elements(count, pl.Int64)

    def _words(self, urls: pl.Series) -> pl.Series:
        return urls.map_elements(lambda url: len(self.entries & url_words(url)), pl.Int64)


def parents(host: str) -> list[str]:
    """`host`, and every domain that it is in: a.b.org, b.org, org."""
    parts = host.split(".")
    return [".".join(parts[begin:]) for begin in range(len(parts))]


def bare(url: str) -> str:
    """`url` without its scheme, its host in small letters."""
    host, slash, path = SCHEME.sub("", url).partition("/")
    return host.lower() + slash + path


def url_words(url: str) -> set[str]:
    """The runs of letters and digits in `url`, in small letters; `%20` and the like are read."""
    return set(WORD.findall(unquote(url).lower()))


@cache
def read_list(kind: str, file: PinnedFile, key: str) -> UrlList:
    """The list of `kind` in `file`, read once in a process.

    Raises:
        Refusal: if it isn't the file that the parameter `key` pins, or has no line.
    """
    lines = [line.strip() for _, line in pinned_lines(file.file, file.sha256, key, "entries")]
    entries = [line for line in lines if not line.startswith("#")]
    return UrlList(kind, frozenset(_normal(kind, entry) for entry in entries))


def _normal(kind: str, entry: str) -> str:
    return bare(entry) if kind == "prefixes" else entry.lower().strip(".")
