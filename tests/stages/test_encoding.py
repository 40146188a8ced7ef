"""The fast encoder, beside Hugging Face's."""

import json
import random
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiktoken
from tiny import prose
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from stages.encoding import Encoder, twin_of
from stages.tokenize import encoder_of
from stages.tokenizer import train

SEPARATOR = "<|end|>"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"


def texts() -> list[str]:
    draw = random.Random(3)
    return [prose(draw, 12) for _ in range(130)]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train(iter(texts()), 600, [SEPARATOR])


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The old river, wasn't it?\n\n  two   blanks  \n",
        f"a text that spells {SEPARATOR} is text",
        "naïve Ωmega 数字 123456 \u0085\u2003 e\u0301 \U0001f600\x00",
        " " * 40_000,
        "x" * 5000,
    ],
)
def test_tokens_are_those_of_hugging_face(trained, text):
    encoder = Encoder.of(trained)

    [*_, found] = encoder.encode([*texts(), text])

    assert encoder.twin is not None
    assert found.tolist() == ids(trained, text)


def test_every_character_is_cut_alike(trained):
    encoder = Encoder.of(trained)
    every = map(chr, range(0x110000))
    characters = [each for each in every if unicodedata.category(each) not in ("Cn", "Co", "Cs")]
    rows = ["".join(f"a{each} 1{each}" for each in characters[at::64]) for at in range(64)]

    found = [encoder.twin.encode_to_numpy(row, disallowed_special=()) for row in rows]  # type: ignore[union-attr]

    expected = trained.encode_batch_fast(rows, add_special_tokens=False)
    assert all(np.array_equal(own, its.ids) for own, its in zip(found, expected, strict=True))


def test_a_tokenizer_that_cuts_by_an_expression_has_a_twin():
    tokenizer = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(WORDS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts(), trainer)

    encoder = Encoder.of(tokenizer)

    assert encoder.twin is not None
    assert [found.tolist() for found in encoder.encode(texts())] == [ids(tokenizer, text) for text in texts()]


def lower(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Lowercase()


def prefixed(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def uncut(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def by_blanks(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()


@pytest.mark.parametrize("change", [lower, prefixed, uncut, by_blanks])
def test_a_tokenizer_that_works_otherwise_is_left_to_hugging_face(trained, change: Callable[[Tokenizer], None]):
    tokenizer = Tokenizer.from_str(trained.to_str())
    change(tokenizer)

    assert twin_of(tokenizer) is None
    assert Encoder.of(tokenizer).encode(["The Old River"])[0].tolist() == ids(tokenizer, "The Old River")


def vocabulary(*tokens: str) -> dict[str, int]:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return {token: number for number, token in enumerate([*letters, *tokens])}


@pytest.mark.parametrize(
    ("tokens", "merges"),
    [
        (["bc", "ab"], [("a", "b"), ("b", "c")]),  # another order
        (["bc", "ab", "abc"], [("b", "c"), ("a", "b"), ("ab", "c")]),  # never made: bc is merged first
        (["abc"], []),
    ],
)
def test_a_vocabulary_that_was_not_learnt_is_left_to_hugging_face(tokens: list[str], merges: list[Any]):
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary(*tokens), merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    assert twin_of(tokenizer) is None


def test_a_twin_that_differs_on_the_sample_is_not_believed(trained, caplog):
    wrong = tiktoken.Encoding(
        "wrong", pat_str=".", mergeable_ranks={bytes([b]): b for b in range(256)}, special_tokens={}
    )

    [found] = Encoder(trained, wrong).encode(["The old river"])

    assert found.tolist() == ids(trained, "The old river")
    assert "tiktoken gives other tokens than tokenizers to a text that begins 'The old river'" in caplog.text


def test_special_tokens_that_are_added_change_no_id(trained):
    tokenizer = Tokenizer.from_str(trained.to_str())
    tokenizer.add_special_tokens([AddedToken("<|mask|>", special=True)])

    encoder = Encoder.of(tokenizer)

    assert encoder.twin is not None
    assert encoder.encode(["old <|mask|> river"])[0].tolist() == ids(tokenizer, "old <|mask|> river")


def test_an_encoder_is_made_once_for_each_tokenizer(tmp_path, trained):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": SEPARATOR}))
    trained.save(str(tmp_path / "tokenizer.json"))
    encoder, separator = encoder_of(tmp_path, "a digest")
    other = train(iter(texts()), 300, [SEPARATOR])
    other.save(str(tmp_path / "tokenizer.json"))

    again, _ = encoder_of(tmp_path, "a digest")
    another, _ = encoder_of(tmp_path, "another digest")

    assert again is encoder
    assert separator == trained.token_to_id(SEPARATOR)
    assert another.encode(["The old river"])[0].tolist() == ids(other, "The old river")
