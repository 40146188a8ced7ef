"""Text to tokens, fast: tiktoken with the vocabulary of a Hugging Face tokenizer, where the two give the same ids.

    texts  ->  the tokens of each

Hugging Face merges the pairs of a list, tiktoken any two neighbours that make up a token, both the lowest id first.
With a byte-level vocabulary that was learnt by byte-pair encoding they do the same: where a merge was learnt, all those
before it had been made, and had left just that pair. A vocabulary that was put together otherwise has its merges in
another order, or doesn't encode each of its tokens as that token; it is left to Hugging Face, and so is whatever cuts
text neither as GPT-2 does nor by one regular expression.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tokenizers import Tokenizer

from stages.process import log
from stages.tokens import ALPHABET

# How GPT-2 cuts text (Radford et al. 2019), which Hugging Face calls ByteLevel; as tiktoken's authors write it.
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
CHECKED = 128  # one text in so many is encoded by both

Tokens = NDArray[np.uint32]


@dataclass(frozen=True)
class Encoder:
    """Encodes as `tokenizer` does; faster if it has a `twin`."""

    tokenizer: Tokenizer
    twin: tiktoken.Encoding | None

    @staticmethod
    def of(tokenizer: Tokenizer) -> "Encoder":
        """The encoder that gives the ids of `tokenizer`, and takes what spells a special token for text."""
        tokenizer.encode_special_tokens = True
        return Encoder(tokenizer, twin_of(tokenizer))

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each text. Some of them are encoded by both; if they differ, all are by Hugging Face."""
        if self.twin is None:
            return self._surely(texts)
        found = [self._fast(self.twin, text) for text in texts]
        for text, mine, theirs in zip(texts[::CHECKED], found[::CHECKED], self._surely(texts[::CHECKED]), strict=True):
            if not np.array_equal(mine, theirs):
                log.warning("tiktoken gives other tokens than tokenizers to a text that begins %r", text[:40])
                return self._surely(texts)
        return found

    def _fast(self, twin: tiktoken.Encoding, text: str) -> Tokens:
        try:
            return np.array(twin.encode_ordinary(text), np.uint32)  # faster than encode_to_numpy
        except ValueError:  # its expression has no stack left, at the thousandth blank in a row
            return self._surely([text])[0]

    def _surely(self, texts: Sequence[str]) -> list[Tokens]:
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]


def twin_of(tokenizer: Tokenizer) -> tiktoken.Encoding | None:
    """The same tokenizer in tiktoken; None if it has none."""
    described = json.loads(tokenizer.to_str())
    pattern, ranks = _pattern(described), _ranks(described)
    if pattern is None or ranks is None or not _is_learnt(tokenizer, described):
        return None
    try:
        return tiktoken.Encoding("twin", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    except ValueError:  # an expression that tiktoken's engine doesn't know
        return None


def _pattern(described: dict[str, Any]) -> str | None:
    """The expression by which text is cut into words, or None if it isn't cut by one."""
    if described["normalizer"] is not None:
        return None
    steps = _steps(described["pre_tokenizer"])
    *before, last = steps or [{"type": "none"}]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    if not before:
        return GPT2 if last["use_regex"] else None
    cut = before[0]
    whole = len(before) == 1 and not last["use_regex"] and cut["type"] == "Split"
    if whole and cut["behavior"] == "Isolated" and not cut["invert"]:
        return str(cut["pattern"].get("Regex")) if "Regex" in cut["pattern"] else None
    return None


def _steps(described: dict[str, Any] | None) -> list[dict[str, Any]]:
    if described is None:
        return []
    return list(described["pretokenizers"]) if described["type"] == "Sequence" else [described]


def _ranks(described: dict[str, Any]) -> dict[bytes, int] | None:
    """The id of each token by its bytes; None if ids and merges aren't in one order, or a token is of neither."""
    model = described["model"]
    plain = model["type"] == "BPE" and not any(
        model.get(name) for name in ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
    )
    if not plain:
        return None
    vocabulary, special = model["vocab"], {token["content"] for token in described["added_tokens"]}
    merged = [vocabulary["".join(pair)] for pair in model["merges"]]
    tokens = [token for token in vocabulary if token not in special]
    made = {vocabulary.get(letter, -1) for letter in ALPHABET} | set(merged)
    if merged != sorted(merged) or made != {vocabulary[token] for token in tokens}:
        return None
    return {bytes(ALPHABET[letter] for letter in token): vocabulary[token] for token in tokens}


def _is_learnt(tokenizer: Tokenizer, described: dict[str, Any]) -> bool:
    """Whether each token is encoded as itself: at once, or by its merges."""
    if described["model"]["ignore_merges"]:
        return True
    special = {token["content"] for token in described["added_tokens"]}
    return all(
        len(tokenizer.model.tokenize(token)) == 1 for token in described["model"]["vocab"] if token not in special
    )
