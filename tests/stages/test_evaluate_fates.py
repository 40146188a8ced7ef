"""Items that stand in the training text are found, whatever case and punctuation; a probe learns what can be learnt."""

import hashlib
import json

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

from stages.documents import DECISION_SCHEMA, DOCUMENT_SCHEMA, write_manifest, write_shard
from stages.evaluate.contamination import Fate, fates
from stages.evaluate.probe import points, probe_curve, probe_entry, read_labelled
from stages.evaluate.tasks import by_fate
from stages.items import ProbeParams
from stages.ngrams import grams_in, grams_of_item, words_in
from stages.params import Refusal

TRAINED = "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse"
DROPPED = "It was the best of times, it was the worst of times, it was the age of wisdom, the age of foolishness"
HELD_OUT = "All happy families are alike; every unhappy family is unhappy in its own way, and so is each of their maids"


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A source of two shards: a document that is trained on in each, one that was dropped, one held out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PEDIGREE_WORKERS", "1")
    shards = [
        [(TRAINED, True, "train"), (DROPPED, False, None)],
        [(HELD_OUT, True, "held_out"), ("end one two three four", True, "train")],
    ]
    for stage in ("extract", "dedup"):
        (tmp_path / "data" / stage / "books").mkdir(parents=True)
    for number, rows in enumerate(shards):
        documents = [{**dict.fromkeys(DOCUMENT_SCHEMA), "text": text} for text, _, _ in rows]
        decided = [{**dict.fromkeys(DECISION_SCHEMA), "keep": keep, "split": split} for _, keep, split in rows]
        write_shard(
            tmp_path / f"data/extract/books/documents-{number:05d}.parquet", pl.DataFrame(documents, DOCUMENT_SCHEMA)
        )
        write_shard(
            tmp_path / f"data/dedup/books/decisions-{number:05d}.parquet", pl.DataFrame(decided, DECISION_SCHEMA)
        )
    for stage in ("extract", "dedup"):
        write_manifest(tmp_path / "data" / stage / "books", {})
    return ["books"]


@pytest.mark.parametrize(
    ("text", "fate"),
    [
        (TRAINED, Fate.CONTAMINATED),
        (f"He said: «{TRAINED.upper().replace(',', ' --')}»!", Fate.CONTAMINATED),  # case and punctuation aside
        ("some years ago never mind how long precisely having little or no", Fate.CONTAMINATED),  # 12 words, whole
        ("some years ago never mind how long precisely having little or many", Fate.CLEAN),
        ("Some years ago, never mind how long precisely, having", Fate.CONTAMINATED),  # 9 words, looked for whole
        ("Some years ago, never mind how short precisely, having", Fate.CLEAN),
        ("Some years ago, never mind how", Fate.SHORT),
        ("", Fate.SHORT),
        (DROPPED, Fate.CLEAN),
        (HELD_OUT, Fate.CLEAN),
        ("having little or no money in my purse end one two three four", Fate.CLEAN),  # across two documents
    ],
)
def test_an_item_is_contaminated_if_the_training_text_holds_its_words(corpus, text, fate):
    other = "An item about something else, that no document of this corpus has in it."

    found = fates({"one": [other], "two": [text]}, corpus)

    assert found == {"one": [Fate.CLEAN], "two": [fate]}


def test_the_fates_dont_depend_on_the_number_of_workers(corpus, monkeypatch):
    texts = {"task": [TRAINED, DROPPED, "short"]}
    alone = fates(texts, corpus)

    monkeypatch.setenv("PEDIGREE_WORKERS", "2")

    assert fates(texts, corpus) == alone


def test_n_grams_stay_within_their_text():
    words, owners = words_in(["a b c", "d e", "", "f g h i"])

    assert len(words) == 9
    assert owners.tolist() == [0, 0, 0, 1, 1, 3, 3, 3, 3]
    assert len(grams_in(words, owners, 3)) == 1 + 0 + 2
    assert grams_in(words, owners, 3)[0] == grams_in(*words_in(["A, b. C!"]), 3)[0]
    assert {size: len(each) for size, each in grams_of_item(" ".join("abcdefghijklmno")).items()} == {13: 3}


def test_clean_and_contaminated_items_are_scored_apart():
    answers = np.array([True, True, False, True])

    found = by_fate(answers, [Fate.CLEAN, Fate.CONTAMINATED, Fate.CLEAN, Fate.CONTAMINATED])

    assert (found["clean"]["n"], found["clean"]["value"]) == (2, 0.5)
    assert (found["contaminated"]["n"], found["contaminated"]["value"]) == (2, 1.0)
    assert found["short"] == {"n": 0}


WORDS = "red blue green dog cat bird".split()


@pytest.fixture
def labelled(tmp_path):
    """Texts of six words, labelled by whether one of them is a colour; and the parameters of a probe on them."""
    draw = np.random.default_rng(0)
    rows = []
    for number in range(80):
        colour = bool(number % 2)
        words = [*draw.choice(WORDS[3:], 4), *draw.choice(WORDS[:3] if colour else WORDS[3:], 1)]
        rows.append({"text": " ".join(draw.permutation(words)), "label": "colour" if colour else "none"})
    data = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    (tmp_path / "labels.jsonl").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    return ProbeParams(data=str(tmp_path / "labels.jsonl"), sha256=sha256, steps=48, batch=16, learning_rate=0.02)


@pytest.fixture
def tokenizer():
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(["?", *WORDS])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def small_model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=7, **sizes))


def test_a_probe_learns_and_learns_the_same_again(labelled, tokenizer):
    texts = read_labelled(labelled, tokenizer, 16)

    curve = probe_curve(small_model(), texts, labelled)
    again = probe_curve(small_model(), texts, labelled)

    assert curve == again
    assert curve[-1] > max(0.8, curve[0])
    entry = probe_entry(labelled, texts, {"untrained": curve})
    assert (entry["n"], entry["train"], entry["labels"], entry["steps"]) == (20, 60, 2, [6, 12, 24, 48])
    assert entry["models"]["untrained"]["accuracy"] == [round(value, 4) for value in curve]
    assert points(1) == [1]


def test_what_tests_a_probe_is_not_trained_on_and_depends_on_the_seed(labelled, tokenizer):
    first, second = (read_labelled(labelled.model_copy(update={"seed": seed}), tokenizer, 16) for seed in (0, 1))

    assert sorted([*first.train, *first.test]) == sorted([*second.train, *second.test])
    assert first.test != second.test
    assert read_labelled(labelled, tokenizer, 2).test[0][0] == first.test[0][0][:2]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"text": "red"}] * 9, "line 1 has no label; each row of evaluate.probe needs text and label"),
        (["red"] * 9, r"line 1 is no JSON object; params.yaml, evaluate.probe needs texts"),
        ([{"text": "red", "label": 1}] * 9, "has 9 texts and 1 labels; a probe needs 4 and 2"),
    ],
)
def test_a_file_that_is_no_probe_is_named(tmp_path, tokenizer, rows, sentence):
    data = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    (tmp_path / "bad.jsonl").write_bytes(data)
    params = ProbeParams(data=str(tmp_path / "bad.jsonl"), sha256=hashlib.sha256(data).hexdigest())

    with pytest.raises(Refusal, match=sentence):
        read_labelled(params, tokenizer, 16)
