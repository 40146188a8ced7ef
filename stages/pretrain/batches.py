"""Samples as tensors: what goes into the model, and what it is asked for.

Axes: B samples, T tokens.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from stages.mixture import Mixture
from stages.order import Order, count_windows
from stages.params import Refusal
from stages.pretrain.params import PretrainParams
from stages.tokens import ALPHABET, TokenStream

IGNORED = -100  # a target that doesn't count, as torch's cross_entropy has it


def order_of(streams: dict[str, TokenStream], mixture: Mixture, params: PretrainParams) -> Order:
    """The order of all samples that `params` ask for.

    Raises:
        Refusal: if a source or its share is too small, its epochs too many, or a phase names an unknown one.
    """
    windows = {name: count_windows(len(stream), params.sequence_length) for name, stream in streams.items()}
    order = params.sample_order(mixture, windows)
    _ = order.stretches  # refuse now, not at the first sample
    return order


def read_samples(streams: dict[str, TokenStream], order: Order, numbers: Sequence[int], length: int) -> Tensor:
    """The samples with these global numbers: int64, shape (B, length + 1)."""
    rows = []
    for number in numbers:
        sample = order.sample(number)
        begin = sample.window * length
        rows.append(streams[sample.source].read(begin, begin + length + 1))
    return torch.from_numpy(np.stack(rows))


def positions(inputs_BT: Tensor, separator: int) -> Tensor:
    """The position of each token in its document (B, T), by which transformers keeps documents of a sample apart.

    A separator is the first token of the document behind it, as in evaluation. So what ends a document is still
    asked for from within it, each first token is asked for from the separator alone, and no target is lost.
    """
    places_T = torch.arange(inputs_BT.size(1), device=inputs_BT.device)
    begins_BT = torch.where(inputs_BT == separator, places_T, 0).cummax(dim=1).values
    return places_T - begins_BT


def causal(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T): each token is asked for the next."""
    return samples[:, :-1], samples[:, 1:]


def masked(
    samples: Tensor,
    numbers: Sequence[int],
    share: float,
    mask: int,
    vocabulary: int,
    seed: int,
    joins_V2: NDArray[np.bool_] | None = None,
) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T): the same number of tokens in each sample is hidden and asked for.

    Of the hidden ones 80% become `mask`, 10% a random token, 10% stay (Devlin et al. 2019,
    arXiv:1810.04805, section 3.1). Which ones depends on `seed` and the sample's number alone. With `joins_V2` (see
    `joins`) whole words are hidden, the last one of them only as far as the number of tokens goes.
    """
    inputs, targets = samples[:, :-1].clone(), torch.full_like(samples[:, :-1], IGNORED)
    length = inputs.size(1)
    for row, number in enumerate(numbers):
        draw = np.random.default_rng([seed, number])
        words = np.arange(length) if joins_V2 is None else words_of(inputs[row].numpy(), joins_V2)
        rank = np.argsort(draw.permutation(words[-1] + 1))  # of each word
        hidden = torch.from_numpy(np.argsort(rank[words], kind="stable")[: masked_per_sample(length, share)])
        fate = torch.from_numpy(draw.random(len(hidden)))
        targets[row, hidden] = inputs[row, hidden]
        inputs[row, hidden[fate < 0.8]] = mask
        random = hidden[(fate >= 0.8) & (fate < 0.9)]
        inputs[row, random] = torch.from_numpy(draw.integers(0, vocabulary, len(random)))
    return inputs, targets


def words_of(tokens_T: NDArray[np.int64], joins_V2: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The number of the word that each token belongs to, from 0 on."""
    begins_T = ~(joins_V2[tokens_T[1:], 0] & joins_V2[tokens_T[:-1], 1])
    words: NDArray[np.int64] = np.concatenate([[0], np.cumsum(begins_T)])
    return words


def joins(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """Whether each token of a byte-level tokenizer goes on with a word, and whether a word can go on after it: (V, 2).

    It does if its first (last) byte is a letter, a digit, an underscore, or a part of a character beyond ASCII.

    Raises:
        Refusal: if a token isn't written in the byte-level alphabet.
    """
    found = np.zeros((tokenizer.get_vocab_size(), 2), bool)
    special = set(tokenizer.get_added_tokens_decoder())
    for text, token in tokenizer.get_vocab().items():
        if token not in special:
            if not set(text) <= ALPHABET.keys():
                raise Refusal(
                    f"params.yaml: pretrain.whole_word needs a byte-level tokenizer, and the token {text!r} is none of "
                    f"such a one; set it to false"
                )
            found[token] = [_in_word(ALPHABET[text[0]]), _in_word(ALPHABET[text[-1]])]
    return found


def _in_word(byte: int) -> bool:
    return byte >= 0x80 or chr(byte).isalnum() or byte == ord("_")


def masked_per_sample(length: int, share: float) -> int:
    """How many tokens of a sample are hidden: the same for all, so that the sum of targets is known."""
    return max(1, round(length * share))
