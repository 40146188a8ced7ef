"""The model card: what it says of a training, and that it says the same on every machine."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import ModelCard

from stages.order import Order
from stages.params import parse_params
from stages.pretrain.card import Facts, SourceTokens, card, read_facts, write_card
from stages.pretrain.params import PretrainParams

VALUES = {
    "model": {"model_type": "llama", "hidden_size": 16},
    "sequence_length": 8,
    "tokens": 1024,
    "tokens_per_step": 64,
    "block_samples": 16,
    "optimizer": {"name": "muon", "learning_rate": 0.012, "adamw": {"learning_rate": 0.01}},
    "schedule": {"shape": "wsd", "warmup_steps": 2, "decay": 0.5},
    "seed": 7,
}
PARAMS = parse_params(PretrainParams, VALUES, "pretrain")
METRICS = {
    "parameters": 12345, "tokens": 1024, "steps": 16, "loss": 3.25, "flops": 1.5e9,
    "epochs": {"stories": 0.96, "scripts": 0.32},
}  # fmt: skip
FACTS = Facts(
    PARAMS,
    METRICS,
    config={"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 400, "hidden_size": 16},
    weights="a" * 64,
    tokenizer="b" * 64,
    order=Order(7, 16, {"stories": 100, "scripts": 100}, {"stories": 0.75, "scripts": 0.25}),
    sources={"stories": SourceTokens(50, 801, "c" * 64), "scripts": SourceTokens(20, 802, "d" * 64)},
)


def test_the_hub_reads_the_metadata_of_the_card():
    data = ModelCard(card(FACTS)).data

    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", "other")
    assert {"llama", "base-model"} <= set(data.tags)
    assert data.language is None  # pretrain can't know it


def test_a_masked_model_is_loaded_and_tagged_as_one():
    params = parse_params(PretrainParams, {**VALUES, "objective": "masked", "masked_share": 0.25}, "pretrain")

    text = card(replace(FACTS, params=params))

    assert ModelCard(text).data.pipeline_tag == "fill-mask"
    assert "AutoModelForMaskedLM.from_pretrained" in text
    assert "25% of the tokens are hidden" in text


@pytest.mark.parametrize(
    "said",
    [
        "| parameters | 12,345 |",
        "| vocabulary | 400 |",
        "1,024 tokens, in 128 windows of 8",
        "| stories | 50 | 801 | 75.0% | 96 | 768 | 0.96 |",
        "| scripts | 20 | 802 | 25.0% | 32 | 256 | 0.32 |",
        "peak learning rate 0.012",
        "| batch | 64 tokens, which are 8 windows |",
        "| seed | 7 |",
        "1.500e+09 FLOPs",
        "c" * 64,
        "pedigree verify",
        "unknown",
    ],
)
def test_the_card_says_what_was_trained_on_what_and_how(said):
    assert said in card(FACTS)


def test_a_name_of_a_source_is_text_in_the_card():
    named = {"a|b <script>[x](y)": SourceTokens(1, 9, "e" * 64)}
    order = Order(7, 16, dict.fromkeys(named, 100), dict.fromkeys(named, 1.0))

    text = card(replace(FACTS, sources=named, order=order, metrics={**METRICS, "epochs": dict.fromkeys(named, 1.28)}))

    assert "| a\\|b &lt;script>\\[x](y) | 1 |" in text
    assert "<script>" not in text


def test_the_card_in_a_folder_is_of_what_lies_there_and_of_nothing_else(tmp_path):
    base, tokens = tmp_path / "base", tmp_path / "tokens"
    base.mkdir()
    (base / "config.json").write_text(json.dumps(FACTS.config))
    (base / "model.safetensors").write_bytes(b"weights")
    (base / "tokenizer.json").write_text("{}")
    for name, source in FACTS.sources.items():
        (tokens / name).mkdir(parents=True)
        manifest = {"counts": {"documents": source.documents, "tokens": source.tokens}, "shards": []}
        (tokens / name / "manifest.json").write_text(json.dumps(manifest))

    write_card(base, read_facts(base, tokens, FACTS.order, PARAMS, METRICS))

    text = (base / "README.md").read_text(encoding="utf-8")
    assert text == card(read_facts(base, tokens, FACTS.order, PARAMS, METRICS))
    assert hashlib.sha256(b"weights").hexdigest() in text
    for elsewhere in (str(tmp_path), Path.home().as_posix(), torch.__version__, transformers.__version__):
        assert elsewhere not in text


def test_a_build_has_a_card_beside_its_weights(built):
    base = built.folder / "models/base"

    text = (base / "README.md").read_text(encoding="utf-8")

    assert hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest() in text
    assert f"| parameters | {built.json('metrics/pretrain.json')['parameters']:,} |" in text
    assert ModelCard(text).data.pipeline_tag == "text-generation"
