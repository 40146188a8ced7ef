import lzma
import math
import subprocess
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from stages.evaluate.held_out import HeldOut
from stages.evaluate.intervals import draws, interval, intervals
from stages.evaluate.references import ByteModel, xz_bits_per_byte, xz_bytes
from stages.evaluate.score import causal_nats, masked_scores, windows

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=30, **SIZES)).eval()


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 40])
@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 4), (8, 1)])
def test_windows_score_each_token_once(count, length, stride):
    tokens = list(range(100, 100 + count))

    cut = list(windows(tokens, 0, length, stride))

    assert [token for window, scored in cut for token in window[len(window) - scored :]] == tokens
    assert all(len(window) <= length + 1 for window, _ in cut)


def test_a_document_costs_what_it_costs_token_by_token(model):
    document = [int(token) for token in np.random.default_rng(0).integers(1, 30, 21)]
    slow = 0.0
    whole = [0, *document]
    for end in range(1, len(whole)):
        context = torch.tensor([whole[max(0, end - 8) : end]])
        slow -= model(input_ids=context).logits[0, -1].log_softmax(-1)[whole[end]].item()

    [fast] = causal_nats(model, [document], start=0, length=8, stride=1)

    assert fast == pytest.approx(slow, rel=1e-5)


def test_a_documents_score_doesnt_depend_on_its_neighbours(model):
    documents = [[1, 2, 3], list(range(1, 29)), [5] * 12]

    together = causal_nats(model, documents, 0, 8, 4)
    alone = [causal_nats(model, [each], 0, 8, 4)[0] for each in documents]

    assert together == pytest.approx(alone, rel=1e-5)


def test_a_masked_model_is_asked_for_every_token_once():
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", vocab_size=30, **SIZES)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # all tokens are equally likely

    [found] = masked_scores(model, [[1, 2, 3, 0, 5] * 5], mask=29, length=10)

    assert found.nats == pytest.approx(25 * math.log(30), rel=1e-5)
    assert (found.tokens, found.right) == (25, 5)  # of equally likely tokens, the first is its guess


def slow_chance(text: bytes, context: bytes, byte: int, order: int) -> float:
    """Witten and Bell's method C, by counting."""
    if order < 0:
        return 1 / 256
    suffix = context[len(context) - order :] if order else b""
    # The model counts trigrams; shorter contexts are their endings.
    grams = [text[i : i + 3] for i in range(len(text) - 2)]
    followers = Counter(gram[2] for gram in grams if gram[2 - order : 2] == suffix)
    lower = slow_chance(text, context, byte, order - 1)
    if not followers:
        return lower
    total, kinds = sum(followers.values()), len(followers)
    return (followers[byte] + kinds * lower) / (total + kinds)


def test_the_byte_model_agrees_with_a_slow_one():
    training, text = b"the cat sat on the mat and the rat sat", b"the hat sat\xff on"

    fast = ByteModel(training).bits(text)

    slow = 16 - sum(math.log2(slow_chance(training, text[i - 2 : i], text[i], 2)) for i in range(2, len(text)))
    assert fast == pytest.approx(slow)


def test_the_chances_of_all_bytes_sum_to_one():
    model = ByteModel(b"abracadabra, abracadabra")

    total = sum(2 ** -(model.bits(b"br" + bytes([byte])) - 16) for byte in range(256))

    assert total == pytest.approx(1)


def test_xz_is_what_the_command_makes(tmp_path):
    data = b"some text that repeats, " * 50
    (tmp_path / "data").write_bytes(data)
    command = subprocess.run(["xz", "-9e", "--stdout", tmp_path / "data"], capture_output=True, check=True)

    assert xz_bytes(data) == len(command.stdout) == len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def test_a_primer_that_holds_the_text_makes_it_cheap():
    text = bytes(np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8))

    assert xz_bits_per_byte(text) > 8
    assert xz_bits_per_byte(text, primer=text) < 0.2


def test_documents_are_taken_whole_until_the_budget_is_full():
    held = HeldOut("web", ("1", "2", "3"), ("äb", "cd", "ef"))

    assert held.bytes == 7
    assert held.first(1) == HeldOut("web", ("1",), ("äb",))
    assert held.first(4).texts == ("äb", "cd")
    assert held.first(5).ids == ("1", "2")
    assert held.first(100) == held


def test_an_interval_is_as_wide_as_theory_says():
    random = np.random.default_rng(1)
    sizes = random.integers(100, 5000, 400)
    bits = sizes * random.normal(2.0, 0.3, 400)
    ratio = bits.sum() / sizes.sum()
    error = math.sqrt(np.square(bits - ratio * sizes).sum() * 400 / 399) / sizes.sum()  # Taylor's, for a ratio

    found = interval(draws("web", list(bits), list(sizes)))

    assert found["low"] == pytest.approx(ratio - 1.96 * error, abs=0.1 * error)
    assert found["high"] == pytest.approx(ratio + 1.96 * error, abs=0.1 * error)


@pytest.mark.parametrize("count", [2, 3, 5, 400])
def test_the_spread_of_a_sum_is_right_however_few_the_documents(count):
    bits = np.random.default_rng(2).normal(1000, 100, count)

    spread = draws("web", list(bits), [1] * count)[0].std()

    assert spread == pytest.approx(bits.std(ddof=1) * math.sqrt(count), rel=0.05)


def test_what_a_source_draws_depends_on_nothing_but_its_documents():
    wiki, code = ([10.0, 30.0, 80.0], [10, 20, 30]), ([9.0, 5.0], [6, 4])

    both, alone = intervals({"code": code, "wiki": wiki}), intervals({"wiki": wiki})

    assert both["sources"]["wiki"] == alone["sources"]["wiki"] == alone["all"]
    assert both == intervals({"code": code, "wiki": wiki})
    assert both["all"] not in both["sources"].values()


def test_one_document_has_no_interval_and_stays_in_every_draw():
    one, two = ([9.0], [3]), ([10.0, 40.0], [10, 20])

    found = intervals({"one": one, "two": two})

    assert found["sources"]["one"] is None
    assert intervals({"one": one})["all"] is None
    assert found["all"]["low"] > found["sources"]["two"]["low"]
