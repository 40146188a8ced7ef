"""Samples as tensors: what goes into the model, and what it is asked for.

Axes: B samples, T tokens.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stages.order import Order, count_windows
from stages.pretrain.params import PretrainParams
from stages.tokens import TokenStream

IGNORED = -100  # a target that doesn't count, as torch's cross_entropy has it


def order_of(streams: dict[str, TokenStream], mixture: dict[str, float], params: PretrainParams) -> Order:
    """The order of all samples that `params` ask for.

    Raises:
        Refusal: if a source or its share is too small.
    """
    windows = {name: count_windows(len(stream), params.sequence_length) for name, stream in streams.items()}
    order = Order(params.seed, params.block_samples, windows, mixture)
    _ = order.per_block  # refuse now, not at the first sample
    return order


def read_samples(streams: dict[str, TokenStream], order: Order, numbers: Sequence[int], length: int) -> Tensor:
    """The samples with these global numbers: int64, shape (B, length + 1)."""
    rows = []
    for number in numbers:
        sample = order.sample(number)
        begin = sample.window * length
        rows.append(streams[sample.source].read(begin, begin + length + 1))
    return torch.from_numpy(np.stack(rows))


def causal(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T): each token is asked for the next."""
    return samples[:, :-1], samples[:, 1:]


def masked(
    samples: Tensor, numbers: Sequence[int], share: float, mask: int, vocabulary: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T): the same number of tokens in each sample is hidden and asked for.

    Of the hidden ones 80% become `mask`, 10% a random token, 10% stay (Devlin et al. 2019,
    arXiv:1810.04805, section 3.1). Which ones depends on `seed` and the sample's number alone.
    """
    inputs, targets = samples[:, :-1].clone(), torch.full_like(samples[:, :-1], IGNORED)
    length = inputs.size(1)
    for row, number in enumerate(numbers):
        draw = np.random.default_rng([seed, number])
        hidden = torch.from_numpy(draw.permutation(length)[: masked_per_sample(length, share)])
        fate = torch.from_numpy(draw.random(len(hidden)))
        targets[row, hidden] = inputs[row, hidden]
        inputs[row, hidden[fate < 0.8]] = mask
        random = hidden[(fate >= 0.8) & (fate < 0.9)]
        inputs[row, random] = torch.from_numpy(draw.integers(0, vocabulary, len(random)))
    return inputs, targets


def masked_per_sample(length: int, share: float) -> int:
    """How many tokens of a sample are hidden: the same for all, so that the sum of targets is known."""
    return max(1, round(length * share))
