"""Read JATS XML, the format of journal archives: title, abstract and body of an article."""

import re
from collections.abc import Iterator
from typing import IO, Any

from lxml import etree

from stages.extract.params import ExtractParams
from stages.extract.records import Found, Record, Unreadable

MATHML = "{http://www.w3.org/1998/Math/MathML}"
LINK = "{http://www.w3.org/1999/xlink}href"

# Not running text.
SKIPPED = ("table-wrap", "table", "fig", "fig-group", "graphic", "media", "supplementary-material", "ref-list",
           "fn", "fn-group", "object-id", "label", "tex-math", "disp-formula-group")  # fmt: skip
BLOCKS = frozenset({"p", "title", "list", "def-list", "disp-quote", "boxed-text", "sec"})
SIMPLE_MATH = frozenset(MATHML + name for name in ("mi", "mn", "mo", "mtext", "mrow", "mstyle", "mspace", "semantics"))

CREATIVE_COMMONS = re.compile(r"creativecommons\.org/licenses/([a-z-]+)/(\d\.\d)")


def read_jats(stream: IO[bytes], name: str, params: ExtractParams) -> Iterator[Found]:
    """The one document in a file of an article: title, abstract, sections; date, DOI and licence beside it."""
    content = stream.read(params.max_document_bytes + 1)
    if len(content) > params.max_document_bytes:
        yield Unreadable("oversized", f"more than {params.max_document_bytes} bytes")
        return
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, huge_tree=False, remove_comments=True, remove_pis=True
    )
    article = etree.fromstring(content, parser)
    if article is None or article.tag != "article":
        yield Unreadable("not_an_article", "" if article is None else f"the root element is {article.tag}")
        return
    yield read_article(article)


def read_article(article: Any) -> Record:
    """The document of an `article` element."""
    meta, body = article.find("front/article-meta"), article.find("body")
    meta = article if meta is None else meta
    permissions = meta.find("permissions/license")
    title = _line(meta.find("title-group/article-title"))
    parts = [title]
    for part in [*meta.findall("abstract"), *([] if body is None else [body])]:
        etree.strip_elements(part, *SKIPPED, with_tail=False)
        drop_formulas(part)
        parts += [_line(block) for block in part.iter("p", "title") if block.tag == "p" or has_text(block.getparent())]
    facts = {
        "title": title,
        "doi": meta.findtext("article-id[@pub-id-type='doi']"),
        "type": article.get("article-type"),
    }
    return Record(
        "\n\n".join(filter(None, parts)),
        license=None if permissions is None else license_of(permissions),
        date=date_of(meta),
        meta={key: value for key, value in facts.items() if value},
    )


def has_text(section: Any) -> bool:
    """If a section has any paragraph; some held nothing but figures."""
    return any(_line(paragraph) for paragraph in section.iter("p"))


def drop_formulas(part: Any) -> None:
    """Take out of `part` each formula that needs two dimensions; `p < 0.05` stays."""
    for formula in list(part.iter(MATHML + "math")):
        if any(node.tag not in SIMPLE_MATH for node in formula.iterdescendants()):
            tail = formula.tail
            formula.clear()
            formula.tail = tail


def _line(element: Any) -> str:
    """The text of `element` on one line, without the blocks inside, which are lines of their own."""
    return "" if element is None else " ".join("".join(_pieces(element)).split())


def _pieces(element: Any) -> Iterator[str]:
    yield element.text or ""
    for child in element:
        if child.tag not in BLOCKS and isinstance(child.tag, str):
            yield from _pieces(child)
        yield child.tail or ""


def date_of(meta: Any) -> str | None:
    """The earliest publication date, as precise as it is given: YYYY, YYYY-MM or YYYY-MM-DD."""
    dates = []
    for date in meta.iterfind("pub-date"):
        year, month, day = (date.findtext(part, "").strip() for part in ("year", "month", "day"))
        if not year.isdigit():
            continue
        numbers = [part.zfill(2) for part in (month, day) if part.isdigit()]
        dates.append("-".join([year, *(numbers if month.isdigit() else [])]))
    # A full date is better than a month of print, which may be earlier.
    return min(dates, key=lambda date: (-len(date), date), default=None)


def license_of(permissions: Any) -> str | None:
    """The SPDX name, or near it, of what a `license` element grants; None if it isn't known."""
    text = " ".join([*permissions.itertext(), *(node.get(LINK, "") for node in permissions.iter(etree.Element))])
    if named := CREATIVE_COMMONS.search(text):
        return f"CC-{named[1].upper()}-{named[2]}"
    lowered = " ".join(text.lower().split())
    if "creative commons attribution license" in lowered or "creativecommons.org/licenses/by/" in lowered:
        return "CC-BY"
    if "cc0" in lowered or "publicdomain/zero" in lowered:
        return "CC0-1.0"
    return "public domain" if "public domain" in lowered else None
