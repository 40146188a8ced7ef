"""Planted duplicates are found, nobody is lost, and nothing of the held-out split is left to train on."""

import hashlib
import json
import random
import sys
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from copies import VOCABULARY, edited, jaccard, lay, prose
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stages.dedup import runs
from stages.dedup.__main__ import main
from stages.dedup.groups import grown
from stages.dedup.params import DedupParams
from stages.dedup.split import draw, draws_of, held_out, joined, kept_of
from stages.documents import DECISION_SCHEMA, document_id, shard_name, write_manifest, write_shard
from stages.minhash import FingerprintParams, signatures, text_digests
from stages.params import Refusal, parse_params

PARAMS = FingerprintParams()


def run_stage(folder, monkeypatch, workers="1"):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PEDIGREE_WORKERS", workers)
    monkeypatch.setattr(sys, "argv", ["dedup"])
    main()


def ledger_of(folder, source):
    shards = sorted((folder / "data/dedup" / source).glob("decisions-*.parquet"))
    return pl.concat(pl.read_parquet(path) for path in shards)


@pytest.fixture
def decided(tmp_path, monkeypatch):
    """The ledger of some texts of one source, in one shard; all of them long enough for filter."""

    def decide(texts, **params):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        lay(folder, {"web": [texts]}, params)
        run_stage(folder, monkeypatch)
        return ledger_of(folder, "web")

    return decide


def plainly_kept(shards, params, made=PARAMS):
    """For each document the id of the one that is kept: by the plain way, with all of them in memory at once.

    `shards` are (source, texts). Documents of fewer than four characters aren't candidates.
    """
    rows = [(source, f"{number}/{index}", text) for source, number, texts in shards for index, text in enumerate(texts)]
    places = [place for place, (_, _, text) in enumerate(rows) if len(text) > 3]
    texts = [rows[place][2] for place in places]
    signed, digests = signatures(texts, made), text_digests(pl.Series(texts, dtype=pl.String))
    buckets = {}

    def alike(pair):
        one, other = pair
        share = (signed[one] == signed[other]).mean()
        true = jaccard(texts[one].lower(), texts[other].lower(), made.ngram) if params.verify else 1
        return share >= (params.min_similarity or 0) and true >= (params.verify or 0)

    for one, (digest, signature) in enumerate(zip(digests, signed, strict=True)):
        keys = [("digest", digest)]
        if params.near and (signature != 0xFFFF).any():
            keys += [(band, signature.reshape(made.bands, -1)[band].tobytes()) for band in range(made.bands)]
        for key in keys:
            source = None if params.across_sources else rows[places[one]][0]
            buckets.setdefault((key, source), []).append(one)
    pairs = []
    for (key, _), bucket in buckets.items():
        linked = {(one, other) for before, other in pairwise(bucket) for one in (bucket[0], before)}
        pairs += [pair for pair in linked if key[0] == "digest" or alike(pair)]
    left, right = np.array(pairs).reshape(-1, 2).T
    graph = coo_array((np.ones(len(left)), (left, right)), shape=(len(places), len(places)))
    labels = connected_components(graph, directed=False)[1]

    def order(one):
        source, origin, text = rows[places[one]]
        rank = params.priority.index(source) if source in params.priority else len(params.priority)
        keys = {"priority": rank, "length": -len(text), "id": document_id(source, origin)}
        return [keys[name] for name in (*params.keep, "id")]

    best = {label: min(np.flatnonzero(labels == label), key=order) for label in set(labels)}
    kept = [places[best[label]] for label in labels]
    ids = [document_id(source, origin) for source, origin, _ in rows]
    return {ids[place]: ids[other] for place, other in zip(places, kept, strict=True)}


def test_what_a_language_model_wrote_stays_marked_also_when_it_is_dropped(tmp_path, monkeypatch):
    lay(tmp_path, {"web": [[prose(1)]], "written": [[prose(1), prose(2), "x"]]}, {"priority": ["web"]})

    run_stage(tmp_path, monkeypatch)

    assert ledger_of(tmp_path, "web")["synthetic"].to_list() == [False]
    written = ledger_of(tmp_path, "written")
    assert written.select("keep", "synthetic").rows() == [(False, True), (True, True), (False, True)]


# ---- who is a duplicate of whom ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "rule"),
    [
        ("The same text.", "The same text.", "exact_duplicate"),
        ("The same text.", "  the SAME\n\ttext. ", "exact_duplicate"),
        ("The same text.", "The same text!", None),  # too short for a shingle
        ("In 1990 they came, and left in 1991.", "In 2020 they came, and left in 2021!", "near_duplicate"),
        ("Le café était fermé à midi.", "le cafe etait ferme a midi", "near_duplicate"),
        (prose(1), edited(prose(1), 0.01), "near_duplicate"),
        (prose(1), edited(prose(1), 0.3), None),
        (prose(1), prose(2), None),
        ("    ", "\n\n\n\n", "exact_duplicate"),
    ],
)
def test_a_duplicate_is_found_by_its_rule(decided, one, other, rule):
    decisions = decided([one, other])

    assert decisions["rule"].drop_nulls().to_list() == ([rule] if rule else [])
    assert decisions["keep"].sum() == (1 if rule else 2)
    assert decisions["duplicates"].drop_nulls().to_list() == ([1] if rule else [])


def test_the_longest_is_kept_and_of_equals_the_one_with_the_smallest_id(decided):
    by_length = decided([prose(1), prose(1) + " and an end", prose(1).upper()])
    by_id = decided([prose(2).upper(), prose(2), prose(2)])

    assert by_length["keep"].to_list() == [False, True, False]
    assert by_length["duplicate_of"].to_list() == [by_length["id"][1], None, by_length["id"][1]]
    assert by_length["duplicates"].to_list() == [None, 2, None]
    assert by_id.filter("keep")["id"].to_list() == [by_id["id"].min()]


def test_without_length_in_the_rule_the_smallest_id_is_kept(decided):
    decisions = decided([prose(1), prose(1) + " and an end", prose(1) + " a"], keep=["id"])

    assert decisions.filter("keep")["id"].to_list() == [decisions["id"].min()]


def test_duplicates_of_duplicates_are_one_group(decided):
    chain = [prose(7)]
    for step in range(6):
        chain.append(edited(chain[-1], 0.02, step))
    chain[3] += " longest"

    decisions = decided(chain)

    assert decisions["keep"].to_list() == [number == 3 for number in range(7)]
    assert decisions["duplicates"].sum() == 6


def test_planted_near_duplicates_are_found_and_the_similarity_is_near_the_true_one(decided):
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
    assert np.std(errors) < 0.05  # sqrt(s (1 - s) / 110) at s = 0.8 is 0.038


def with_so_many_edits(text, share, seed):
    """`text` with exactly this share of its words replaced."""
    draw, words = random.Random(seed), text.split()
    for place in draw.sample(range(len(words)), round(share * len(words))):
        words[place] = draw.choice(VOCABULARY)
    return " ".join(words)


def test_copies_with_two_words_in_a_hundred_edited_are_found_and_what_is_less_alike_is_kept(decided):
    draw = random.Random(1)
    originals = [prose(seed, int(min(100 * draw.paretovariate(1.2), 2000))) for seed in range(2000)]
    copies = [with_so_many_edits(text, 0.02, seed) for seed, text in enumerate(originals[:1000])]
    others = [with_so_many_edits(text, draw.uniform(0.06, 0.4), seed) for seed, text in enumerate(originals[1000:])]
    texts = originals + copies + others

    decisions = decided(texts)

    removed = decisions.with_row_index("place").filter(~pl.col("keep"))
    found = removed["place"].is_in([*range(1000), *range(2000, 3000)]).sum()  # the copy or its original
    place = {id: number for number, id in enumerate(decisions["id"])}
    pairs = [
        (texts[own], texts[place[other]]) for own, other in zip(removed["place"], removed["duplicate_of"], strict=True)
    ]
    false = sum(jaccard(*pair) < 0.6 for pair in pairs)
    assert found >= 995
    assert false < 0.005 * len(removed)
    assert len(removed) - found < 50  # of those less alike


def test_without_near_only_exact_duplicates_are_dropped(decided):
    decisions = decided([prose(1), prose(1).upper(), edited(prose(1), 0.01)], near=False)

    assert decisions["rule"].drop_nulls().to_list() == ["exact_duplicate"]


# ---- beside the plain way ----------------------------------------------------------------------------------


def many():
    """Shards of three sources with exact and near copies within and across them, and documents too short."""
    draw = random.Random(5)
    originals = [prose(seed, draw.randrange(4, 60)) for seed in range(60)]
    texts = [edited(draw.choice(originals), draw.choice([0, 0, 0.02, 0.05]), seed) for seed in range(240)]
    texts += ["no", "    ", " \n \t ", "", "abc"] * 3
    draw.shuffle(texts)
    cuts = sorted(draw.sample(range(len(texts)), 6))
    parts = [texts[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(texts)], strict=True)]
    return {"web": [parts[0], [], parts[1], parts[2]], "books": [parts[3], parts[4]], "wiki": [parts[5], parts[6]]}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"near": False},
        {"across_sources": False},
        {"priority": ["wiki", "books"]},
        {"keep": ["length", "priority"], "priority": ["wiki"]},
        {"keep": ["id"]},
        {"min_similarity": None},
        {"min_similarity": 0.9},
        {"min_similarity": None, "verify": 0.75},
    ],
)
@pytest.mark.parametrize("made", [{}, {"bands": 14, "rows": 8, "ngram": 3, "seed": 7}])
def test_what_is_kept_is_what_the_plain_way_keeps(tmp_path, monkeypatch, params, made):
    monkeypatch.setattr(runs, "RANGE", 50)  # so that keys are read in many ranges, and links in many pieces
    monkeypatch.setattr("stages.dedup.__main__.RANGE", 50)
    monkeypatch.setattr(runs, "CHUNK", 7)
    monkeypatch.setattr("stages.dedup.groups.SLICE", 13)
    monkeypatch.setattr("stages.dedup.checks.PAIRS", 11)
    monkeypatch.setattr("stages.dedup.checks.TEXTS", 5)
    sources = many()
    lay(tmp_path, sources, params, made)
    expected = plainly_kept(
        [(source, number, texts) for source, shards in sources.items() for number, texts in enumerate(shards)],
        DedupParams(**params),
        FingerprintParams(**made),
    )

    run_stage(tmp_path, monkeypatch)

    ledger = pl.concat(ledger_of(tmp_path, source) for source in sources)
    candidates = ledger.filter(pl.col("rule").is_null() | (pl.col("rule") != "short"))
    found = {row["id"]: row["duplicate_of"] or row["id"] for row in candidates.iter_rows(named=True)}
    assert found == expected
    assert 0 < candidates["duplicates"].sum() == len(candidates) - candidates["keep"].sum()


@pytest.mark.parametrize("seed", range(4))
def test_a_forest_has_the_connected_components_whatever_the_order_of_the_links(tmp_path, seed):
    draw = np.random.default_rng(seed)
    pairs = np.empty(400, runs.PAIR)
    pairs["left"], pairs["right"] = draw.integers(0, 500, (2, 400))
    pairs[:100]["left"], pairs[:100]["right"] = np.arange(100), np.arange(1, 101)  # a chain
    draw.shuffle(pairs)
    graph = coo_array((np.ones(400), (pairs["left"], pairs["right"])), shape=(500, 500))
    labels = connected_components(graph, directed=False)[1]
    least = np.array([np.flatnonzero(labels == label).min() for label in labels])
    for number, part in enumerate((pairs[:150], pairs[150:])):
        part.tofile(tmp_path / str(number))

    forest = grown(500, [tmp_path / "0", tmp_path / "1"], lambda left, right: np.ones(len(left), bool))

    assert np.array_equal(forest, least)


# ---- the held-out split ------------------------------------------------------------------------------------


def held(ids, share, seed=1):
    draws = draws_of(ids, seed)
    return held_out(draws, share, kept_of(draws)).tolist()


def test_about_the_asked_share_is_held_out_by_the_id_alone():
    ids = [document_id("test", str(number)) for number in range(5000)]

    chosen = dict(zip(ids, held(ids, 0.1), strict=True))
    some = dict(zip(ids[1000:4000], held(ids[1000:4000], 0.1), strict=True))

    assert 400 < sum(chosen.values()) < 600
    assert all(chosen[id] == out for id, out in some.items())
    assert held(ids, 0.1) != held(ids, 0.1, seed=2)


@pytest.mark.parametrize("share", [0.0, 1e-9, 0.5, 0.999_999])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_a_source_of_two_or_more_has_documents_in_both_splits_however_it_is_sharded(share, count):
    ids = [document_id("test", str(number)) for number in range(count)]
    parts = [draws_of(part, 1) for part in (ids[:2], [], ids[2:])]
    source = joined(map(kept_of, parts))

    found = [out for part in parts for out in held_out(part, share, source)]

    assert source.documents == len(found) == count
    assert (False in found) == (count > 0)
    assert (True in found) == (count > 1 and share > 0)


def test_a_draw_lies_between_nought_and_one():
    draws = [draw(str(number), 1) for number in range(1000)]

    assert all(0 <= each < 1 for each in draws)
    assert 0.45 < np.mean(draws) < 0.55


# ---- the stage ---------------------------------------------------------------------------------------------


SOURCES = {
    "web": [[prose(1), "no", prose(2)], [], [prose(3), edited(prose(1), 0.01), "", prose(2).title()]],
    "books": [[prose(4), prose(1) + " and more"], [prose(5), prose(6), "a"]],
}  # fmt: skip


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
    assert {path.name for path in (tmp_path / "data/dedup").iterdir()} == set(SOURCES)


def test_a_document_that_filter_dropped_keeps_its_rule_and_a_duplicate_names_the_kept_one(tmp_path, monkeypatch):
    lay(tmp_path, SOURCES)

    run_stage(tmp_path, monkeypatch)

    rows = {row["origin"]: row for row in ledger_of(tmp_path, "web").iter_rows(named=True)}
    assert (rows["0/1"]["rule"], rows["0/1"]["value"], rows["0/1"]["split"]) == ("short", 3.0, None)
    assert rows["0/0"]["rule"] == rows["2/1"]["rule"] == "near_duplicate"
    assert rows["0/0"]["duplicate_of"] == rows["2/1"]["duplicate_of"] == document_id("books", "0/1")
    assert {rows["0/2"]["rule"], rows["2/3"]["rule"]} == {None, "exact_duplicate"}
    assert rows["2/0"]["split"] == "train"


def test_the_source_with_priority_keeps_its_documents_though_others_are_longer(tmp_path, monkeypatch):
    lay(tmp_path, SOURCES, {"priority": ["web"]})

    run_stage(tmp_path, monkeypatch)

    web, books = ({row["origin"]: row for row in ledger_of(tmp_path, name).iter_rows(named=True)} for name in SOURCES)
    kept = next(web[origin] for origin in ("0/0", "2/1") if web[origin]["keep"])
    assert books["0/1"]["duplicate_of"] == kept["id"]
    assert kept["duplicates"] == 2


def test_within_sources_alone_a_copy_in_another_source_is_kept(tmp_path, monkeypatch):
    lay(tmp_path, SOURCES, {"across_sources": False})

    run_stage(tmp_path, monkeypatch)

    assert ledger_of(tmp_path, "books")["rule"].drop_nulls().to_list() == ["short"]
    assert sorted(ledger_of(tmp_path, "web")["rule"].drop_nulls()) == [
        "exact_duplicate", "near_duplicate", "short", "short",
    ]  # fmt: skip


def test_one_worker_and_three_write_the_same_bytes(tmp_path, monkeypatch):
    for workers in ("1", "3"):
        (tmp_path / workers).mkdir()
        lay(tmp_path / workers, SOURCES, {"held_out": 0.3})
        run_stage(tmp_path / workers, monkeypatch, workers)

    assert digest_of(tmp_path / "1/data/dedup") == digest_of(tmp_path / "3/data/dedup")


def test_the_order_of_the_sources_decides_nothing(tmp_path, monkeypatch):
    for name, sources in (("one", SOURCES), ("other", dict(reversed(SOURCES.items())))):
        (tmp_path / name).mkdir()
        lay(tmp_path / name, sources, {"held_out": 0.3})
        run_stage(tmp_path / name, monkeypatch)

    assert digest_of(tmp_path / "one/data/dedup") == digest_of(tmp_path / "other/data/dedup")


def test_a_source_without_a_document_to_train_on_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    lay(tmp_path, {"books": [[prose(1) + " longer", prose(2)]], "web": [[prose(1).upper(), "no"]]})

    with pytest.raises(Refusal, match="source web has no document to train on after dedup: all 1 that its filter kept"):
        run_stage(tmp_path, monkeypatch)

    assert list((tmp_path / "data/dedup").iterdir()) == []


def shorten(folder):
    shard = folder / "data/filter/books/decisions-00000.parquet"
    write_shard(shard, pl.read_parquet(shard).head(1))
    write_manifest(shard.parent, {"kept": 1})


def rename(folder):
    shard = folder / "data/filter/books/decisions-00000.parquet"
    write_shard(shard, pl.read_parquet(shard).reverse())
    write_manifest(shard.parent, {"kept": 2})


def damage(folder):
    shard = folder / "data/fingerprint/books/signatures-00000.npy"
    shard.write_bytes(b"x" * shard.stat().st_size)


def sign_otherwise(folder):
    lay_params = (folder / "params.yaml").read_text().replace("fingerprint: {}", "fingerprint: {bands: 7}")
    (folder / "params.yaml").write_text(lay_params)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (shorten, "has 1 rows for 2 fingerprints"),
        (rename, "has decisions on other documents than"),
        (damage, r"signatures-00000\.npy can't be read"),
        (sign_otherwise, "was made with other bands or rows than params.yaml has"),
        (lambda folder: (folder / "data/fingerprint/stranger").mkdir(), "stranger belongs to no source"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, monkeypatch, harm, sentence):
    lay(tmp_path, {"books": [[prose(1), prose(2)]]})
    harm(tmp_path)

    with pytest.raises(Refusal, match=sentence):
        run_stage(tmp_path, monkeypatch)


def test_a_priority_of_no_source_is_refused(tmp_path, monkeypatch):
    lay(tmp_path, {"books": [[prose(1), prose(2)]]}, {"priority": ["boks"]})

    with pytest.raises(Refusal, match=r"params.yaml: dedup.priority names boks, which is no source \(known: books\)"):
        run_stage(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"held_out": 1.0}, "dedup.held_out is 1.0"),
        ({"held_out": -0.1}, "dedup.held_out is -0.1"),
        ({"bands": 20}, "dedup.bands is fingerprint.bands now; move it there"),
        ({"heldout": 0.1}, "dedup.heldout is not a parameter"),
        ({"keep": ["size"]}, "dedup.keep.0 is 'size'"),
        ({"verify": 0}, "dedup.verify is 0"),
    ],
)
def test_impossible_parameters_are_refused_by_name(params, sentence):
    with pytest.raises(Refusal) as refused:
        parse_params(DedupParams, params, "params.yaml: dedup")

    assert sentence in str(refused.value)
