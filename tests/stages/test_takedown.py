"""What the takedown list names is dropped by it alone; everything else is decided as before."""

import hashlib
import json
import sys

import polars as pl
import pytest
import yaml

from stages import takedown
from stages.documents import DOCUMENT_SCHEMA, document_id, shard_name, write_manifest, write_shard
from stages.extract.signals import measure
from stages.filter import __main__ as stage
from stages.params import Refusal
from stages.takedown import read_takedown

LONG = "The river of the town has two names, and nobody remembers which of them came first. " * 8
PAGES = {
    "https://a.example/one": LONG,
    "https://a.example/two": LONG + "More.",
    "https://b.example/": "too short",
    None: LONG + "It has no address.",
}


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A project with one source `web`, of two shards that hold PAGES; its folder of decisions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["filter", "web"])
    monkeypatch.setenv("PEDIGREE_WORKERS", "1")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"sources": {"web": {"filter": {"gopher_quality": {}}}}}))
    folder = tmp_path / "data/extract/web"
    folder.mkdir(parents=True)
    pages = list(PAGES.items())
    for number, part in enumerate((pages[:2], pages[2:])):
        table = pl.DataFrame(
            {
                "id": [document_id("web", str(url)) for url, _ in part],
                "text": [text for _, text in part],
                "origin": [str(url) for url, _ in part],
                "language": ["en" for _ in part],
                "meta": [json.dumps({"url": url} if url else {}) for url, _ in part],
            },
        )
        absent = [pl.lit("", pl.String).alias(name) for name in DOCUMENT_SCHEMA if name not in table.columns]
        write_shard(
            folder / shard_name("documents", number), table.with_columns(absent).select(DOCUMENT_SCHEMA.names())
        )
        signals = pl.concat([table.select("id"), measure(table["text"].to_list())], how="horizontal")
        write_shard(folder / shard_name("signals", number), signals)
    write_manifest(folder, {})
    return tmp_path / "data/filter/web"


def take_down(*entries):
    with open("takedown.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def decisions(folder):
    stage.main()
    return pl.read_parquet(folder / "decisions-*.parquet")


def dropped_by(folder):
    """The rule that dropped each of PAGES, None if it is kept."""
    return decisions(folder)["rule"].to_list()


SHORT = "gopher_quality.min_words"
DOWN = "takedown"


@pytest.mark.parametrize(
    ("entry", "rules"),
    [
        ({"id": document_id("web", "https://a.example/one")}, [DOWN, None, SHORT, None]),
        ({"url": "https://a.example/two"}, [None, DOWN, SHORT, None]),
        ({"url": "https://a.example/"}, [None, None, SHORT, None]),
        ({"url_prefix": "https://a.example/"}, [DOWN, DOWN, SHORT, None]),
        ({"url_prefix": "https://b.example/"}, [None, None, DOWN, None]),  # it wins over the rule that was broken
        ({"sha256": hashlib.sha256((LONG + "It has no address.").encode()).hexdigest()}, [None, None, SHORT, DOWN]),
        ({"sha256": "0" * 64, "reason": "unknown", "date": "2026-11-24"}, [None, None, SHORT, None]),
    ],
)
def test_a_document_is_dropped_by_what_names_it(web, entry, rules):
    take_down(entry)

    assert dropped_by(web) == rules


def test_a_decision_to_take_down_has_no_value_and_no_threshold(web):
    take_down({"url": "https://b.example/"})

    decision = decisions(web).row(2, named=True)

    assert (decision["keep"], decision["rule"], decision["value"], decision["threshold"]) == (False, DOWN, None, None)
    assert json.loads((web / "manifest.json").read_text())["counts"]["dropped"] == {DOWN: 1}


def test_a_source_that_nothing_is_taken_from_is_decided_byte_for_byte_as_before(web):
    take_down()
    stage.main()
    before = {path.name: path.read_bytes() for path in web.iterdir()}

    take_down({"id": "0" * 32}, {"url_prefix": "https://c.example/"}, {"sha256": "0" * 64})
    stage.main()

    assert {path.name: path.read_bytes() for path in web.iterdir()} == before


@pytest.mark.parametrize(
    ("entry", "read"),
    [(None, []), ({"id": "0" * 32}, ["id"]), ({"url": "x"}, ["meta"]), ({"sha256": "0" * 64}, ["text"])],
)
def test_only_what_the_list_asks_for_is_read(web, monkeypatch, entry, read):
    asked = []
    whole = takedown.read_shard
    monkeypatch.setattr(takedown, "read_shard", lambda path, columns: (asked.extend(columns), whole(path, columns))[1])
    take_down(*([entry] if entry else []))

    stage.main()

    assert sorted(set(asked)) == read


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"id": "0c7f"}', "line 2: id is '0c7f'; it must be 32 hexadecimal digits, lower case"),
        ('{"sha256": "%s"}' % ("A" * 64), "line 2: sha256 is 'AAAA"),
        ('{"url": ""}', "line 2: url is ''; it must be a URL"),
        ('{"url": 7}', "line 2: url is 7; it must be a URL"),
        ('{"url": "x", "date": "yesterday"}', "line 2: date is 'yesterday'; it must be a date like 2026-11-24"),
        ('{"url": "x", "id": "%s"}' % ("0" * 32), "line 2 has id and url of id, url, url_prefix, sha256; give exactly"),
        ("{}", "line 2 has none of id, url, url_prefix, sha256; give exactly one of them"),
        ('{"uri": "x"}', "line 2: uri is no field of an entry"),
        ("https://a.example/", "line 2 is 'https://a.example/', not a JSON object"),
        ("[1]", "line 2 is '[1]', not a JSON object"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_entry_is_refused_by_its_number(tmp_path, line, sentence):
    path = tmp_path / "takedown.jsonl"
    path.write_text(f'{{"url": "x"}}\n{line}\n')

    with pytest.raises(Refusal) as refused:
        read_takedown(path)

    assert f"{path} {sentence}" in str(refused.value)


def test_a_missing_list_is_refused(tmp_path):
    with pytest.raises(Refusal, match=r"takedown\.jsonl is missing; make it"):
        read_takedown(tmp_path / "takedown.jsonl")


def test_a_list_that_takes_a_whole_source_is_refused_with_the_remedy(web):
    take_down({"url_prefix": "https://"}, {"id": document_id("web", "None")})

    with pytest.raises(Refusal, match=r"takedown\.jsonl takes down 4 of all 4 documents of web.*take web out of"):
        stage.main()
