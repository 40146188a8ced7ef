"""How likely a model finds a continuation after a context: many pairs at once.

(context, continuation)  ->  windows  ->  log-likelihoods

Pairs become tokens as in lm-evaluation-harness (api/model.py, TemplateLM): blanks that end the context begin the
continuation, both are encoded as one text, and what is too long loses its beginning. An empty context is the separator,
as at the start of a document.

Axes: B windows, T tokens, V vocabulary, N scored tokens of all windows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stages.evaluate.score import Window, padded
from stages.items import Pair
from stages.params import Refusal

Request = tuple[Window, ...]  # what scores one continuation

TOKENS_AT_ONCE = 4096  # bounds the memory; a pair's score doesn't depend on its neighbours


@dataclass(frozen=True)
class Likelihoods:
    """Of each request: the log-likelihood of its continuation, and whether the model would have written it."""

    nats: NDArray[np.float64]  # never positive
    is_greedy: NDArray[np.bool_]


def encode(tokenizer: Tokenizer, separator: int, pairs: Sequence[Pair], length: int) -> list[Request]:
    """What is asked for each of `pairs`: windows of at most `length` + 1 tokens that score the continuation.

    That is one window, unless the continuation alone is longer: then each scores half of `length`, behind as much text
    as fits (the harness refuses to score such a pair).

    Raises:
        Refusal: if a continuation has no token of its own.
    """
    moved = [_blanks_moved(context, continuation) for context, continuation in pairs]
    contexts = tokenizer.encode_batch_fast([context for context, _ in moved], add_special_tokens=False)
    wholes = tokenizer.encode_batch_fast(["".join(pair) for pair in moved], add_special_tokens=False)
    encoded = []
    for (context, continuation), begin, whole in zip(moved, contexts, wholes, strict=True):
        scored = len(whole.ids) - len(begin.ids)
        if scored < 1:
            raise Refusal(f"the continuation {continuation!r} of a task's item has no token of its own; take it out")
        encoded.append(_request(whole.ids if context else [separator, *whole.ids], scored, length))
    return encoded


def _blanks_moved(context: str, continuation: str) -> Pair:
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation


def _request(tokens: Sequence[int], scored: int, length: int) -> Request:
    piece = scored if scored <= length else length // 2
    ends = [*range(len(tokens) - scored + piece, len(tokens), piece), len(tokens)]
    begins = [len(tokens) - scored, *ends[:-1]]
    return tuple(
        (list(tokens[max(0, end - length - 1) : end]), end - begin) for begin, end in zip(begins, ends, strict=True)
    )


def log_likelihoods(model: nn.Module, requests: Sequence[Request]) -> Likelihoods:
    """What a causal `model` says of each of `requests`."""
    windows = [window for request in requests for window in request]
    return _by_request(requests, _causal(model, windows))


def pseudo_log_likelihoods(model: nn.Module, requests: Sequence[Request], mask: int) -> Likelihoods:
    """The same of a masked `model`: each scored token is hidden alone (Salazar et al. 2020, arXiv:1910.14659)."""
    windows = [window for request in requests for window in request]
    return _by_request(requests, _masked(model, windows, mask))


@torch.inference_mode()
def _causal(model: nn.Module, windows: Sequence[Window]) -> Likelihoods:
    nats, is_greedy = np.zeros(len(windows)), np.zeros(len(windows), np.bool_)
    for numbers in alike([len(tokens) for tokens, _ in windows]):
        rows_BT, scored_BT = padded([windows[number] for number in numbers])
        logits_BTV: Tensor = model(input_ids=rows_BT[:, :-1]).logits
        targets_N = rows_BT[:, 1:][scored_BT[:, 1:]]
        logits_NV = logits_BTV[scored_BT[:, 1:]].float()
        counts = [windows[number][1] for number in numbers]
        nats[numbers], is_greedy[numbers] = _summed(logits_NV, targets_N, counts)
    return Likelihoods(nats, is_greedy)


@torch.inference_mode()
def _masked(model: nn.Module, windows: Sequence[Window], mask: int) -> Likelihoods:
    nats, is_greedy = np.zeros(len(windows)), np.zeros(len(windows), np.bool_)
    for number, (tokens, scored) in enumerate(windows):
        row_T, hidden_N = torch.tensor(tokens), torch.arange(len(tokens) - scored, len(tokens))
        rows_NT = torch.where(torch.arange(len(tokens)) == hidden_N[:, None], mask, row_T)
        at_once = max(1, TOKENS_AT_ONCE // len(tokens))
        parts = zip(torch.split(rows_NT, at_once), torch.split(hidden_N, at_once), strict=True)
        logits_NV = torch.cat(
            [model(input_ids=rows).logits[torch.arange(len(rows)), hidden].float() for rows, hidden in parts]
        )
        nats[[number]], is_greedy[[number]] = _summed(logits_NV, row_T[hidden_N], [scored])
    return Likelihoods(nats, is_greedy)


def alike(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The numbers of all windows in batches: alike lengths together, and at most TOKENS_AT_ONCE with the padding."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    while order:
        count = max(1, TOKENS_AT_ONCE // lengths[order[0]])
        yield order[:count]
        order = order[count:]


def _summed(logits_NV: Tensor, targets_N: Tensor, counts: Sequence[int]) -> tuple[list[float], list[bool]]:
    """Of each run of `counts` tokens: their log-likelihood, and whether each was the likeliest one."""
    losses_N = cross_entropy(logits_NV, targets_N, reduction="none").double()
    right_N = logits_NV.argmax(dim=-1) == targets_N
    return (
        [-float(losses.sum()) for losses in torch.split(losses_N, list(counts))],
        [bool(right.all()) for right in torch.split(right_N, list(counts))],
    )


def _by_request(requests: Sequence[Request], found: Likelihoods) -> Likelihoods:
    """`found`, of every window, as the sum over those of each request."""
    begins = np.cumsum([0, *map(len, requests)])[:-1]
    return Likelihoods(np.add.reduceat(found.nats, begins), np.logical_and.reduceat(found.is_greedy, begins))
