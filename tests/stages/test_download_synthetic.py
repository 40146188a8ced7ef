"""A source that a language model writes: pinned model, prompts and seed, marked in every document."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from fetching import download, fetched, forget, lock
from tiny import ROOT
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from stages.documents import read_manifest
from stages.download.synthetic import read_prompts, seed_of
from stages.extract.__main__ import main as extract
from stages.params import Refusal

pytestmark = pytest.mark.usefixtures("empty_project")

WORDS = ["<end>", "<unknown>", *"the old river bridge and garden stone window".split()]


@pytest.fixture
def model() -> str:
    """The folder of a model with random weights that knows nine words, beside a file of three prompts."""
    torch.manual_seed(0)
    fields = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(WORDS), eos_token_id=0, **fields)
    AutoModelForCausalLM.from_config(config).save_pretrained("model")
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unknown>").save_pretrained(
        "model"
    )
    Path("prompts.txt").write_text("the old river\n\nthe bridge\nthe garden and\n")
    return "model"


def synthetic(model: str, **more: object) -> dict[str, object]:
    asked = {"prompts": "prompts.txt", "samples": 2, "tokens": 8, "prompts_per_file": 2}
    return {"kind": "synthetic", "model": model, **asked, **more}


def lines(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def test_each_prompt_gets_its_texts_and_they_are_the_same_when_they_are_written_again(model):
    first = lines(fetched(synthetic(model)))
    forget()

    again = lines(download(synthetic(model)))

    assert [(line["id"], line["prompt"]) for line in first] == [
        (f"{number}-{sample}", prompt)
        for number, prompt in ((0, "the old river"), (2, "the bridge"), (3, "the garden and"))
        for sample in range(2)
    ]
    assert all(set(line["text"].split()) <= set(WORDS) for line in first)
    assert len({line["text"] for line in first}) == len(first)
    assert again == first


def test_the_texts_of_a_prompt_do_not_depend_on_the_others(model):
    first = lines(fetched(synthetic(model)))
    Path("prompts.txt").write_text("\n\nthe bridge\n")

    alone = lines(fetched(synthetic(model, prompts_per_file=7)))

    assert alone == [line for line in first if line["prompt"] == "the bridge"]
    assert seed_of(0, 2) != seed_of(1, 2)


def test_a_document_is_marked_as_synthetic(monkeypatch, model):
    fetched(synthetic(model, with_prompt=True))
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["sources"]["texts"]["extract"] = {"format": "jsonl"}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.setattr(sys, "argv", ["extract", "texts"])

    extract()

    documents = pl.concat(pl.read_parquet(path) for path in sorted(Path("data/extract/texts").glob("documents-*")))
    about = [json.loads(meta) for meta in documents["meta"]]
    assert all(each["synthetic"] is True and each["model"].startswith("model:model?weights=") for each in about)
    assert documents["text"].str.starts_with("the ").all()
    assert read_manifest(Path("data/download/texts"))["about"]["synthetic"] is True


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda: Path("prompts.txt").write_text("another\n"), r"prompts=\w+.* is asked for \(locked: "),
        (lambda: Path("model/config.json").write_text("{}"), r"weights=\w+.* is asked for \(locked: "),
        (lambda: Path("model/model.safetensors").unlink(), r"model has no \*\.safetensors; only such weights are read"),
        (lambda: Path("prompts.txt").unlink(), r"prompts\.txt: there is no such file; correct prompts"),
    ],
)
def test_another_model_or_prompt_than_was_locked_is_refused(model, change, sentence):
    lock(synthetic(model))
    change()

    with pytest.raises(Refusal, match=sentence):
        download(synthetic(model))


def test_a_file_without_prompts_is_refused(model):
    Path("prompts.txt").write_text("\n \n")

    assert list(read_prompts(Path("prompts.txt"))) == []
    with pytest.raises(Refusal, match=r"prompts\.txt has no prompt; write one on each line"):
        lock(synthetic(model))


def test_no_other_kind_loads_torch():
    loaded = (
        "import sys, stages.download.__main__, stages.lock; print('torch' in sys.modules, 'datasets' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "False False\n"
