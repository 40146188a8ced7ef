"""Bits per byte of documents under a language model, each document whole, in sliding windows.

Axes: B windows, T tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

HIDDEN_EVERY = 8
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
def causal_nats(
    model: nn.Module, documents: Sequence[Sequence[int]], start: int, length: int, stride: int
) -> list[float]:
    """The loss (nats, summed) of each document in `documents` under a causal model."""
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
    rows_BT, counts_BT = padded(batch)
    logits_BTV: Tensor = model(input_ids=rows_BT[:, :-1]).logits
    losses_BT = cross_entropy(logits_BTV.transpose(1, 2).float(), rows_BT[:, 1:], reduction="none")
    return [float(loss) for loss in (losses_BT * counts_BT[:, 1:]).double().sum(dim=1)]


def padded(batch: Sequence[Window]) -> tuple[Tensor, Tensor]:
    """The tokens of all windows, and whether each is scored, both of shape (windows, longest window)."""
    width = max(len(tokens) for tokens, _ in batch)
    rows_BT = torch.zeros(len(batch), width, dtype=torch.long)
    counts_BT = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, (tokens, scored) in enumerate(batch):
        # Padding comes behind the text, where a causal model's predictions don't see it.
        rows_BT[row, : len(tokens)] = torch.tensor(tokens)
        counts_BT[row, len(tokens) - scored : len(tokens)] = True
    return rows_BT, counts_BT


@dataclass(frozen=True)
class Masked:
    """What a masked model made of a document: its loss (nats, summed), its tokens, and how many were guessed right."""

    nats: float
    tokens: int
    right: int


@torch.inference_mode()
def masked_scores(model: nn.Module, documents: Sequence[Sequence[int]], mask: int, length: int) -> list[Masked]:
    """The pseudo-likelihood of each document under a masked model.

    Every token is hidden once, together with each HIDDEN_EVERYth token around it, and asked for (after
    Salazar et al. 2020, arXiv:1910.14659, which hides one at a time). Comparable between masked models only.
    """
    return [
        added([_hidden(model, document[begin : begin + length], mask) for begin in range(0, len(document), length)])
        for document in documents
    ]


def added(parts: Sequence[Masked]) -> Masked:
    """What comes out of all `parts` together."""
    return Masked(sum(part.nats for part in parts), sum(p.tokens for p in parts), sum(p.right for p in parts))


def _hidden(model: nn.Module, tokens: Sequence[int], mask: int) -> Masked:
    row_T = torch.tensor(tokens)
    rows = min(HIDDEN_EVERY, len(row_T))
    hidden_BT = torch.arange(len(row_T)) % HIDDEN_EVERY == torch.arange(rows)[:, None]
    logits_BTV: Tensor = model(input_ids=torch.where(hidden_BT, mask, row_T)).logits
    losses_BT = cross_entropy(logits_BTV.transpose(1, 2).float(), row_T.expand(rows, -1), reduction="none")
    right_BT = (logits_BTV.argmax(dim=-1) == row_T) & hidden_BT
    return Masked(float((losses_BT * hidden_BT).double().sum()), len(tokens), int(right_BT.sum()))
