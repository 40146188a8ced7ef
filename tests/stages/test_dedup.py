"""Planted duplicates are found, nobody is lost, and nothing of the held-out split is left to train on."""

import hashlib
import json
import random
import sys

import numpy as np
import polars as pl
import pytest
import yaml

from stages import dedup as stage
from stages.dedup import Candidates, DedupParams, decide, draw, folding, shingles, signatures, splits, text_digests
from stages.documents import DECISION_SCHEMA, DOCUMENT_SCHEMA, document_id, shard_name, write_manifest, write_shard
from stages.params import Refusal, parse_params
from stages.words import batches

PARAMS = DedupParams()
VOCABULARY = [f"word{number}" if number % 3 else chr(0x430 + number % 32) * 4 for number in range(3000)]


def prose(seed, count=200):
    """So many words, like no other seed's."""
    return " ".join(random.Random(seed).choices(VOCABULARY, k=count))


def edited(text, share, seed=0):
    """`text` with about this share of its words replaced."""
    generator = random.Random(seed)
    return " ".join(generator.choice(VOCABULARY) if generator.random() < share else word for word in text.split())


def candidates(texts, ids=None):
    ids = ids or [document_id("test", str(number)) for number in range(len(texts))]
    return Candidates(
        ids, list(map(len, texts)), text_digests(pl.Series(texts, dtype=pl.String)), signatures(texts, PARAMS)
    )


def decided(texts, params=PARAMS, ids=None):
    return decide(candidates(texts, ids), params)


def jaccard(one, other, ngram=5):
    """By the book: equal 5-grams of words over all of them."""
    sets = [{tuple(text.split()[i : i + ngram]) for i in range(len(text.split()) - ngram + 1)} for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


# ---- who is a duplicate of whom ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "rule"),
    [
        ("The same text.", "The same text.", "exact_duplicate"),
        ("The same text.", "  the SAME\n\ttext. ", "exact_duplicate"),
        ("ΣΊΣΥΦΟΣ Éa", "σίσυφος éa", "exact_duplicate"),
        ("The same text.", "The same text!", None),  # too short for a shingle
        ("In 1990 they came, and left in 1991.", "In 2020 they came, and left in 2021!", "near_duplicate"),
        ("Le café était fermé à midi.", "le cafe etait ferme a midi", "near_duplicate"),
        (prose(1), edited(prose(1), 0.01), "near_duplicate"),
        (prose(1), edited(prose(1), 0.3), None),
        (prose(1), prose(2), None),
        ("", "", "exact_duplicate"),
        ("", "a", None),
    ],
)
def test_a_duplicate_is_found_by_its_rule(one, other, rule):
    decisions = decided([one, other])

    assert decisions["rule"].drop_nulls().to_list() == ([rule] if rule else [])
    assert decisions["keep"].sum() == (1 if rule else 2)


def test_the_longest_is_kept_and_of_equals_the_one_with_the_smallest_id():
    long = prose(1) + " and an end"

    by_length = decided([prose(1), long, prose(1).upper()], ids=["a", "b", "c"])
    by_id = decided([prose(2).upper(), prose(2), prose(2)], ids=["c", "a", "b"])

    assert by_length["keep"].to_list() == [False, True, False]
    assert by_length["duplicate_of"].to_list() == ["b", None, "b"]
    assert by_id["keep"].to_list() == [False, True, False]
    assert by_id["rule"].to_list() == ["exact_duplicate", None, "exact_duplicate"]


def test_the_order_of_the_documents_decides_nothing():
    texts = [edited(prose(seed % 20), 0.02, seed) for seed in range(60)]
    ids = [document_id("test", str(number)) for number in range(len(texts))]
    order = random.Random(3).sample(range(len(texts)), len(texts))

    forth = decided(texts, ids=ids)
    shuffled = decided([texts[i] for i in order], ids=[ids[i] for i in order])

    assert forth.sort("id").equals(shuffled.sort("id"))


def test_duplicates_of_duplicates_are_one_component():
    chain = [prose(7)]
    for step in range(6):
        chain.append(edited(chain[-1], 0.02, step))
    chain[3] += " longest"

    decisions = decided(chain)

    assert decisions["keep"].to_list() == [number == 3 for number in range(7)]


def test_planted_near_duplicates_are_found_and_the_similarity_is_near_the_true_one():
    originals = [prose(seed) for seed in range(100)]
    copies = [edited(text, 0.01, seed) for seed, text in enumerate(originals)]
    texts = originals + copies

    decisions = decided(texts)

    found = decisions.filter(pl.col("rule") == "near_duplicate")
    unedited = sum(text == copy for text, copy in zip(originals, copies, strict=True))
    assert (decisions["rule"] == "exact_duplicate").sum() == unedited
    assert len(found) + unedited >= 98
    assert decisions["keep"].sum() + len(found) + unedited == len(texts)
    place = {id: number for number, id in enumerate(decisions["id"])}
    errors = [row["similarity"] - jaccard(texts[place[row["id"]]], texts[place[row["duplicate_of"]]])
              for row in found.iter_rows(named=True)]  # fmt: skip
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) < 0.05  # sqrt(s (1 - s) / 112) at s = 0.8 is 0.038


def test_without_near_only_exact_duplicates_are_dropped():
    texts = [prose(1), prose(1).upper(), edited(prose(1), 0.01)]

    decisions = decide(candidates(texts), DedupParams(near=False))

    assert sorted(decisions["rule"].drop_nulls()) == ["exact_duplicate"]


def test_nothing_in_has_nothing_out():
    assert len(decided([])) == 0


# ---- signatures --------------------------------------------------------------------------------------------


def test_signatures_agree_with_a_slow_version(monkeypatch):
    monkeypatch.setattr(stage, "BLOCK", 64)  # so that texts go over blocks, and blocks over texts
    texts = ["", prose(1, 4), prose(2, 5), prose(3, 300), "", prose(4, 90), "a b c d e " * 40, ""]

    found = signatures(texts, PARAMS)

    for text, signature in zip(texts, found, strict=True):
        hashes = [int(each) for each in shingles([text], 5)[0]]
        slow = [min(((each * int(a)) % 2**32 for each in hashes), default=2**32 - 1)
                for a in stage.multipliers(PARAMS)]  # fmt: skip
        assert signature.tolist() == slow


def test_a_signature_does_not_depend_on_the_batch(monkeypatch):
    texts = [prose(seed, seed) for seed in range(40)]
    together = signatures(texts, PARAMS)
    monkeypatch.setattr(stage, "batches", lambda texts: batches(texts, characters=100))

    assert np.array_equal(signatures(texts, PARAMS), together)


@pytest.mark.parametrize(
    ("text", "folded"),
    [("aZ", "az"), ("É", "e"), ("e\u0301", "e"), ("İ", "i"), ("ß", "ß"), ("7٣", "00"), (".,-\n", "    "), ("한", "한")],
)  # fmt: skip
def test_a_character_is_folded(text, folded):
    codes = [folding()[ord(character)] for character in text]

    assert "".join(chr(code) for code in codes if code) == folded


# ---- the held-out split ------------------------------------------------------------------------------------


def test_about_the_asked_share_is_held_out_by_the_id_alone():
    ids = [document_id("test", str(number)) for number in range(5000)]
    params = DedupParams(held_out=0.1)

    chosen = dict(zip(ids, splits(ids, params), strict=True))
    some = dict(zip(ids[1000:4000], splits(ids[1000:4000], params), strict=True))

    assert 400 < sum(split == "held_out" for split in chosen.values()) < 600
    assert all(chosen[id] == split for id, split in some.items())
    assert splits(ids, params) != splits(ids, DedupParams(held_out=0.1, seed=2))


@pytest.mark.parametrize("held_out", [0.0, 1e-9, 0.5, 0.999_999])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_a_source_of_two_or_more_has_documents_in_both_splits(held_out, count):
    found = splits([document_id("test", str(number)) for number in range(count)], DedupParams(held_out=held_out))

    assert len(found) == count
    assert ("train" in found) == (count > 0)
    assert ("held_out" in found) == (count > 1 and held_out > 0)


def test_a_draw_lies_between_nought_and_one():
    draws = [draw(str(number), 1) for number in range(1000)]

    assert all(0 <= each < 1 for each in draws)
    assert 0.45 < np.mean(draws) < 0.55


# ---- the stage ---------------------------------------------------------------------------------------------


def lay(folder, sources, params):
    """A project in `folder` whose filter dropped all that is shorter than four characters."""
    filters = {"sources": {name: {} for name in sources}, "dedup": params}
    (folder / "params.yaml").write_text(yaml.safe_dump(filters, sort_keys=False))
    for name, shards in sources.items():
        for stage_name in ("extract", "filter"):
            (folder / "data" / stage_name / name).mkdir(parents=True)
        for number, texts in enumerate(shards):
            lay_shard(folder, name, number, texts)
        for stage_name in ("extract", "filter"):
            write_manifest(folder / "data" / stage_name / name, {})


def lay_shard(folder, source, number, texts):
    origins = [f"{number}/{index}" for index in range(len(texts))]
    table = pl.DataFrame(
        {"id": [document_id(source, origin) for origin in origins], "text": texts, "origin": origins},
        schema_overrides={"id": pl.String, "text": pl.String, "origin": pl.String},
    )
    keep = table["text"].str.len_chars() > 3
    documents = table.with_columns(pl.lit("", pl.String).alias(name) for name in ("source", "license", "language"))
    documents = documents.with_columns(pl.lit(None, pl.String).alias(name) for name in ("date", "meta"))
    decisions = table.select("id", "origin").with_columns(
        keep=keep, rule=pl.when(~keep).then(pl.lit("short")), value=pl.when(~keep).then(3.0)
    )
    absent = [name for name in DECISION_SCHEMA if name not in decisions.columns]
    decisions = decisions.with_columns(pl.lit(None).alias(name) for name in absent)
    write_shard(folder / "data/extract" / source / shard_name("documents", number), documents.select(*DOCUMENT_SCHEMA))
    write_shard(
        folder / "data/filter" / source / shard_name("decisions", number),
        decisions.select(pl.col(name).cast(dtype) for name, dtype in DECISION_SCHEMA.items()),
    )


SOURCES = {
    "web": [[prose(1), "no", prose(2)], [], [prose(3), edited(prose(1), 0.01), "", prose(2).title()]],
    "books": [[prose(4), prose(1) + " and more"], [prose(5), prose(6), "a"]],
}  # fmt: skip


def run_stage(folder, monkeypatch, workers="1"):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PEDIGREE_WORKERS", workers)
    monkeypatch.setattr(sys, "argv", ["dedup"])
    stage.main()


def digest_of(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_ledger_joins_filter_and_dedup_and_its_counts_add_up(tmp_path, monkeypatch):
    lay(tmp_path, SOURCES, {"held_out": 0.3})

    run_stage(tmp_path, monkeypatch)

    for source, shards in SOURCES.items():
        folder = tmp_path / "data/dedup" / source
        tables = [pl.read_parquet(folder / shard_name("decisions", number)) for number in range(len(shards))]
        assert [len(table) for table in tables] == [len(texts) for texts in shards]
        assert all(table.schema == DECISION_SCHEMA for table in tables)
        counts, ledger = json.loads((folder / "manifest.json").read_text())["counts"], pl.concat(tables)
        assert counts["read"] == len(ledger) - (ledger["rule"] == "short").sum()
        assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())
        assert counts["kept"] == counts["held_out"] + counts["train"] == ledger["keep"].sum()
        assert ledger.filter("keep")["rule"].null_count() == counts["kept"]
        assert ledger.filter(~pl.col("keep"))["split"].null_count() == len(ledger) - counts["kept"]
        assert counts["held_out"] >= 1


def test_a_document_that_filter_dropped_keeps_its_rule_and_a_duplicate_names_the_kept_one(tmp_path, monkeypatch):
    lay(tmp_path, SOURCES, {})

    run_stage(tmp_path, monkeypatch)

    web = pl.read_parquet(tmp_path / "data/dedup/web/decisions-*.parquet")
    rows = {row["origin"]: row for row in web.iter_rows(named=True)}
    assert (rows["0/1"]["rule"], rows["0/1"]["value"], rows["0/1"]["split"]) == ("short", 3.0, None)
    assert rows["0/0"]["rule"] == rows["2/1"]["rule"] == "near_duplicate"
    assert rows["0/0"]["duplicate_of"] == rows["2/1"]["duplicate_of"] == document_id("books", "0/1")
    assert {rows["0/2"]["rule"], rows["2/3"]["rule"]} == {None, "exact_duplicate"}
    assert rows["2/0"]["split"] == "train"


def test_one_worker_and_four_write_the_same_bytes(tmp_path, monkeypatch):
    for workers in ("1", "4"):
        (tmp_path / workers).mkdir()
        lay(tmp_path / workers, SOURCES, {"held_out": 0.3})
        run_stage(tmp_path / workers, monkeypatch, workers)

    assert digest_of(tmp_path / "1/data/dedup") == digest_of(tmp_path / "4/data/dedup")


def test_a_source_without_a_document_to_train_on_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    lay(tmp_path, {"books": [[prose(1), prose(2)]], "web": [[prose(1).upper(), "no"]]}, {})
    lay_shard(tmp_path, "books", 0, [prose(1) + " longer", prose(2)])
    write_manifest(tmp_path / "data/extract/books", {})
    write_manifest(tmp_path / "data/filter/books", {})

    with pytest.raises(Refusal, match="source web has no document to train on after dedup: all 1 that its filter kept"):
        run_stage(tmp_path, monkeypatch)

    assert not (tmp_path / "data/dedup/books").exists()


def test_decisions_on_other_documents_are_refused(tmp_path, monkeypatch):
    lay(tmp_path, {"books": [[prose(1), prose(2)]]}, {})
    shard = tmp_path / "data/filter/books/decisions-00000.parquet"
    write_shard(shard, pl.read_parquet(shard).head(1))
    write_manifest(shard.parent, {})

    with pytest.raises(Refusal, match="has 1 rows for 2 documents"):
        run_stage(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"held_out": 1.0}, "dedup.held_out is 1.0"),
        ({"held_out": -0.1}, "dedup.held_out is -0.1"),
        ({"bands": 0}, "dedup.bands is 0"),
        ({"heldout": 0.1}, "dedup.heldout is not a parameter"),
    ],
)
def test_impossible_parameters_are_refused_by_name(params, sentence):
    with pytest.raises(Refusal) as refused:
        parse_params(DedupParams, params, "params.yaml: dedup")

    assert sentence in str(refused.value)
