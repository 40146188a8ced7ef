"""Read MediaWiki XML dumps: the text of each article, without what only a browser makes sense of."""

import html
import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import partial
from typing import IO, Any

from lxml import etree

from stages.extract.params import ExtractParams
from stages.extract.records import Found, Record, Unreadable, tried

ARTICLES, FILES, CATEGORIES = "0", "6", "14"  # namespaces
ENGLISH_NAMES = frozenset({"file", "image", "media", "category"})  # understood by a wiki in any language

# Every expression is linear in the length of the text, also of a hostile one.
COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
EMPTY_REFERENCE = re.compile(r"<ref\b[^<>]*/>", re.IGNORECASE)
INVISIBLE = re.compile(
    r"<(/?)(ref|math|gallery|timeline|score|source|syntaxhighlight|imagemap|hiero)\b[^<>]*>", re.IGNORECASE
)

# Templates that are words of the sentence: {{convert|3|km|mi}}, {{lang|fr|mot}}.
QUANTITY = re.compile(r"\{\{(?:convert|cvt)\|([^{}|]+)\|([^{}|]+)[^{}]*\}\}", re.IGNORECASE)
SHOWN_TEMPLATE = re.compile(r"\{\{(?:lang\|[a-z-]+|nowrap|nobr)\|([^{}|]*)\}\}", re.IGNORECASE)

# These match the innermost, and are applied until none is left.
TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
TABLE = re.compile(r"^[ \t:]*\{\|(?:(?!\{\||\|\}).)*\|\}", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[\[([^\[\]|]*)(?:\|([^\[\]]*))?\]\]")
EMPTY_SECTION = re.compile(r"^(=+)[^=\n].*\n\s*(?=\Z|(?!\1=)=)", re.MULTILINE)  # a deeper one may follow
MAX_NESTING = 40  # MediaWiki's own limit for templates

INTERLANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*")
EXTERNAL_LINK = re.compile(r"\[(?:[a-z]+:)?//[^\s\[\]]+[ \t]*([^\[\]\n]*)\]", re.IGNORECASE)
HEADING = re.compile(r"^=.*=[ \t]*$", re.MULTILINE)
MAGIC_WORD = re.compile(r"__[A-Z]+__")
LIST_ITEM = re.compile(r"^[*#]+[:;]?[ \t]*", re.MULTILINE)
INDENT = re.compile(r"^[:;]+[ \t]*", re.MULTILINE)
LINE_BREAK = re.compile(r"<br\b[^<>]*>", re.IGNORECASE)
TAG = re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE)
ITALIC_GENITIVE = re.compile(r"(?<!')''(?!')([^'\n]+)'''s\b")  # ''Iliad'''s
QUOTES = re.compile(r"'{2,}")

# What is left where a template stood: `Albedo ({{IPAc-en|…}})`, half a table, two spaces.
HOLE = re.compile(r" ?\([\s,;:]*\)|^[ \t]*(?:\{\||\|\}|\|-).*$", re.MULTILINE)
BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")
SPACES = re.compile(r"(?<=\S) {2,}(?=\S)")


def read_mediawiki(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """One document for each article of a dump: its title as the first line, then its text."""
    without_text, number = ENGLISH_NAMES, 0
    for element in _elements(stream):
        if etree.QName(element).localname == "siteinfo":
            without_text |= namespace_names(element)
            continue
        yield tried(partial(read_page, element, number, without_text, params), number)
        number += 1


def _elements(stream: IO[bytes]) -> Iterator[Any]:
    """The siteinfo and the pages, one at a time; memory holds no second."""
    parsed = etree.iterparse(
        stream, tag=("{*}siteinfo", "{*}page"), resolve_entities=False, no_network=True, huge_tree=False
    )
    for _, element in parsed:
        yield element
        element.clear()
        while element.getprevious() is not None:
            del element.getparent()[0]


def namespace_names(siteinfo: Any) -> frozenset[str]:
    """What this wiki, in its language, calls files and categories; in lower case."""
    found = siteinfo.iterfind("{*}namespaces/{*}namespace")
    return frozenset((each.text or "").lower() for each in found if each.get("key") in (FILES, CATEGORIES))


def read_page(page: Any, number: int, without_text: frozenset[str], params: ExtractParams) -> Found:
    """The document of a `page` element, or why there is none."""
    title = page.findtext("{*}title") or ""
    wikitext = page.findtext("{*}revision/{*}text") or ""
    if page.findtext("{*}ns", ARTICLES) != ARTICLES:
        return Unreadable("namespace", title, number)
    if page.find("{*}redirect") is not None or wikitext[:9].upper() == "#REDIRECT":
        return Unreadable("redirect", title, number)
    if len(wikitext) > params.max_document_bytes:
        return Unreadable("oversized", f"{title}: {len(wikitext)} characters", number)
    text = wikitext_to_text(wikitext, without_text)
    return Record(
        f"{title}\n\n{text}" if text else "",
        number,
        date=page.findtext("{*}revision/{*}timestamp"),
        meta={"title": title, "page": page.findtext("{*}id"), "revision": page.findtext("{*}revision/{*}id")},
    )


def wikitext_to_text(wikitext: str, without_text: frozenset[str] = ENGLISH_NAMES) -> str:
    """The prose in `wikitext`: no templates, tables, references, formulas, files or categories.

    By expressions alone: mwparserfromhell takes minutes for 200 kB of unclosed tags or links, and
    ten times as long for an ordinary article.
    """
    text = drop_invisible(EMPTY_REFERENCE.sub("", COMMENT.sub("", wikitext)))
    text = SHOWN_TEMPLATE.sub(r"\1", QUANTITY.sub(r"\1 \2", text))
    text = _until_none(TABLE, "", _until_none(TEMPLATE, "", text))
    text = _until_none(LINK, lambda link: _label(link, without_text), text)
    text = INDENT.sub("", LIST_ITEM.sub("- ", MAGIC_WORD.sub("", text)))
    text = HEADING.sub(lambda heading: heading[0].strip("= \t"), _until_none(EMPTY_SECTION, "", text))
    text = TAG.sub("", LINE_BREAK.sub("\n", EXTERNAL_LINK.sub(r"\1", text)))
    text = QUOTES.sub("", ITALIC_GENITIVE.sub(r"\1's", text))
    return html.unescape(BLANK_LINES.sub("\n\n", SPACES.sub(" ", HOLE.sub("", text)))).strip()


def drop_invisible(text: str) -> str:
    """`text` without references, formulas, galleries and the like. An unclosed one takes nothing with it."""
    tags = list(INVISIBLE.finditer(text))
    closings: dict[str, list[int]] = {}
    for tag in tags:
        if tag[1]:
            closings.setdefault(tag[2].lower(), []).append(tag.end())
    kept, end = [], 0
    for tag in tags:
        ends = closings.get(tag[2].lower(), [])
        closing = bisect_right(ends, tag.end())
        if tag[1] or tag.start() < end or closing == len(ends):
            continue
        kept.append(text[end : tag.start()])
        end = ends[closing]
    return "".join([*kept, text[end:]])


def _until_none(pattern: re.Pattern[str], replacement: Any, text: str) -> str:
    for _ in range(MAX_NESTING):
        text, found = pattern.subn(replacement, text)
        if not found:
            break
    return text


def _label(link: re.Match[str], without_text: frozenset[str]) -> str:
    """What a reader sees of a link."""
    target, label = link[1].strip(), link[2]
    namespace = target.partition(":")[0].strip().lower() if ":" in target else ""
    if namespace in without_text:
        return ""
    if label:
        return label.rpartition("|")[2]
    return "" if INTERLANGUAGE.fullmatch(namespace) else target.removeprefix(":")
