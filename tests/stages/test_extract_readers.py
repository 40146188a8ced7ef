"""Readers: each format, and each way in which its input can be bad."""

import gzip
import io
import json

import polars as pl
import pyarrow.parquet
import pytest
from reading import PACKERS, found_in, read, shown, zipped

from stages.extract.jats import read_jats
from stages.extract.params import ExtractParams
from stages.extract.records import Record
from stages.extract.wiki import wikitext_to_text

# ---- text, code, JSON lines, Parquet ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"a text", "a text"),
        (b"\xef\xbb\xbfwithout its mark", "without its mark"),
        (b"latin \xe9", "!invalid_utf8"),
        (b"cut off \xe2\x82", "!invalid_utf8"),
        (b"x" * 101, "!oversized"),
        (b"x" * 100, "x" * 100),
        (b"", ""),
        ("ñ 語 😀".encode("utf-16"), "ñ 語 😀"),
        ("\ufeffñ 語 😀".encode("utf-16-be"), "ñ 語 😀"),
        ("half ".encode("utf-16") + b"\x00\xd8", "!invalid_utf16"),
        ("no mark".encode("utf-16-le"), "!no_text"),
        (b"one NUL\0 in a text", "one NUL\0 in a text"),
    ],
)
@pytest.mark.parametrize("format_", ["text", "markdown", "rst", "code"])
def test_a_text_is_read_as_it_stands(tmp_path, format_, content, shown):
    assert read(tmp_path, {"a": content}, format=format_, max_document_bytes=100) == [("a", shown)]


def test_code_says_its_language(tmp_path):
    found = found_in(
        tmp_path, {"w.zip": zipped({"a.py": b"a = 1", "b.po": b"msgid", "c.txt": b"no code"})}, format="code"
    )

    assert [(origin, each.language) for origin, each in found] == [("w.zip!a.py", "python"), ("w.zip!b.po", "gettext")]


LINES = b"""{"text": "one", "n": 7, "u": "http://a", "d": "2020-01-02", "l": "MIT"}
{"text": 5}
{"no": "text"}
broken {
[1]

{"text": "latin \xe9"}
{"text": "long %s"}
{"text": "last"}""" % (b"x" * 200)


def test_bad_lines_cost_only_themselves(tmp_path):
    found = read(tmp_path, {"a.jsonl": LINES}, max_document_bytes=100)

    assert found == [
        ("a.jsonl#0", "one"),
        ("a.jsonl#1", "!no_text"),
        ("a.jsonl#2", "!no_text"),
        ("a.jsonl#3", "!invalid_json"),
        ("a.jsonl#4", "!invalid_json"),
        ("a.jsonl#6", "!invalid_utf8"),
        ("a.jsonl#7", "!oversized"),
        ("a.jsonl#8", "last"),
    ]


def test_lines_before_the_truncation_are_read(tmp_path):
    lines = b"".join(b'{"text": "%d"}\n' % (number**9) for number in range(9999))

    found = read(tmp_path, {"a.jsonl.gz": gzip.compress(lines)[:-2000]})

    assert len(found) > 5000
    assert [text for _, text in found[:-1]] == [str(number**9) for number in range(len(found) - 1)]
    assert found[-1] == (f"a.jsonl.gz#{len(found) - 1}", "!truncated")


def test_deeply_nested_json_is_invalid(tmp_path):
    assert read(tmp_path, {"a.jsonl": b"[" * 100_000}) == [("a.jsonl#0", "!invalid_json")]


COLUMNS = {"id_column": "n", "url_column": "u", "date_column": "d", "license_column": "l", "language_column": "g"}


@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
@pytest.mark.parametrize("archived", [True, False])
def test_columns_are_told_by_the_parameters(tmp_path, format_, archived):
    row = {"body": "a text", "n": 7, "u": "http://a", "d": "2020-01-02", "l": "MIT", "g": "de", "more": 1}
    table, written = pl.DataFrame([row]), io.BytesIO()
    table.write_parquet(written)
    content = json.dumps(row).encode() if format_ == "jsonl" else written.getvalue()
    files = {"a.zip": zipped({f"a.{format_}": content})} if archived else {f"a.{format_}": content}

    ((_, found),) = found_in(tmp_path, files, text_column="body", **COLUMNS)

    meta = {"id": "7", "url": "http://a"}
    assert found == Record("a text", 0, license="MIT", date="2020-01-02", language="de", meta=meta)


CSV = b"""text,more
one,1
"two, with a comma
and a ""second"" line",2

three
four,4,5
latin \xe9,6
long %s,7
last,8
""" % (b"x" * 200)


def test_bad_rows_of_csv_cost_only_themselves(tmp_path):
    found = read(tmp_path, {"a.csv": CSV}, max_document_bytes=100)

    assert found == [
        ("a.csv#0", "one"),
        ("a.csv#1", 'two, with a comma\nand a "second" line'),
        ("a.csv#2", "!invalid_csv"),
        ("a.csv#3", "!invalid_csv"),
        ("a.csv#4", "!invalid_utf8"),
        ("a.csv#5", "!oversized"),
        ("a.csv#6", "last"),
    ]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"", []),
        (b"text\n", []),
        (b"body\na\n", ["!no_text"]),
        (b'text\n"never closed', ["never closed"]),
        (b'text\n"never closed' + b" on and on\n" * 50 + b"last\n", ["!invalid_csv", "last"]),
        (b"\xef\xbb\xbftext\r\na\r\n", ["a"]),
        (b"te\rxt\na", ["!invalid_csv"]),
        ("text\n語\n".encode("utf-16"), ["語"]),
    ],
)
def test_csv_that_is_odd_is_read_as_far_as_it_can_be(tmp_path, content, shown):
    found = [text for _, text in read(tmp_path, {"a.csv": content}, max_document_bytes=200)]

    assert found[:1] + found[1:][-1:] == shown


def test_a_file_of_tabs_is_csv_too(tmp_path):
    assert read(tmp_path, {"a.tsv.gz": gzip.compress(b"n\ttext\n1\ta, b\n")}) == [("a.tsv.gz#0", "a, b")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_lines_in_utf_16_are_read_if_it_begins_with_its_mark(tmp_path, encoding):
    lines = '{"text": "語 😀"}\n{"text": "two"}\n'.encode(encoding)

    found = [text for _, text in read(tmp_path, {"a.jsonl": lines})]

    assert found == ["語 😀", "two"] if encoding == "utf-16" else all(text.startswith("!") for text in found)


def test_half_a_pair_and_half_a_unit_of_utf_16_cost_their_lines(tmp_path):
    lines = '{"text": "a"}\n'.encode("utf-16")
    lines += '{"text": "\ud800"}\n{"text": "c"}\n'.encode("utf-16-le", "surrogatepass")

    found = [text for _, text in read(tmp_path, {"a.jsonl": lines + b"{"})]

    assert found == ["a", "!invalid_utf8", "c", "!truncated"]


@pytest.mark.parametrize("content", [b"", b"PAR1 no parquet PAR1"])
def test_broken_parquet_is_unreadable(tmp_path, content):
    assert read(tmp_path, {"a.parquet": content}) == [("a.parquet", "!unreadable")]


def test_rows_of_parquet_without_text_are_unreadable(tmp_path):
    pl.DataFrame({"text": ["one", None, "three"]}).write_parquet(tmp_path / "a.parquet")

    found = read(tmp_path, {})

    assert found == [("a.parquet#0", "one"), ("a.parquet#1", "!no_text"), ("a.parquet#2", "three")]


@pytest.mark.parametrize(
    ("column", "shown"),
    [
        ({"body": ["a", "b"]}, ["!no_text"] * 2),
        ({"text": [1, 2]}, ["!no_text"] * 2),
        ({"text": [["a"], ["b"]]}, ["!no_text"] * 2),
        ({"text": [None, "b"]}, ["!no_text", "b"]),
        ({"text": [b"a", b"\xff"]}, ["a", "!invalid_utf8"]),
        ({"text": []}, []),
    ],
)
def test_a_column_that_is_missing_null_or_of_another_type_is_told_by_row(tmp_path, column, shown):
    pl.DataFrame(column).write_parquet(tmp_path / "a.parquet")

    assert [text for _, text in read(tmp_path, {})] == shown


def test_a_row_group_that_is_damaged_costs_no_other(tmp_path):
    texts = [f"text {number} " * 9 for number in range(12)]
    pl.DataFrame({"text": texts}).write_parquet(tmp_path / "a.parquet", row_group_size=4, compression="snappy")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    column = pyarrow.parquet.read_metadata(tmp_path / "a.parquet").row_group(1).column(0)
    content[column.data_page_offset : column.data_page_offset + 9] = bytes(9)

    found = read(tmp_path, {"a.parquet": bytes(content)})

    kept = [(f"a.parquet#{number}", texts[number]) for number in (0, 1, 2, 3, 8, 9, 10, 11)]
    assert found == [*kept[:4], ("a.parquet#4", "!unreadable"), *kept[4:]]


# ---- MediaWiki --------------------------------------------------------------------------------------------

WIKI = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="de">
  <siteinfo><namespaces><namespace key="0"/><namespace key="6">Datei</namespace></namespaces></siteinfo>
  <page><title>Eins</title><ns>0</ns><id>11</id>
    <revision><id>5</id><timestamp>2020-01-02T03:04:05Z</timestamp>
      <text>[[Datei:A.jpg|thumb|Bild]] '''Eins''' ist &lt;b&gt;eine&lt;/b&gt; [[Zahl|kleine Zahl]].</text>
    </revision></page>
  <page><title>Uno</title><ns>0</ns><redirect title="Eins"/><revision><text>#REDIRECT [[Eins]]</text></revision></page>
  <page><title>Diskussion:Eins</title><ns>1</ns><revision><text>Hallo</text></revision></page>
  <page><title>Zwei</title><ns>0</ns><revision><text>Zwei ist mehr.</text></revision></page>
</mediawiki>"""
PAGES = ["Eins\n\nEins ist eine kleine Zahl.", "!redirect", "!namespace", "Zwei\n\nZwei ist mehr."]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("ending", ["", ".bz2", ".gz"])
def test_articles_of_a_wiki_are_documents(tmp_path, encoding, ending):
    found = found_in(tmp_path, {f"a.xml{ending}": PACKERS[ending](WIKI.encode(encoding))}, format="mediawiki")

    assert [shown(each) for _, each in found] == PAGES
    assert [origin for origin, _ in found] == [f"a.xml{ending}#{number}" for number in range(4)]
    assert found[0][1].date == "2020-01-02T03:04:05Z"
    assert found[0][1].meta == {"title": "Eins", "page": "11", "revision": "5"}


@pytest.mark.parametrize(
    ("until", "pages"), [("kleine", 0), ("Uno", 1), ("Diskussion", 2), ("Zwei", 3), ("</media", 4)]
)
def test_pages_before_the_truncation_are_read(tmp_path, until, pages):
    found = read(tmp_path, {"a.xml": WIKI.partition(until)[0].encode()}, format="mediawiki")

    assert [text for _, text in found] == [*PAGES[:pages], "!broken_xml"]


BOMB = """<!DOCTYPE mediawiki [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>
<mediawiki><page><title>T</title><ns>0</ns><revision><text>&b;&c; end</text></revision></page></mediawiki>"""


def test_entities_are_never_expanded(tmp_path):
    (text,) = [text for _, text in read(tmp_path, {"a.xml": BOMB.encode()}, format="mediawiki")]

    assert "aaa" not in text
    assert "root" not in text


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''Bold''' and ''italic''", "Bold and italic"),
        ("a {{b|{{c|d}}}} e", "a e"),
        ("a<ref>b {{c}}</ref> d<ref name=x /> e", "a d e"),
        ("a [[b]] [[c|d]] [[e|f|g]]s", "a b d gs"),
        ("[[File:a.jpg|thumb|b [[c]] d]]e [[Category:F]] [[de:G]] [[:Category:H]]", "e Category:H"),
        ("{| class=x\n|-\n| a ||\n{|\n| b\n|}\n|}\nc", "c"),
        ("a [http://b c d] e", "a c d e"),
        ("x<sup>2</sup> &lt; &amp; y<br/>z", "x2 < & y\nz"),
        ("<!-- a -->b <math>c</math> d", "b d"),
        ("* a\n** b\n# c\n: d\n; e", "- a\n- b\n- c\nd\ne"),
        ("== A ==\na\n=== B ===\n== C ==\n=== D ===\nd\n== E ==\n", "A\na\nC\nD\nd"),
        ("Albedo ({{IPA|x}}) is __NOTOC__ ''{{lang|y}}'' z", "Albedo is z"),
        ("{{convert|3|km|mi|0}} to {{lang|fr|''mot''}}", "3 km to mot"),
        ("a\n\n{{b}}\n\nc", "a\n\nc"),
        ("the ''Iliad'''s end", "the Iliad's end"),
    ],
)
def test_wikitext_becomes_prose(wikitext, text):
    assert wikitext_to_text(wikitext) == text


@pytest.mark.parametrize(
    "piece",
    [
        "[http://a ",
        "''",
        "<b>",
        "{{",
        "[[",
        "{|",
        "\n{|",
        "<ref>",
        "<ref a",
        "= a\n",
        "=",
        "<!--",
        "(",
        " ",
        "*",
        "<math>",
    ],
)
@pytest.mark.timeout(60)
def test_no_wikitext_takes_long(piece):
    wikitext_to_text(piece * 50_000)
    wikitext_to_text(f"= {piece * 50_000} x")


# ---- JATS -------------------------------------------------------------------------------------------------

LICENSE = '<license xlink:href="https://creativecommons.org/licenses/by/4.0/"><license-p>Open.</license-p></license>'
ARTICLE = f"""<?xml version="1.0"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD X//EN" "http://127.0.0.1:9/never-fetched.dtd">
<article xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:mml="http://www.w3.org/1998/Math/MathML"
  article-type="research-article">
<front><article-meta>
  <article-id pub-id-type="doi">10.1/2</article-id>
  <title-group><article-title>On <italic>Cats</italic></article-title></title-group>
  <pub-date pub-type="collection"><month>4</month><year>2011</year></pub-date>
  <pub-date pub-type="epub"><day>12</day><month>4</month><year>2011</year></pub-date>
  <permissions>{LICENSE}</permissions>
  <abstract><title>Summary</title><p>Cats sleep.</p></abstract></article-meta></front>
<body><sec><title>Methods</title><p>We watched
  them <xref>[1]</xref>, <mml:math><mml:mi>n</mml:mi><mml:mo>=</mml:mo><mml:mn>3</mml:mn></mml:math>
  (<mml:math><mml:mfrac><mml:mn>1</mml:mn><mml:mn>2</mml:mn></mml:mfrac></mml:math>).
  <list><list-item><p>One.</p></list-item></list>After.</p>
  <fig><caption><p>A cat.</p></caption></fig><table-wrap><table><tr><td>7</td></tr></table></table-wrap></sec>
  <sec><title>Only a figure</title><fig><caption><p>B</p></caption></fig></sec></body>
<back><ref-list><ref>Somebody 1999</ref></ref-list></back></article>"""


def test_an_article_is_its_title_abstract_and_body(tmp_path):
    ((_, found),) = found_in(tmp_path, {"a.xml": ARTICLE.encode()}, format="jats")

    assert found == Record(
        "On Cats\n\nSummary\n\nCats sleep.\n\nMethods\n\nWe watched them [1], n=3 (). After.\n\nOne.",
        license="CC-BY-4.0",
        date="2011-04-12",
        meta={"doi": "10.1/2", "title": "On Cats", "type": "research-article"},
    )


@pytest.mark.parametrize(
    ("license_", "name"),
    [
        ("<license><license-p>the Creative Commons Attribution License, which</license-p></license>", "CC-BY"),
        ("<license><license-p>the Creative Commons CC0 dedication</license-p></license>", "CC0-1.0"),
        ("<license><license-p>All rights reserved.</license-p></license>", None),
        ("", None),
    ],
)
def test_the_licence_is_the_articles_own(license_, name):
    content = io.BytesIO(ARTICLE.replace(LICENSE, license_).encode())

    (found,) = read_jats(content, "a.xml", ExtractParams())

    assert isinstance(found, Record)
    assert found.license == name


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (ARTICLE.encode()[:-30], "!broken_xml"),
        (b"", "!broken_xml"),
        (b"<html/>", "!not_an_article"),
        (ARTICLE.encode() + b" " * 10_000, "!oversized"),
        (b"<article>\xff</article>", "!broken_xml"),
    ],
)
def test_what_is_no_article_is_unreadable(tmp_path, content, rule):
    assert read(tmp_path, {"a.xml": content}, format="jats", max_document_bytes=9000) == [("a.xml", rule)]


def test_an_article_without_anything_is_an_empty_text(tmp_path):
    assert read(tmp_path, {"a.xml": b"<article/>"}, format="jats") == [("a.xml", "")]
