"""Tasks are read, asked and scored; lm-evaluation-harness says the same."""

import hashlib
import json
import random

import pytest
import torch
from tiny import prose
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM

from stages.evaluate.exam import prepare
from stages.evaluate.harness import harness_scores
from stages.evaluate.likelihood import log_likelihoods
from stages.evaluate.params import EvaluateParams, TaskParams
from stages.evaluate.tasks import standard_error
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
    return TaskParams(name=layout, layout=layout, data=str(path), sha256=sha256, **values)


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


def test_our_scorer_and_the_harness_agree(folder, model, tokenizer, tmp_path):
    tasks = [task(tmp_path, layout) for layout in ROWS]
    params = EvaluateParams(sequence_length=LENGTH, stride=8, tasks=tasks)

    reference = harness_scores(folder, tasks, LENGTH, 1)

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
