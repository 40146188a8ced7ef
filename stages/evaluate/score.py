"""Bits per byte of documents under a language model, each document whole, in sliding windows.

Axes: B windows, T tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

BATCH = 32  # windows computed at once: speed only, a window's score doesn't depend on its neighbours

Window = tuple[list[int], int]  # tokens; how many of the last ones are scored


def windows(tokens: Sequence[int], start: int, length: int, stride: int) -> Iterator[Window]:
    """Windows of at most `length` + 1 tokens that score each of `tokens` exactly once.

    The document begins with the separator `start`, which is context and isn't scored. Each window
    scores at most `stride` tokens, behind as much context as fits.
    """
    whole = [start, *tokens]
    end = 1
    while end < len(whole):
        scored = min(stride if end > 1 else length, len(whole) - end)
        end += scored
        yield whole[max(0, end - length - 1) : end], scored


@torch.inference_mode()
def nats(model: nn.Module, documents: Sequence[Sequence[int]], start: int, length: int, stride: int) -> list[float]:
    """The loss (nats, summed) of each document in `documents`."""
    cut = [(number, window) for number, each in enumerate(documents) for window in windows(each, start, length, stride)]
    cut.sort(key=lambda item: -len(item[1][0]))  # alike lengths together: less padding
    totals = np.zeros(len(documents))
    for begin in range(0, len(cut), BATCH):
        batch = cut[begin : begin + BATCH]
        losses = window_nats(model, [window for _, window in batch])
        for (number, _), loss in zip(batch, losses, strict=True):
            totals[number] += loss
    return [float(total) for total in totals]


def window_nats(model: nn.Module, batch: Sequence[Window]) -> list[float]:
    """The loss (nats, summed over its scored tokens) of each window."""
    width = max(len(tokens) for tokens, _ in batch)
    rows_BT = torch.zeros(len(batch), width, dtype=torch.long)
    counts_BT = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, (tokens, scored) in enumerate(batch):
        # Padding comes behind the text, where a causal model's predictions don't see it.
        rows_BT[row, : len(tokens)] = torch.tensor(tokens)
        counts_BT[row, len(tokens) - scored : len(tokens)] = True
    logits_BTV: Tensor = model(input_ids=rows_BT[:, :-1]).logits
    losses_BT = cross_entropy(logits_BTV.transpose(1, 2).float(), rows_BT[:, 1:], reduction="none")
    return [float(loss) for loss in (losses_BT * counts_BT[:, 1:]).double().sum(dim=1)]
