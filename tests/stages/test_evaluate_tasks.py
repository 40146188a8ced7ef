"""Tasks are read, asked and scored; lm-evaluation-harness says the same."""

import hashlib
import json
import math
import random
from importlib.metadata import version
from itertools import chain, pairwise

import numpy as np
import polars as pl
import pytest
import torch
from tiny import prose
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from stages.evaluate.exam import Sheet, examples, prepare, sections
from stages.evaluate.harness import harness_scores, harness_task
from stages.evaluate.likelihood import Likelihoods, alike, encode, log_likelihoods, pseudo_log_likelihoods
from stages.evaluate.params import EvaluateParams
from stages.evaluate.tasks import accuracy, mean, right, standard_error, task_score, wilson
from stages.items import Item, TaskParams, read_items, spread
from stages.params import Refusal
from stages.tokens import load_tokenizer

LENGTH = 24
SEPARATOR = "<|endoftext|>"
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
ROWS = {
    "minimal_pairs": [
        {"sentence_good": "The old river crossed that stone.", "sentence_bad": "The old river crossing that stone."},
        {"sentence_good": "It had to be \"quiet\", they say.", "sentence_bad": "They say it had to be quiet quiet."},
        {"sentence_good": "Ähnlich.", "sentence_bad": "The letter of the winter carried that engine."},
    ],
    "multiple_choice": [
        {"query": "The quiet garden", "choices": ["of the letter", "letter of the the", "of"], "gold": 0},
        {"query": "Question: what is it?\n", "choices": ["[a bridge]", "narrow"], "gold": 1},
        {"query": "", "choices": ["The old", "xyz xyz", "123"], "gold": 2},
        {"query": "The early engine of the story " * 6, "choices": ["carried that", "the of"], "gold": 0},
    ],
    "schema": [
        {"context_options": ["The old river", "The quiet stone and the"], "continuation": "of the winter.", "gold": 1},
        {"context_options": ["It had to be", "be to had It"], "continuation": "golden.", "gold": 0},
    ],
    "language_modeling": [
        {"context": "The old river of the stone crossed that letter, " * 2 + "and it had to", "continuation": "be"},
        {"context": "and it had", "continuation": "to be"},
        {"context": "The market ", "continuation": "zebra"},
    ],
}  # fmt: skip


def write_rows(path, rows):
    """Write JSON lines; their digest."""
    data = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def task(folder, layout, rows=None, **values):
    path = folder / f"{layout}.jsonl"
    sha256 = write_rows(path, ROWS[layout] if rows is None else rows)
    return TaskParams(**{"name": layout, **values}, layout=layout, data=str(path), sha256=sha256)


DEFINITION = """
dataset_path: someone/else
dataset_name: never_fetched
validation_split: validation
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{context}}"
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""


def defined(folder, text=DEFINITION):
    """A task that the harness alone can score."""
    (folder / "rolling.yaml").write_text(text)
    data = pl.DataFrame(ROWS["language_modeling"]).write_csv().encode()
    (folder / "rolling.csv").write_bytes(data)
    return TaskParams(
        name="rolling", data=str(folder / "rolling.csv"), sha256=hashlib.sha256(data).hexdigest(),
        definition=str(folder / "rolling.yaml"), definition_sha256=hashlib.sha256(text.encode()).hexdigest(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model that has learnt a few made-up sentences by heart, with its tokenizer."""
    folder, draw = tmp_path_factory.mktemp("model"), random.Random(3)
    text = prose(draw, 60)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[SEPARATOR], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([text], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SEPARATOR, "eos_token": SEPARATOR}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", vocab_size=tokenizer.get_vocab_size(), **SIZES)
    model = AutoModelForCausalLM.from_config(config)
    tokens = torch.tensor(tokenizer.encode(text).ids)
    tokens = torch.cat([torch.zeros(1, dtype=torch.long), tokens])[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def asked(folder, tmp_path_factory):
    """A task of each layout, one that has a definition, and what the harness says of all of them."""
    files = tmp_path_factory.mktemp("tasks")
    shown = [task(files, layout, name=f"{layout}_shown", shots=2 - (layout == "schema")) for layout in list(ROWS)[1:]]
    tasks = [*(task(files, layout) for layout in ROWS), *shown, defined(files)]
    return tasks, harness_scores(folder, tasks, LENGTH, 1)


def test_our_scorer_and_the_harness_agree(model, tokenizer, asked):
    tasks, reference = asked
    params = EvaluateParams(sequence_length=LENGTH, stride=8, tasks=tasks)

    for sheet in prepare(params, *tokenizer, None):
        theirs = reference[sheet.task.name]
        mine = log_likelihoods(model, [request for _, requests in sheet.questions for request in requests])
        flat = [value for values in theirs.log_likelihoods for value in values]
        answers = sheet.answers(model, None)
        assert mine.nats == pytest.approx(flat, abs=1e-4)
        assert answers.mean() == pytest.approx(theirs.value)
        assert standard_error(answers.mean(), len(answers)) == pytest.approx(theirs.standard_error)
        assert 0 < theirs.value < 1  # or it would say little
        assert (theirs.n, theirs.lower_is_better) == (len(sheet.items), False)


def test_a_definition_is_scored_by_the_harness_on_the_pinned_file(model, tokenizer, asked):
    tasks, reference = asked
    texts = [row["context"] for row in ROWS["language_modeling"]]
    encoder, separator = tokenizer

    found = sections(EvaluateParams(sequence_length=LENGTH, stride=8, tasks=tasks[-1:]), [], {}, {}, reference, [])

    nats = -log_likelihoods(model, encode(encoder, separator, [("", text) for text in texts], 200)).nats.sum()
    entry = found["tasks"]["rolling"]
    assert entry["lower_is_better"]
    assert entry["value"] == pytest.approx(
        nats / math.log(2) / sum(map(len, texts)), rel=0.3
    )  # its windows are shorter
    assert (entry["n"], entry["version"], found["task_mean"]) == (3, version("lm_eval"), None)
    assert entry["low"] <= entry["value"] <= entry["high"]


def test_a_likelihood_is_that_of_the_tokens_one_by_one(model, tokenizer):
    encoder, separator = tokenizer
    pairs = [("", " The old"), ("The quiet garden ", "of the letter"), ("and it had " * 9, "to be")]

    fast = log_likelihoods(model, encode(encoder, separator, pairs, LENGTH))

    for (context, continuation), nats, is_greedy in zip(pairs, fast.nats, fast.is_greedy, strict=True):
        whole = encoder.encode(context + continuation).ids
        begin = len(encoder.encode(context.rstrip()).ids)
        tokens = whole if context else [separator, *whole]
        begin += not context
        logits = model(input_ids=torch.tensor([tokens[-LENGTH - 1 : -1]])).logits[0, begin - len(tokens) :]
        slow = sum(row.log_softmax(-1)[token].item() for row, token in zip(logits, tokens[begin:], strict=True))
        assert nats == pytest.approx(slow, abs=1e-4)
        assert is_greedy == (logits.argmax(-1).tolist() == tokens[begin:])


@pytest.mark.parametrize("words", [1, 8, 9, 40])
def test_a_long_continuation_is_scored_in_pieces_that_hold_each_token_once(tokenizer, words):
    encoder, separator = tokenizer
    pair = ("The old river", " stone" * words)

    [request] = encode(encoder, separator, [pair], 8)

    scored = [token for tokens, count in request for token in tokens[len(tokens) - count :]]
    assert scored == encoder.encode("".join(pair)).ids[len(encoder.encode(pair[0]).ids) :]
    assert all(count < len(tokens) <= 9 for tokens, count in request)
    assert (len(request) == 1) == (len(scored) <= 8)


def test_batches_hold_every_window_once_and_not_too_many_tokens():
    lengths = [int(length) for length in np.random.default_rng(0).integers(1, 5000, 300)]

    cut = list(alike(lengths))

    assert sorted(number for numbers in cut for number in numbers) == list(range(300))
    assert all(len(numbers) == 1 or len(numbers) * lengths[numbers[0]] <= 4096 for numbers in cut)
    assert all(lengths[first] >= lengths[second] for first, second in pairwise(chain.from_iterable(cut)))


def test_a_masked_model_is_asked_for_each_token_alone():
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", vocab_size=30, **SIZES)).eval()
    tokens, scored = [1, 2, 3, 4, 5, 6], 4

    [nats] = pseudo_log_likelihoods(model, [((tokens, scored),)], mask=29).nats

    slow = 0.0
    for place in range(2, 6):
        hidden = torch.tensor([[29 if number == place else token for number, token in enumerate(tokens)]])
        slow += model(input_ids=hidden).logits[0, place].log_softmax(-1)[tokens[place]].item()
    assert nats == pytest.approx(slow, abs=1e-4)


@pytest.mark.parametrize(
    ("lengths", "gold", "nats", "is_greedy", "wanted"),
    [
        ((1, 1), 0, [-2.0, -3.0], [False, False], True),
        ((1, 1), 1, [-2.0, -3.0], [False, True], False),
        ((2, 4), 1, [-2.0, -3.0], [False, False], True),  # per character, the second is likelier
        ((1, 1), 0, [-2.0, -2.0], [False, False], True),  # of equals, the first
        ((1, 1), 1, [-2.0, -2.0], [False, False], False),
        ((1,), 0, [-9.0], [True], True),
        ((1,), 0, [-0.1], [False], False),
    ],
)
def test_the_best_candidate_is_the_answer(lengths, gold, nats, is_greedy, wanted):
    before = Item((("", "a"), ("", "b")), 0, (1, 1))  # an item before it, answered right
    item = Item((("", "x"),) * len(lengths), gold, lengths)

    answers = right([before, item], Likelihoods(np.array([-1.0, -2.0, *nats]), np.array([False, False, *is_greedy])))

    assert answers.tolist() == [True, wanted]


def test_examples_are_the_first_answered_items_but_for_the_item_itself(tmp_path):
    asked = task(tmp_path, "language_modeling", shots=1)
    first, second = (
        "The old river of the stone crossed that letter, " * 2 + "and it had to be\n\n",
        "and it had to be\n\n",
    )

    assert examples(asked, read_items(asked)) == [second, first, first]
    assert examples(asked.model_copy(update={"shots": 0}), read_items(asked)) == ["", "", ""]
    with pytest.raises(Refusal, match=r"language_modeling: shots is 3, and an item of .* has only 2 others"):
        examples(asked.model_copy(update={"shots": 3}), read_items(asked))
    with pytest.raises(ValueError, match="has shots, which go with questions and answers"):
        task(tmp_path, "minimal_pairs", shots=1)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 1, 0.2065, 1.0)],
)
def test_an_interval_is_wilsons(hits, count, low, high):
    assert wilson(hits, count) == pytest.approx((low, high), abs=1e-4)


def test_the_mean_is_above_guessing_and_a_group_counts_once(tmp_path):
    pairs, choice = task(tmp_path, "minimal_pairs", group="blimp"), task(tmp_path, "multiple_choice")
    scores = {
        "one": {"value": 0.75, "standard_error": 0.05, "chance": 0.5, "centred": 0.5},
        "two": {"value": 0.5, "standard_error": 0.05, "chance": 0.5, "centred": 0.0},
        "three": {"value": 0.25, "standard_error": 0.08, "chance": 0.2, "centred": 0.0625},
    }
    tasks = [pairs.model_copy(update={"name": "one"}), pairs.model_copy(update={"name": "two"})]

    found = mean(scores, [*tasks, choice.model_copy(update={"name": "three"})])

    assert found["value"] == pytest.approx((0.25 + 0.0625) / 2, abs=1e-4)
    assert found["standard_error"] == pytest.approx(math.sqrt(2 * 0.1**2 / 4 + 0.1**2) / 2, abs=1e-4)
    assert found["n"] == 2
    assert mean({}, tasks) is None


def test_guessing_depends_on_the_number_of_choices(tmp_path):
    items = read_items(task(tmp_path, "multiple_choice"))
    answers = np.array([True, False, False, True])

    score = task_score(task(tmp_path, "multiple_choice"), items, answers)

    assert score["chance"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 3 + 1 / 2) / 4, abs=1e-4)
    assert score["centred"] == pytest.approx((0.5 - 0.41667) / (1 - 0.41667), abs=1e-3)
    assert task_score(task(tmp_path, "multiple_choice", chance=0.5), items, answers)["centred"] == 0.0
    assert accuracy(answers[:0]) == {"n": 0}


@pytest.mark.parametrize(
    ("layout", "row", "sentence"),
    [
        ("minimal_pairs", {"sentence_good": "A."}, "line 2: sentence_bad: Field required (layout minimal_pairs)"),
        ("minimal_pairs", {"sentence_good": 3, "sentence_bad": "A."}, "line 2: sentence_good (3): Input should be"),
        ("multiple_choice", {"query": "", "choices": ["a", "b"], "gold": 2}, "line 2: gold is 2, of 2 choices"),
        ("multiple_choice", {"query": "", "choices": ["a"], "gold": 0}, "line 2: choices (['a']): List should have"),
        ("schema", {"context_options": ["a", "b"], "continuation": "", "gold": 0}, "line 2: continuation (''): String"),
        (
            "language_modeling",
            [],
            "line 2 is no JSON object; params.yaml, evaluate.tasks: language_modeling needs items",
        ),
    ],
)
def test_a_row_that_is_no_item_is_named(tmp_path, layout, row, sentence):
    with pytest.raises(Refusal) as refusal:
        read_items(task(tmp_path, layout, [ROWS[layout][0], row]))

    assert f"{layout}.jsonl, {sentence}" in str(refusal.value)


def test_only_the_pinned_file_is_read(tmp_path):
    pinned = task(tmp_path, "schema")
    (tmp_path / "schema.jsonl").write_text("{}\n")

    with pytest.raises(Refusal, match=rf"evaluate\.tasks: schema: .*schema\.jsonl has sha256 \w+, not {pinned.sha256}"):
        read_items(pinned)
    with pytest.raises(Refusal, match=r"gone\.jsonl can't be read \(No such file or directory\)"):
        read_items(pinned.model_copy(update={"data": str(tmp_path / "gone.jsonl")}))
    with pytest.raises(Refusal, match=r"is empty"):
        read_items(task(tmp_path, "schema", []))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "needs a layout or a definition"),
        ({"layout": "schema", "definition": "a.yaml", "definition_sha256": "0" * 64}, "and not both"),
        ({"definition": "a.yaml"}, "definition and definition_sha256 come together"),
    ],
)
def test_a_task_has_a_layout_or_a_pinned_definition(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        TaskParams(name="x", data="x.jsonl", sha256="0" * 64, **values)


def test_two_tasks_of_one_name_are_refused(tmp_path):
    tasks = [task(tmp_path, "schema")] * 2

    with pytest.raises(ValueError, match="tasks has schema twice"):
        EvaluateParams(sequence_length=8, stride=8, tasks=tasks)


def test_some_items_are_spread_over_all():
    assert spread(list(range(10)), 4) == [0, 2, 5, 7]
    assert spread([1, 2], 4) == [1, 2]
    assert Sheet(None, ((1, 2), (3, 4), (5, 6))).some(1).questions == ((1, 2),)


def test_a_masked_model_is_not_asked_to_write_on(tokenizer, tmp_path):
    params = EvaluateParams(sequence_length=8, stride=8, tasks=[task(tmp_path, "language_modeling")])

    with pytest.raises(Refusal, match=r"evaluate\.tasks: language_modeling needs a causal model"):
        prepare(params, *tokenizer, mask=5)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("doc_to_text: !function steal.everything\n", "no code is run"),
        ("include: other.yaml\n", r"has include; a definition may only say"),
        ("- a\n", "has no mapping"),
        ("output_type: multiple_choice\n", "must name one metric"),
    ],
)
def test_a_definition_that_would_run_or_fetch_other_things_is_refused(tmp_path, text, sentence):
    with pytest.raises(Refusal, match=sentence):
        harness_task(defined(tmp_path, text))


def test_a_machine_without_the_harness_is_told_so(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("stages.evaluate.harness.find_spec", lambda _: None)

    with pytest.raises(Refusal, match="lm-evaluation-harness for a score, and it isn't installed"):
        harness_scores(folder, [task(tmp_path, "schema")], LENGTH, 1)
