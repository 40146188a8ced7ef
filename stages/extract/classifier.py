"""How good a text is, by a fastText classifier that the user brings: as DCLM (Li et al. 2024, arXiv:2406.11794).

a pinned model, a text  ->  the probability of one of its labels
"""

from functools import cache
from typing import Any

import fasttext

from stages.extract.params import QualityClassifier
from stages.params import Refusal
from stages.pinned import pinned_path

PREFIX = "__label__"


def quality_score(text: str, params: QualityClassifier, key: str) -> float:
    """The probability of the label, in [0, 1]; the whole text is read, as one line.

    Raises:
        Refusal: as load_classifier.
    """
    labels, scores = load_classifier(params, key).predict(" ".join(text.split()), k=-1)
    found = dict(zip(labels, scores, strict=True))
    # Rounded: what is left of a float32 sum depends on the processor.
    return round(min(float(found.get(PREFIX + params.label, 0.0)), 1.0), 3)


@cache
def load_classifier(params: QualityClassifier, key: str) -> Any:
    """The model, loaded once in a process.

    Raises:
        Refusal: if the file isn't the one that the parameter `key` pins, isn't fastText's, or has no such label.
    """
    path = pinned_path(params.file, params.sha256, key)
    try:
        model = fasttext.load_model(str(path))
    except (ValueError, MemoryError):  # a size that it read out of other bytes
        raise Refusal(f"params.yaml, {key}: {path} is no fastText model; name a .bin or .ftz file") from None
    labels = [label.removeprefix(PREFIX) for label in model.predict("", k=-1)[0]]
    if params.label not in labels:
        raise Refusal(
            f"params.yaml, {key}.label is {params.label!r}, which {path} doesn't know; "
            f"name one of its labels: {', '.join(sorted(labels)[:10])}"
        )
    return model
