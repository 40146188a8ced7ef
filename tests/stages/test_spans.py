"""Lines and paragraphs that stand in a source too often are cut, the first ones stay, and all read the same text."""

import json
import random
import sys
from collections import Counter
from itertools import pairwise

import polars as pl
import pytest
from copies import lay, prose

from stages.dedup import cuts
from stages.dedup.__main__ import main
from stages.documents import kept_documents, left_of, shard_paths
from stages.minhash import SpanParams
from stages.params import Refusal
from stages.spans import spans_of

LINES = {"spans": {"unit": "line", "min_characters": 6}}


def spans(*texts, **params):
    return spans_of(list(texts), SpanParams(**{"unit": "line", "min_characters": 1, **params}))


@pytest.mark.parametrize(
    ("text", "unit", "found"),
    [
        ("one\ntwo\nthree", "line", ["one\n", "two\n", "three"]),
        ("one", "line", ["one"]),
        ("one\n", "line", ["one\n"]),
        ("\n\none\n\n\n  two ", "line", ["one\n\n\n", "  two "]),
        ("", "line", []),
        (" \n \n", "line", []),
        ("one\ntwo\n\nthree\n \nfour", "paragraph", ["one\ntwo\n\n", "three\n \n", "four"]),
        ("é\nü", "line", ["é\n", "ü"]),
    ],
)
def test_the_spans_of_a_text(text, unit, found):
    table = spans(text, unit=unit)

    assert [text[begin:end] for begin, end in table.select("begin", "end").iter_rows()] == found


def test_a_short_span_is_none_and_equal_ones_have_equal_hashes_whatever_their_case_and_white_space():
    table = spans("Home page\n    \nhi", " home  PAGE \nhome page!", min_characters=3)

    assert table["row"].to_list() == [0, 1, 1]
    assert table["hash"].n_unique() == 2
    assert table["hash"][0] == table["hash"][1]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_left_is_as_if_what_is_cut_had_never_been_there(seed):
    draw = random.Random(seed)
    lines = [prose(number, draw.randrange(1, 4)) for number in range(draw.randrange(1, 9))]
    chosen = [draw.random() < 0.5 for _ in lines]
    table = spans("\n".join(lines)).filter(pl.Series(chosen))

    cut = cuts.joined(table)["cuts"].to_list() or [[]]

    kept = [line for line, gone in zip(lines, chosen, strict=True) if not gone]
    assert left_of("\n".join(lines), cut[0]) == "\n".join(kept)
    assert all(one < other for one, other in pairwise(cut[0]))


# ---- the stage ---------------------------------------------------------------------------------------------


def run_stage(folder, monkeypatch, workers="1"):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PEDIGREE_WORKERS", workers)
    monkeypatch.setattr(sys, "argv", ["dedup"])
    main()


def texts_of(folder, source):
    pair = folder / "data/extract" / source, folder / "data/dedup" / source
    return [text for shard in kept_documents(*pair, ["id", "text"], "train") for text in shard["text"]]


def ledger_of(folder, source):
    return pl.concat(map(pl.read_parquet, shard_paths(folder / "data/dedup" / source, "decisions")))


def pages():
    """Pages of a few lines, some of which stand in many of them; two pages are the same."""
    draw = random.Random(3)
    common = [prose(1000 + number, 4) for number in range(6)]
    texts = []
    for number in range(50):
        own = [prose(number * 10 + line, draw.randrange(2, 20)) for line in range(draw.randrange(0, 4))]
        texts.append("\n".join(draw.sample([*own, *draw.sample(common, draw.randrange(1, 4))], len(own) + 1)))
    texts[30] = texts[7]
    return [texts[:20], [], texts[20:35], texts[35:]]


def plainly_cut(shards, copies):
    """The texts that are kept, without the lines that stood there `copies` times before, by the plain way."""
    seen, whole, left = Counter(), set(), []
    for text in (text for shard in shards for text in shard):
        if text in whole:
            continue
        whole.add(text)
        lines = []
        for line in text.split("\n"):
            seen[line] += 1
            if seen[line] <= copies or len(line) < 6:
                lines.append(line)
        left.append("\n".join(lines))
    return [text for text in left if text]


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_the_texts_are_those_that_the_plain_way_leaves(tmp_path, monkeypatch, copies):
    monkeypatch.setattr(cuts, "RANGE", 20)
    lay(tmp_path, {"web": pages(), "books": [["A line that stays.\n" + prose(9)]]}, {
        "keep": ["id"], "near": False, "spans": {"max_copies": copies},
    }, {"spans": {**LINES["spans"], "sources": ["web"]}})  # fmt: skip
    web = pages()

    run_stage(tmp_path, monkeypatch)

    ledger = ledger_of(tmp_path, "web")
    dropped = ledger.filter(pl.col("rule") == "exact_duplicate")["origin"].to_list()
    shards = [
        [text for index, text in enumerate(texts) if f"{number}/{index}" not in dropped]
        for number, texts in enumerate(web)
    ]
    assert texts_of(tmp_path, "web") == plainly_cut(shards, copies)
    assert texts_of(tmp_path, "web") != [text for shard in shards for text in shard]
    assert texts_of(tmp_path, "books") == ["A line that stays.\n" + prose(9)]
    assert ledger_of(tmp_path, "books")["cuts"].null_count() == 1


def test_a_document_that_is_left_with_too_little_is_dropped_by_its_rule(tmp_path, monkeypatch):
    texts = ["Navigation and more\nThe first page has this text.", "Navigation and more\nbye"]
    lay(tmp_path, {"web": [[*texts, "no"]]}, {"spans": {"min_characters_left": 4}}, LINES)

    run_stage(tmp_path, monkeypatch)

    first, second, short = ledger_of(tmp_path, "web").iter_rows(named=True)
    assert (first["keep"], first["cuts"], first["split"]) == (True, None, "train")
    assert (second["keep"], second["rule"], second["value"], second["threshold"], second["split"]) == (
        False, "spans.min_characters_left", 3, 4, None
    )  # fmt: skip
    assert second["cuts"] == [0, 20]
    assert short["rule"] == "short"
    counts = json.loads((tmp_path / "data/dedup/web/manifest.json").read_text())["counts"]
    assert counts == {"read": 2, "kept": 1, "dropped": {"spans.min_characters_left": 1}, "held_out": 0, "train": 1}


def test_one_worker_and_three_cut_the_same(tmp_path, monkeypatch):
    found = []
    for workers in ("1", "3"):
        (tmp_path / workers).mkdir()
        lay(tmp_path / workers, {"web": pages()}, {"spans": {}, "held_out": 0.2}, LINES)
        run_stage(tmp_path / workers, monkeypatch, workers)
        found.append([path.read_bytes() for path in shard_paths(tmp_path / workers / "data/dedup/web", "decisions")])

    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("dedup", "made", "sentence"),
    [
        ({"spans": {}}, {}, "dedup.spans cuts spans, but fingerprint.spans doesn't say which"),
        ({}, {"spans": {"unit": "line", "sources": ["webb"]}}, "fingerprint.spans.sources names webb"),
    ],
)
def test_cuts_of_nothing_are_refused(tmp_path, monkeypatch, dedup, made, sentence):
    lay(tmp_path, {"web": [[prose(1)]]}, dedup, made)

    with pytest.raises(Refusal, match=sentence):
        run_stage(tmp_path, monkeypatch)
