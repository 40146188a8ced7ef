import hashlib

import polars as pl
import pytest
from copies import lay
from transformers import AutoTokenizer

from stages.documents import write_manifest, write_shard
from stages.mixture import Epochs
from stages.params import Refusal, parse_params
from stages.tokenize import check_vocabulary
from stages.tokenizer import (
    ExistingTokenizer,
    TokenizerParams,
    choose,
    load_existing,
    sample_shares,
    save,
    text_bytes,
    train,
)
from stages.tokens import load_mask_token, load_tokenizer

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "naïve café, 你好 🙂"] * 20
SEPARATOR = "<|endoftext|>"
PARAMS = TokenizerParams(vocabulary=300, mask_token="<|mask|>")


@pytest.fixture
def folder(tmp_path):
    save(train(iter(TEXTS), 300, PARAMS.special), tmp_path, PARAMS)
    return tmp_path


@pytest.mark.parametrize("text", ["the cat", "never seen: \x00 ÿ 𝄞", "tabs\tand\n\n  spaces  ", ""])
def test_any_text_comes_back_exactly(folder, text):
    tokenizer, _ = load_tokenizer(folder)

    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_text_that_spells_the_separator_is_text(folder):
    tokenizer, separator = load_tokenizer(folder)

    tokens = tokenizer.encode(f"a{SEPARATOR}b", add_special_tokens=False).ids

    assert separator not in tokens
    assert tokenizer.decode(tokens) == f"a{SEPARATOR}b"


def test_training_twice_gives_the_same_tokenizer():
    first, second = (train(iter(TEXTS), 300, PARAMS.special).to_str() for _ in range(2))

    assert first == second


def test_transformers_loads_it(folder):
    loaded = AutoTokenizer.from_pretrained(folder)

    assert loaded.eos_token == SEPARATOR
    assert loaded.encode("the cat") == load_tokenizer(folder)[0].encode("the cat").ids


def test_the_mask_token_has_an_id(folder):
    assert load_mask_token(folder) == 1


def test_a_sample_is_as_large_as_its_budget_and_no_document_larger():
    ids, sizes = pl.Series([f"{n:032x}" for n in range(100)]), pl.Series([10] * 100)

    chosen = choose(ids, sizes, budget=95, seed=0)

    assert chosen.sum() == 10
    assert choose(ids, sizes, 95, seed=1).to_list() != chosen.to_list()


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [
        ({"web": 0.75, "wiki": 0.25}, {"web": 0.75, "wiki": 0.25}),
        # Twice the 10 of wiki beside the 60 that the others have together.
        ({"web": 0.75, "code": 0.25, "wiki": Epochs(2)}, {"code": 0.1875, "web": 0.5625, "wiki": 0.25}),
        ({"web": Epochs(1), "wiki": Epochs(4)}, {"web": 0.5, "wiki": 0.5}),
    ],
)
def test_epochs_become_shares_of_the_sample_by_bytes(mixture, expected):
    sizes = {"web": 40, "code": 20, "wiki": 10}

    assert sample_shares(mixture, sizes.__getitem__) == pytest.approx(expected)


def test_of_weights_alone_no_text_is_measured():
    def measured(name):
        raise AssertionError(f"{name} was read")

    assert sample_shares({"web": 0.75, "wiki": 0.25}, measured) == {"web": 0.75, "wiki": 0.25}


def test_the_bytes_of_a_source_are_those_of_its_training_text(tmp_path):
    lay(tmp_path, {"web": [["ж" * 10, "held out"], ["a" * 10, "low"]]})
    decisions = tmp_path / "data/filter/web"
    for number, splits in enumerate([["train", "held_out"], ["train", "train"]]):
        shard = decisions / f"decisions-{number:05d}.parquet"
        write_shard(shard, pl.read_parquet(shard).with_columns(split=pl.Series(splits)))
    write_manifest(decisions, {})

    assert text_bytes(tmp_path / "data/extract/web", decisions) == 20 + 10


def test_documents_in_the_sample_dont_depend_on_others_behind_them():
    ids, sizes = pl.Series([f"{n:032x}" for n in range(100)]), pl.Series([10] * 100)

    small, large = choose(ids, sizes, 200, 0), choose(ids, sizes, 500, 0)

    assert (small & ~large).sum() == 0


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "give either vocabulary"),
        ({"vocabulary": 300, "existing": {"name": "x", "sha256": "0" * 64}}, "give either vocabulary"),
        ({"vocabulary": 256}, "tokenizer.vocabulary is 256"),
        ({"vocabulary": 300, "existing": {"name": "x", "sha256": "short"}}, "tokenizer.existing.sha256 is 'short'"),
    ],
)
def test_impossible_params_are_refused(values, sentence):
    with pytest.raises(Refusal, match=sentence):
        parse_params(TokenizerParams, values, "tokenizer")


def test_an_existing_tokenizer_is_taken_if_it_is_the_pinned_one(folder):
    digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()

    taken = load_existing(ExistingTokenizer(name=str(folder), sha256=digest))

    assert taken.get_vocab_size() == load_tokenizer(folder)[0].get_vocab_size()
    with pytest.raises(Refusal, match="pin the one that you mean"):
        load_existing(ExistingTokenizer(name=str(folder), sha256="0" * 64))


def test_a_special_token_that_the_tokenizer_lacks_is_named(tmp_path):
    with pytest.raises(Refusal, match=r"special token '<\|mask\|>'"):
        save(train(iter(TEXTS), 300, [SEPARATOR]), tmp_path, PARAMS)


def test_a_vocabulary_larger_than_the_token_type_is_refused():
    check_vocabulary(65536, "uint16")
    check_vocabulary(65537, "int32")

    with pytest.raises(Refusal, match=r"tokenize\.dtype is uint16.*set tokenize\.dtype to int32"):
        check_vocabulary(65537, "uint16")
