"""The model card: what the base model is, what it was trained on and how, in a README.md that travels with it.

    params, token shards, the order of the samples, metrics, the written model  ->  models/base/README.md

The metadata block at its top is what the Hugging Face hub reads. As every out, the card holds nothing that differs
between two machines that made the same model: no time, host, path of a machine or package version.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.documents import MANIFEST, publish, read_manifest
from stages.order import Order
from stages.pretrain.params import AdamWParams, PhaseParams, PretrainParams

NAME = "README.md"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class SourceTokens:
    """What a source gave to the training."""

    documents: int
    tokens: int
    manifest: str  # sha256 of the manifest of its token shards


@dataclass(frozen=True)
class Facts:
    """All that the card says, as far as pretrain knows it."""

    params: PretrainParams
    metrics: Mapping[str, Any]  # metrics/pretrain.json
    config: Mapping[str, Any]  # of the model, as transformers reads it
    weights: str  # sha256
    tokenizer: str  # sha256 of its tokenizer.json
    order: Order
    sources: Mapping[str, SourceTokens]
    averaged: Sequence[int] = ()  # the steps whose weights the model's are the mean of


def write_card(base: Path, facts: Facts) -> None:
    """Write the card of the finished model in `base`."""
    partial = base / f".{NAME}.partial"
    partial.write_text(card(facts), encoding="utf-8")
    publish(partial, base / NAME)


def read_facts(
    base: Path,
    tokens: Path,
    order: Order,
    params: PretrainParams,
    metrics: Mapping[str, Any],
    averaged: Sequence[int] = (),
) -> Facts:
    """What the card says of the finished model in `base`, which was trained on the shards in the folders of `tokens`.

    Args:
        averaged: the steps whose weights the model's are the mean of; none if it has the last ones.
    """
    return Facts(
        params, metrics,
        config=json.loads((base / "config.json").read_text(encoding="utf-8")),
        weights=sha256_of(base / WEIGHTS),
        tokenizer=sha256_of(base / "tokenizer.json"),
        order=order,
        sources={name: read_source(tokens / name) for name in order.mixture},
        averaged=averaged,
    )  # fmt: skip


def read_source(folder: Path) -> SourceTokens:
    """What the token shards in `folder` hold."""
    counts = read_manifest(folder)["counts"]
    return SourceTokens(counts["documents"], counts["tokens"], sha256_of(folder / MANIFEST))


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def card(facts: Facts) -> str:
    """The card as Markdown, with its metadata on top."""
    sections = [what_it_is(facts), what_it_saw(facts), how(facts), to_load(facts), to_verify(facts), ELSEWHERE, LIMITS]
    return front_matter(metadata(facts)) + "\n\n".join(["", *("\n".join(lines) for lines in sections)]).lstrip() + "\n"


def front_matter(values: Mapping[str, Any]) -> str:
    """`values` as the YAML block at the top of a card, the empty line after it included."""
    return f"---\n{yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)}---\n\n"


def metadata(facts: Facts) -> dict[str, Any]:
    """What the Hugging Face hub reads. The language is left out: pretrain sees tokens, not their language."""
    causal = facts.params.objective == "causal"
    return {
        "library_name": "transformers",
        "pipeline_tag": "text-generation" if causal else "fill-mask",
        "license": "other",
        "license_name": "unknown",
        "tags": [facts.config["model_type"], "base-model", f"{facts.params.objective}-lm", "pedigree"],
    }


def what_it_is(facts: Facts) -> list[str]:
    """Architecture, size, objective."""
    config, params, metrics = facts.config, facts.params, facts.metrics
    objective = (
        "causal language modelling: each token is predicted from those before it"
        if params.objective == "causal"
        else f"masked language modelling: {params.masked_share:.0%} of the tokens are hidden and predicted"
    )
    kind = f"{', '.join(config['architectures'])} (`{config['model_type']}`)"
    rows: list[tuple[object, ...]] = [
        ("architecture", kind),
        ("parameters", f"{metrics['parameters']:,}"),
        *((words, config[field]) for field, words in SHAPE.items() if field in config),
        ("tokenizer", f"`tokenizer.json`, sha256 `{facts.tokenizer}`"),
        ("sequence length in training", f"{params.sequence_length} tokens"),
        ("objective", objective),
        ("weights", f"`{WEIGHTS}`, 32-bit floats, sha256 `{facts.weights}`"),
    ]
    return [
        f"# A base model of {metrics['parameters']:,} parameters", "",
        "A language model, trained from random weights on text alone by Pedigree, a pipeline whose every artifact can",
        "be built again to the same bytes. It is a base model: it goes on with a text, and follows no instructions.",
        "This card is made from the training's inputs and outputs; what they don't tell is said to be unknown.", "",
        *table(("", ""), rows),
    ]  # fmt: skip


SHAPE = {
    "vocab_size": "vocabulary",
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "intermediate_size": "inner width",
    "num_attention_heads": "attention heads",
    "num_key_value_heads": "key and value heads",
    "max_position_embeddings": "positions",
    "tie_word_embeddings": "embedding and head tied",
}


def what_it_saw(facts: Facts) -> list[str]:
    """Sources, tokens, windows drawn, epochs, mixture."""
    params, order, metrics = facts.params, facts.order, facts.metrics
    total = params.steps * params.samples_per_step
    drawn = order.drawn(total)
    rows = [
        (
            name, f"{source.documents:,}", f"{source.tokens:,}", f"{order.mixture[name]:.1%}", f"{drawn[name]:,}",
            f"{drawn[name] * params.sequence_length:,}", f"{metrics['epochs'][name]:.2f}",
        )
        for name, source in facts.sources.items()
    ]  # fmt: skip
    return [
        "## What it was trained on", "",
        f"{metrics['tokens']:,} tokens, in {total:,} windows of {params.sequence_length}, drawn from the sources in",
        "the shares of the mixture. Tokens and documents are those that filters, deduplication and the held-out split",
        "left.", *(f"After {phase.after_tokens:,} tokens the shares were {shares(phase)}." for phase in params.phases),
        "", *table(("source", "documents", "tokens", "mixture", "windows drawn", "tokens seen", "epochs"), rows), "",
        "The manifest of each source's token shards, by sha256:", "",
        *(f"- {cell(name)}: `{source.manifest}`" for name, source in facts.sources.items()),
    ]  # fmt: skip


def shares(phase: PhaseParams) -> str:
    """The mixture of a phase in words."""
    total = sum(phase.mixture.values())
    return ", ".join(f"{cell(name)} {weight / total:.1%}" for name, weight in sorted(phase.mixture.items()))


def how(facts: Facts) -> list[str]:
    """Optimizer, schedule, batch, steps, precision, seed, operations."""
    params, metrics = facts.params, facts.metrics
    schedule = params.schedule
    falls = {
        "wsd": f"the peak is held, and falls linearly over the last {schedule.decay:.0%} of the steps",
        "cosine": "it falls as a cosine",
        "linear": "it falls linearly",
    }
    clip = "none" if params.gradient_clip is None else f"global norm {params.gradient_clip:g}"
    rows = [
        ("optimizer", optimizer(params)),
        ("schedule", f"{schedule.warmup_steps} steps up; then {falls[schedule.shape]} to {schedule.final:g} of it"),
        ("batch", f"{params.tokens_per_step:,} tokens, which are {params.samples_per_step} windows"),
        ("steps", f"{metrics['steps']:,}"),
        ("gradient clipping", clip),
        ("precision", PRECISION[params.precision]),
        ("seed", params.seed),
        *averaging(facts.averaged),
        ("loss at the end", f"{metrics['loss']:.4f} nats per token, smoothed"),
        ("operations", f"{metrics['flops']:.3e} FLOPs, by the estimate 6N + 12·layers·width·length for each token"),
    ]
    return ["## How it was trained", "", *table(("", ""), rows)]


def averaging(steps: Sequence[int]) -> list[tuple[str, str]]:
    """The line about the mean that the weights are, if they are one."""
    return [("averaged", f"the weights are the mean of those after steps {', '.join(map(str, steps))}")] * bool(steps)


PRECISION = {
    "fp32": "32-bit floats",
    "bf16": "bf16 products, 32-bit weights",
    "fp8": "fp8 products, the rest bf16, 32-bit weights",
    "auto": "bf16 products where the hardware has them, else 32-bit floats; which of them it was, is unknown here",
}


def optimizer(params: PretrainParams) -> str:
    """The optimizer in a phrase."""
    chosen = params.optimizer
    if isinstance(chosen, AdamWParams):
        return _adamw(chosen)
    return (
        f"Muon for the matrices inside (peak learning rate {chosen.learning_rate:g}, momentum {chosen.momentum:g}, "
        f"weight decay {chosen.weight_decay:g}); for the rest {_adamw(chosen.adamw)}"
    )


def _adamw(chosen: AdamWParams) -> str:
    return (
        f"AdamW (peak learning rate {chosen.learning_rate:g}, betas {chosen.beta1:g} and {chosen.beta2:g}, "
        f"weight decay {chosen.weight_decay:g})"
    )


def to_load(facts: Facts) -> list[str]:
    """The lines of Python that load it."""
    auto = "AutoModelForCausalLM" if facts.params.objective == "causal" else "AutoModelForMaskedLM"
    return [
        "## Load it", "", "`FOLDER` is the folder that holds this file.", "",
        "```python",
        f"from transformers import {auto}, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        f'model = {auto}.from_pretrained("FOLDER")',
        "```",
    ]  # fmt: skip


def to_verify(facts: Facts) -> list[str]:
    """How the same bytes are made again."""
    return [
        "## Build it again, and verify it", "",
        "In the repository that it was built in, at the commit whose `dvc.lock` has this folder's digest:", "",
        "```",
        "dvc repro          # builds it",
        "pedigree verify    # builds it again in a clean clone, and compares every digest",
        "```",
        "",
        "On the same kind of processor the weights come out with the digest above; on another kind the evaluation",
        "agrees within the tolerance that `docs/reproducibility.md` states. The order of the training windows is a",
        f"function of the seed ({facts.params.seed}), so which documents a step saw can be computed: `pedigree trace`.",
    ]  # fmt: skip


ELSEWHERE = [
    "## What this card leaves to others", "",
    "- Licences: each document carries its own, in the column `license` of `data/extract`. `pedigree export",
    "  dataset-card` counts them. Which licence the weights are under is for whoever publishes them to state: unknown.",
    "- Languages: measured for each document, and counted in the dataset card.",
    "- Evaluation: comes after training, so it stands in `metrics/evaluate.json`: bits per byte on held-out text, with",
    "  confidence intervals, beside references.",
    "- When, where and by whom it was trained: in the records of the build, if it has any.",
    "- The energy that it took: unknown.",
]  # fmt: skip

LIMITS = [
    "## Limits", "",
    "- It is a base model. It was neither aligned nor tuned to instructions, and nothing keeps it from writing what is",
    "  false, harmful, or copied from its training text.",
    "- It knows what its sources hold, in their shares. What they lack, and how they are biased, was not measured.",
    "- Personal data in the training text: unknown.",
    "- Intended use beyond research on how such models come about: unknown.",
]  # fmt: skip


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell(value) for value in line) + " |" for line in lines]


def cell(value: object) -> str:
    """`value` as it may stand in a table or a line: on one line, and neither Markdown nor HTML."""
    text = " ".join(str(value).split())
    return text.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")
