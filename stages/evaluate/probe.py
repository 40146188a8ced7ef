"""How fast each checkpoint learns a small labelled task, beside its untrained twin.

texts with labels  ->  a linear head on the mean hidden state, trained together with the whole model  ->  accuracy

A base model is there to be adapted; what pretraining is worth shows in how few steps that takes (as in the transfer
curves of Howard & Ruder 2018, arXiv:1801.06146, section 5). The head begins at zero, dropout is off, and every model
sees the same texts in the same order.

Axes: B texts, T tokens, D hidden, L labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stages.evaluate.tasks import PLACES, standard_error
from stages.items import ProbeParams, read_labelled_texts
from stages.params import Refusal

TEST_SHARE = 0.25
MOST_TESTED = 1000
BATCH = 32  # texts tested at once


Text = tuple[tuple[int, ...], int]  # its tokens; the number of its label


@dataclass(frozen=True)
class Labelled:
    """Labelled texts: those to train on, in their order, and those to test with."""

    train: tuple[Text, ...]
    test: tuple[Text, ...]
    labels: int


def read_labelled(params: ProbeParams, tokenizer: Tokenizer, length: int) -> Labelled:
    """The texts of the probe's file, each cut after `length` tokens, and split by the seed.

    Raises:
        Refusal: as read_labelled_texts; or if there are too few texts or labels.
    """
    rows = read_labelled_texts(params)
    names = sorted({label for _, label in rows})
    if len(names) < 2 or len(rows) < 4:
        raise Refusal(f"{params.data} has {len(rows)} texts and {len(names)} labels; a probe needs 4 and 2 at least")
    encoded = tokenizer.encode_batch_fast([text for text, _ in rows], add_special_tokens=False)
    texts = [
        (tuple(each.ids[:length]) or (0,), names.index(label)) for each, (_, label) in zip(encoded, rows, strict=True)
    ]
    order = np.random.Generator(np.random.PCG64(params.seed)).permutation(len(texts))
    tested = min(MOST_TESTED, max(1, int(len(texts) * TEST_SHARE)))
    return Labelled(
        tuple(texts[number] for number in order[tested:]), tuple(texts[number] for number in order[:tested]), len(names)
    )


class Classifier(nn.Module):
    """A model with a linear head on the mean of its last hidden states."""

    def __init__(self, model: nn.Module, hidden: int, labels: int) -> None:
        super().__init__()
        self.body: nn.Module = model.base_model  # type: ignore[assignment]
        self.head = nn.Linear(hidden, labels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, rows_BT: Tensor, is_text_BT: Tensor) -> Tensor:
        """Logits of the labels, shape (texts, labels), of padded texts."""
        states_BTD: Tensor = self.body(input_ids=rows_BT, attention_mask=is_text_BT.long()).last_hidden_state
        weights_BT1 = is_text_BT[:, :, None].to(states_BTD.dtype)
        logits_BL: Tensor = self.head((states_BTD * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1))
        return logits_BL


def probe_curve(model: nn.Module, labelled: Labelled, params: ProbeParams) -> list[float]:
    """The accuracy on the texts that test, after each of `points(params.steps)` steps. Changes `model`."""
    classifier = Classifier(model.eval(), model.config.hidden_size, labelled.labels)  # type: ignore[union-attr,arg-type]
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=params.learning_rate)
    curve = []
    for step in range(params.steps):
        chosen = [(step * params.batch + number) % len(labelled.train) for number in range(params.batch)]
        rows_BT, is_text_BT, labels_B = _batch([labelled.train[number] for number in chosen])
        optimizer.zero_grad()
        cross_entropy(classifier(rows_BT, is_text_BT), labels_B).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step + 1 in points(params.steps):
            curve.append(_accuracy(classifier, labelled))
    return curve


def points(steps: int) -> list[int]:
    """After how many steps the accuracy is measured: an eighth, a quarter, half, all."""
    return sorted({max(1, steps // part) for part in (8, 4, 2, 1)})


def probe_entry(params: ProbeParams, labelled: Labelled, curves: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The section `probe` of metrics/evaluate.json: accuracies of each model, and their mean: how fast it learned."""
    count = len(labelled.test)
    return {
        "sha256": params.sha256,
        "labels": labelled.labels,
        "train": len(labelled.train),
        "n": count,
        "steps": points(params.steps),
        "models": {
            name: {
                "accuracy": [round(value, PLACES) for value in curve],
                "standard_error": [round(standard_error(value, count), PLACES) for value in curve],
                "mean": round(sum(curve) / len(curve), PLACES),
            }
            for name, curve in curves.items()
        },
    }


@torch.inference_mode()
def _accuracy(classifier: Classifier, labelled: Labelled) -> float:
    right = 0
    for begin in range(0, len(labelled.test), BATCH):
        rows_BT, is_text_BT, labels_B = _batch(labelled.test[begin : begin + BATCH])
        right += int((classifier(rows_BT, is_text_BT).argmax(dim=1) == labels_B).sum())
    return right / len(labelled.test)


def _batch(texts: Sequence[Text]) -> tuple[Tensor, Tensor, Tensor]:
    """Padded tokens, whether each is text, and the labels."""
    width = max(len(tokens) for tokens, _ in texts)
    rows_BT = torch.zeros(len(texts), width, dtype=torch.long)
    is_text_BT = torch.zeros(len(texts), width, dtype=torch.bool)
    for row, (tokens, _) in enumerate(texts):
        rows_BT[row, : len(tokens)] = torch.tensor(tokens)
        is_text_BT[row, : len(tokens)] = True
    return rows_BT, is_text_BT, torch.tensor([label for _, label in texts])
