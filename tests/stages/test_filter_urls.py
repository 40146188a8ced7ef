"""Lists of URLs, licences, data files: rules that ask a document's own columns."""

import hashlib
import json

import polars as pl
import pytest

from stages.filter import FilterParams, decide, rules
from stages.filter.urls import UrlList, bare, parents, url_words
from stages.params import Refusal, parse_params

DOMAINS = "# advertisements\nads.example\n\nExample.COM\nspam.example.org.\n"
PREFIXES = "https://example.org/forum/\nexample.net/~anna\n"
WORDS = "casino\nSLOTS\n"


@pytest.fixture
def lists(tmp_path):
    """The parameters of the three lists."""
    given = {}
    for kind, text in (("domains", DOMAINS), ("prefixes", PREFIXES), ("words", WORDS)):
        path = tmp_path / f"{kind}.txt"
        path.write_text(text, encoding="utf-8")
        given[kind] = {"file": str(path), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return given


def decided(params, **columns):
    """The decisions on documents with these columns; what isn't given is null."""
    count = len(next(iter(columns.values())))
    known = {"id": pl.String, "origin": pl.String, "meta": pl.String, "license": pl.String, "language": pl.String}
    given = {name: columns.pop(name, [None] * count) for name in known}
    frame = pl.DataFrame({**given, **columns}, schema_overrides=known)
    return decide(frame, rules(parse_params(FilterParams, params, "test")))


@pytest.mark.parametrize(
    ("url", "rule", "value"),
    [
        ("https://ads.example/banner", "url.domains", 1),
        ("https://www.ADS.example:8080/", "url.domains", 1),
        ("http://user:password@a.b.example.com/x", "url.domains", 1),
        ("//spam.example.org./x", "url.domains", 1),
        ("https://badads.example/", None, None),
        ("https://example.org/", None, None),
        ("https://example.org/?next=ads.example", None, None),
        ("http://Example.org/forum/7", "url.prefixes", 1),
        ("https://example.org/Forum/7", None, None),
        ("https://example.net/~anna/a.html", "url.prefixes", 1),
        ("https://www.example.net/~anna", None, None),
        ("https://example.org/Best-Casino%20Slots", "url.words", 2),
        ("https://casinoroyale.example.org/", None, None),
        (None, None, None),
    ],
)
def test_a_url_is_looked_for_in_each_list(lists, url, rule, value):
    meta = json.dumps({"url": url} if url else {"title": "ads.example"})

    decision = decided({"url": lists}, meta=[meta]).row(0, named=True)

    assert (decision["keep"], decision["rule"], decision["value"]) == (rule is None, rule, value)
    assert decision["threshold"] == (0.0 if rule else None)


@pytest.mark.parametrize("kind", ["domains", "prefixes", "words"])
def test_documents_without_any_url_break_no_list(kind):
    found = pl.DataFrame({"meta": ["{}", "{}"]}).select(hits=UrlList(kind, frozenset({"a"})).hits)["hits"]

    assert found.dtype == pl.Int64
    assert not (found > 0).any()


def test_a_url_is_taken_apart():
    assert parents("a.b.org") == ["a.b.org", "b.org", "org"]
    assert bare("HTTPS://A.org/B") == "a.org/B"
    assert bare("a.org") == "a.org"
    assert url_words("https://a.org/x_y?q=Caf%C3%A9") == {"https", "a", "org", "x", "y", "q", "café"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("other\n", r"params\.yaml, filter\.url\.words: .*words\.txt has sha256 \w+, not \w+; bring the right file"),
        (None, r"params\.yaml, filter\.url\.words: .*words\.txt can't be read \(No such file"),
    ],
)
def test_another_list_than_the_pinned_one_is_refused(tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "words.txt").write_text(content)
    params = {"url": {"words": {"file": str(tmp_path / "words.txt"), "sha256": "0" * 64}}}

    with pytest.raises(Refusal, match=sentence):
        decided(params, meta=["{}"])


def test_only_allowed_licences_are_kept():
    decisions = decided({"license": {"allowed": ["CC0-1.0", "MIT"]}}, license=["MIT", "GPL-3.0", None])

    assert decisions["rule"].to_list() == [None, "license.allowed", "license.allowed"]
    assert decisions["value"].to_list() == [None, None, None]


@pytest.mark.parametrize(
    ("language", "characters", "rule"),
    [("json", 49, "min_characters"), ("yaml", 5001, "max_characters"), ("json", 50, None), ("python", 9999, None)],
)
def test_files_in_the_languages_of_data_have_bounds_of_their_own(language, characters, rule):
    decisions = decided({"data_files": {}}, language=[language], characters=[characters], alphabetic_ratio=[0.5])

    assert decisions["rule"].to_list() == [f"data_files.{rule}" if rule else None]


@pytest.mark.parametrize(
    ("language", "characters", "share", "rule"),
    [("html", 99, 0.9, "min_visible_characters"), ("html", 100, 0.19, "min_visible_ratio"), ("html", 100, 0.2, None),
     ("python", 0, 0.0, None)],
)  # fmt: skip
def test_files_of_html_must_show_something(language, characters, share, rule):
    measured = {"visible_characters": [characters], "visible_ratio": [share]}

    decisions = decided({"html_files": {}}, language=[language], **measured)

    assert decisions["rule"].to_list() == [f"html_files.{rule}" if rule else None]


def test_a_document_is_kept_if_its_quality_is_at_least_the_threshold():
    decisions = decided({"quality": {"min_score": 0.5}}, quality_score=[0.5, 0.499, None])

    assert decisions["rule"].to_list() == [None, "quality.min_score", None]
