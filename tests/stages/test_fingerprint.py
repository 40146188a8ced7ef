"""Digests and signatures are those of the texts alone: of a slow version, whatever the batch or the shard."""

import hashlib
import sys
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from copies import edited, jaccard, lay, prose

from stages import fingerprint as stage
from stages import minhash
from stages.minhash import (
    FINGERPRINT_SCHEMA,
    NO_SHINGLE,
    FingerprintParams,
    band_keys,
    folding,
    multipliers,
    pieces,
    shingles,
    signatures,
    similarities,
    text_digests,
)
from stages.params import Refusal, parse_params
from stages.words import batches

PARAMS = FingerprintParams()


def digests(*texts):
    return text_digests(pl.Series(texts, dtype=pl.String))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The same text.", "  the SAME\n\ttext. ", True),
        ("ΣΊΣΥΦΟΣ Éa", "σίσυφος éa", True),
        ("The same text.", "The same text!", False),
        ("the text", "thetext", False),
        ("", " \n", True),
    ],
)
def test_a_digest_is_that_of_the_text_but_for_case_and_white_space(one, other, same):
    assert len(set(digests(one, other))) == (1 if same else 2)


def test_a_digest_is_worked_out_by_hand():
    assert digests(" Two\n words") == [hashlib.blake2b(b"two words", digest_size=16).digest()]


def test_signatures_agree_with_a_slow_version(monkeypatch):
    monkeypatch.setattr(minhash, "BLOCK", 64)  # so that texts go over blocks, and blocks over texts
    texts = ["", prose(1, 4), prose(2, 5), prose(3, 300), "", prose(4, 90), "a b c d e " * 40, ""]

    found = signatures(texts, PARAMS)

    for text, signature in zip(texts, found, strict=True):
        hashes = [int(each) for each in shingles([text], 5)[0]]
        least = [min(((each * int(a)) % 2**32 for each in hashes), default=NO_SHINGLE) for a in multipliers(PARAMS)]
        assert signature.tolist() == [each % 2**16 for each in least]


def test_what_is_made_of_a_text_does_not_depend_on_the_batch(monkeypatch):
    texts = [prose(seed, seed) for seed in range(40)]
    together, hashed = signatures(texts, PARAMS), digests(*texts)
    monkeypatch.setattr(minhash, "batches", lambda texts: batches(texts, characters=100))

    assert np.array_equal(signatures(texts, PARAMS), together)
    assert digests(*texts) == hashed


@pytest.mark.parametrize("ngram", [1, 2, 5, 32])
def test_a_long_text_is_read_in_pieces_and_has_the_same_fingerprint(monkeypatch, ngram):
    params = FingerprintParams(ngram=ngram)
    texts = ["  " + prose(1, 400) + "\n", prose(2, 30), prose(3, 800)]
    whole, hashed = signatures(texts, params), digests(*texts)
    monkeypatch.setattr(minhash, "PIECE", 300)
    monkeypatch.setattr(minhash, "batches", lambda texts: batches(texts, characters=300))

    assert np.array_equal(signatures(texts, params), whole)
    assert digests(*texts) == hashed


@pytest.mark.parametrize("text", ["", "a b c", "x" * 25, "one two three four five six", "x" * 25 + " y" * 9, " " * 30])
def test_pieces_are_short_and_together_the_text(monkeypatch, text):
    monkeypatch.setattr(minhash, "PIECE", 10)

    found = list(pieces(text))

    assert "".join(found) == text
    assert max(map(len, found)) <= 10
    assert all(after[0] == " " or len(before) == 10 for before, after in pairwise(found))


@pytest.mark.parametrize(
    ("text", "folded"),
    [("aZ", "az"), ("É", "e"), ("e\u0301", "e"), ("İ", "i"), ("ß", "ß"), ("7٣", "00"), (".,-\n", "    "), ("한", "한")],
)  # fmt: skip
def test_a_character_is_folded(text, folded):
    codes = [folding()[ord(character)] for character in text]

    assert "".join(chr(code) for code in codes if code) == folded


def test_similarity_is_near_the_true_one_and_equal_bands_have_equal_keys():
    one, other = prose(1, 2000), edited(prose(1, 2000), 0.03)
    signed = signatures([one, other], FingerprintParams(bands=100, rows=4))

    keys = [band_keys(signed[:, 4 * band : 4 * band + 4].T, band) for band in range(100)]

    assert abs(similarities(signed[:1], signed[1:])[0] - jaccard(one, other)) < 0.06
    for band, (first, second) in enumerate(keys):
        assert (first == second) == (signed[0, 4 * band : 4 * band + 4] == signed[1, 4 * band : 4 * band + 4]).all()
    assert len({int(key) for pair in keys for key in pair}) > 100  # a band's number is in its key


def run_stage(folder, source, monkeypatch, workers="1"):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PEDIGREE_WORKERS", workers)
    monkeypatch.setattr(sys, "argv", ["fingerprint", source])
    stage.main()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("workers", ["1", "3"])
def test_the_stage_writes_a_row_for_each_document_kept_or_not(tmp_path, monkeypatch, workers):
    shards = [["a", prose(1), "no"], [], [prose(2)]]
    lay(tmp_path, {"web": shards})
    expected = contents(tmp_path / "data/fingerprint/web")

    run_stage(tmp_path, "web", monkeypatch, workers)

    folder = tmp_path / "data/fingerprint/web"
    tables = [pl.read_parquet(folder / f"fingerprints-{number:05d}.parquet") for number in range(3)]
    assert [len(table) for table in tables] == [3, 0, 1]
    assert all(table.schema == FINGERPRINT_SCHEMA for table in tables)
    assert tables[0]["characters"].to_list() == [1, len(prose(1)), 2]
    assert np.array_equal(np.load(folder / "signatures-00000.npy"), signatures(shards[0], PARAMS))
    assert {name: data for name, data in contents(folder).items() if name != "manifest.json"} == {
        name: data for name, data in expected.items() if name != "manifest.json"
    }


def test_a_shard_is_read_in_row_groups(tmp_path, monkeypatch):
    texts = [prose(seed, 12) for seed in range(20)]
    lay(tmp_path, {"web": [texts]})
    expected = contents(tmp_path / "data/fingerprint/web")
    read = stage.read_blocks
    monkeypatch.setattr(stage, "read_blocks", lambda path, columns: read(path, columns, rows=7))

    run_stage(tmp_path, "web", monkeypatch)

    assert contents(tmp_path / "data/fingerprint/web")["signatures-00000.npy"] == expected["signatures-00000.npy"]
    assert (
        contents(tmp_path / "data/fingerprint/web")["fingerprints-00000.parquet"]
        == expected["fingerprints-00000.parquet"]
    )


@pytest.mark.parametrize(
    ("params", "sentence"), [({"bands": 0}, "fingerprint.bands is 0"), ({"n": 1}, "fingerprint.n is not a parameter")]
)
def test_impossible_parameters_are_refused_by_name(params, sentence):
    with pytest.raises(Refusal) as refused:
        parse_params(FingerprintParams, params, "params.yaml: fingerprint")

    assert sentence in str(refused.value)
