"""Score the base model beside honest references, draw its curve, and let it write."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.utils.logging import disable_progress_bar

from stages.documents import publish, source_folders, write_json, write_shard
from stages.evaluate import score
from stages.evaluate.exam import Sheet, accuracies, asked_of_harness, prepare, sections
from stages.evaluate.harness import harness_scores
from stages.evaluate.held_out import HeldOut, held_out, per_byte
from stages.evaluate.intervals import intervals
from stages.evaluate.params import EvaluateParams, SamplesParams
from stages.evaluate.probe import Labelled, probe_curve, probe_entry, read_labelled
from stages.evaluate.references import reference_bits
from stages.evaluate.tasks import mean, standard_error
from stages.items import ProbeParams
from stages.mixture import load_mixture
from stages.params import Refusal, load_params
from stages.process import die_with_parent, log, progress, run
from stages.tokens import load_mask_token, load_tokenizer

BASE = Path("models/base")
CHECKPOINTS = Path("models/checkpoints")
THREADS = 2  # fixed, as sums may depend on it


def auto_class(folder: Path) -> Any:
    """transformers' class for the objective that the model in `folder` was trained for."""
    is_masked = AutoConfig.from_pretrained(folder).architectures[0].endswith("MaskedLM")
    return AutoModelForMaskedLM if is_masked else AutoModelForCausalLM


def load_model(folder: Path) -> nn.Module:
    """The model in `folder`, ready to be asked.

    Raises:
        Refusal: if it can't be read.
    """
    try:
        model: nn.Module = auto_class(folder).from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except Exception as error:  # safetensors, JSON and transformers each raise their own
        raise Refusal(f"{folder} can't be loaded ({error}); remove it and run `dvc repro` to make it again") from error
    return model.eval()


def untrained_model(folder: Path) -> nn.Module:
    """The architecture of the model in `folder` with random weights."""
    torch.manual_seed(0)
    model: nn.Module = auto_class(folder).from_config(AutoConfig.from_pretrained(folder))
    return model.eval()


@dataclass(frozen=True)
class Scorer:
    """Scores any model of one tokenizer."""

    tokenizer: Tokenizer
    separator: int
    mask: int | None  # of a masked model; None: causal
    params: EvaluateParams

    def bits(self, model: nn.Module, documents: HeldOut) -> list[float]:
        """The bits that each of `documents` costs under `model`."""
        if self.mask is not None:
            return [each.nats / math.log(2) for each in self.masked(model, documents)]
        length, stride = self.params.sequence_length, self.params.stride
        nats = score.causal_nats(model, self.tokens(documents), self.separator, length, stride)
        return [each / math.log(2) for each in nats]

    def masked(self, model: nn.Module, documents: HeldOut) -> list[score.Masked]:
        """What a masked `model` makes of each of `documents`."""
        assert self.mask is not None
        return score.masked_scores(model, self.tokens(documents), self.mask, self.params.sequence_length)

    def tokens(self, documents: HeldOut) -> list[list[int]]:
        """The tokens of each of `documents`."""
        encodings = self.tokenizer.encode_batch_fast(list(documents.texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


@dataclass(frozen=True)
class Checkpoint:
    """A point of the curve: bits per byte, and the accuracy in each task."""

    step: int
    bits_per_byte: float
    tasks: dict[str, dict[str, Any]]


def checkpoints() -> list[Path]:
    """The folders of the published checkpoints, by step."""
    return sorted(CHECKPOINTS.glob("step-*"))


def checkpoint_curve(scorer: Scorer, sets: Sequence[HeldOut], sheets: Sequence[Sheet]) -> list[Checkpoint]:
    """The scores of every published checkpoint: on the first documents of each set, and on some items of each task."""
    budget, most = scorer.params.checkpoint_bytes, scorer.params.checkpoint_items
    folders = checkpoints() if budget else []
    small, some = [each.first(budget) for each in sets], [each.some(most) for each in sheets if most]

    def measure(folder: Path) -> Checkpoint:
        model = load_model(folder)
        bits = per_byte([sum(scorer.bits(model, each)) for each in small], small)
        return Checkpoint(int(folder.name.removeprefix("step-")), bits, accuracies(some, model, scorer.mask))

    return list(progress(map(measure, folders), len(folders), "evaluate", "checkpoints"))


def probe_section(params: ProbeParams, labelled: Labelled) -> dict[str, Any]:
    """How fast the untrained model, each published checkpoint and the base model learn the probe's labels."""
    models: dict[str, Callable[[], nn.Module]] = {"untrained": partial(untrained_model, BASE)}
    models |= {folder.name: partial(load_model, folder) for folder in checkpoints()}
    models["base"] = partial(load_model, BASE)
    curves = (probe_curve(load(), labelled, params) for load in models.values())
    probed = progress(curves, len(models), "evaluate", "models probed")
    return {"probe": probe_entry(params, labelled, dict(zip(models, probed, strict=True)))}


def write_samples(model: nn.Module, scorer: Scorer, params: SamplesParams) -> list[dict[str, Any]]:
    """What `model` writes after each prompt: greedily (temperature 0), and drawn."""
    written = []
    for number, prompt in enumerate(params.prompts):
        start = torch.tensor([[scorer.separator, *scorer.tokenizer.encode(prompt, add_special_tokens=False).ids]])
        for temperature in (0.0, params.temperature):
            torch.manual_seed(params.seed + number)
            how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
            tokens = model.generate(  # type: ignore[operator]
                start, attention_mask=torch.ones_like(start), max_new_tokens=params.tokens,
                pad_token_id=scorer.separator, **how,
            )  # fmt: skip
            text = scorer.tokenizer.decode(tokens[0, start.shape[1] :].tolist())
            written.append({"prompt": prompt, "temperature": temperature, "text": text})
    return written


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a small table that `dvc plots` draws."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(buffer.getvalue(), encoding="utf-8")
    publish(partial, path)


def score_table(sets: Sequence[HeldOut], bits: Sequence[Sequence[float]]) -> pl.DataFrame:
    """One row for each document: id, source, bytes, and its bits under the model; so two models can be compared."""
    tables = (
        pl.DataFrame({"id": each.ids, "source": each.source, "bytes": each.sizes, "bits": costs})
        for each, costs in zip(sets, bits, strict=True)
    )
    return pl.concat(tables).with_columns(pl.col("bits").round(3))


def main() -> None:
    """Evaluate the base model of this build."""
    disable_progress_bar()  # of loading weights: our own lines say more
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(THREADS)
    params, sources = load_params(EvaluateParams, "evaluate"), list(load_mixture())
    source_folders(Path("data/dedup"))
    sets = held_out(sources, params.source_bytes)
    tokenizer, separator = load_tokenizer(BASE)
    mask = load_mask_token(BASE) if auto_class(BASE) is AutoModelForMaskedLM else None
    scorer = Scorer(tokenizer, separator, mask, params)
    sheets = prepare(params, tokenizer, separator, mask)
    labelled = read_labelled(params.probe, tokenizer, params.sequence_length) if params.probe else None
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=die_with_parent) as pool:
        # The references are plain computing: they go on beside the model's.
        pending: Future[dict[str, Any]] = pool.submit(reference_bits, sets, sources)
        model, untrained = load_model(BASE), untrained_model(BASE)
        asked = asked_of_harness(params, sheets)
        reference = harness_scores(BASE, asked, params.sequence_length, THREADS) if asked else {}
        bits = list(progress((scorer.bits(model, each) for each in sets), len(sets), "evaluate", "sources"))
        blind = [sum(scorer.bits(untrained, each)) for each in sets]
        curve = checkpoint_curve(scorer, sets, sheets)
        answers = {each.task.name: each.answers(model, mask) for each in sheets}
        samples = write_samples(model, scorer, params.samples) if mask is None else []
        others = pending.result()
    metrics = held_out_metrics(sets, bits, blind, others)
    metrics |= masked_section(scorer, model, sets) if mask is not None else {}
    metrics |= sections(params, sheets, answers, {each.step: each.tasks for each in curve}, reference, sources)
    metrics |= probe_section(params.probe, labelled) if params.probe and labelled else {}
    write_json(Path("metrics/evaluate.json"), metrics)
    write_shard(Path("metrics/held_out.parquet"), score_table(sets, bits))
    write_json(Path("models/samples.json"), samples)
    write_plots(metrics, curve, params)
    log.info("evaluate: %s, in metrics/evaluate.json", summary(metrics))


def held_out_metrics(
    sets: Sequence[HeldOut], bits: Sequence[Sequence[float]], blind: Sequence[float], others: dict[str, Any]
) -> dict[str, Any]:
    """Bits per byte of the model and its references, in all, by source, and as the mean over sources."""
    sums = list(map(sum, bits))
    by_source = {
        each.source: {
            "documents": len(each.texts),
            "bytes": each.bytes,
            "model": per_byte([mine], [each]),
            "untrained": per_byte([theirs], [each]),
            **others["sources"][each.source],
        }
        for each, mine, theirs in zip(sets, sums, blind, strict=True)
    }
    total = {"model": per_byte(sums, sets), "untrained": per_byte(blind, sets)}
    total |= {name: others[name] for name in ("xz", "xz_primed", "order2")}
    macro = {
        name: round(math.fsum(scores[name] for scores in by_source.values()) / len(by_source), 4)
        for name in ("model", "untrained", "xz", "order2")
    }
    sure = intervals({each.source: (mine, each.sizes) for each, mine in zip(sets, bits, strict=True)})
    return {"bits_per_byte": total, "macro_mean": macro, "sources": by_source, "intervals": sure}


def masked_section(scorer: Scorer, model: nn.Module, sets: Sequence[HeldOut]) -> dict[str, Any]:
    """What a masked model guesses of hidden tokens, in all and by source: its pseudo-perplexity, and how many right."""
    found = {each.source: score.added(scorer.masked(model, each)) for each in sets}
    entries = {source: masked_entry(each) for source, each in found.items()}
    return {"masked": {**masked_entry(score.added(list(found.values()))), "sources": entries}}


def masked_entry(found: score.Masked) -> dict[str, Any]:
    """The pseudo-perplexity of Salazar et al. (2020), and how often the likeliest token is the hidden one."""
    share = found.right / found.tokens
    return {
        "tokens": found.tokens,
        "pseudo_perplexity": round(math.exp(found.nats / found.tokens), 4),
        "accuracy": round(share, 4),
        "standard_error": round(standard_error(share, found.tokens), 4),
    }


def write_plots(metrics: dict[str, Any], curve: Sequence[Checkpoint], params: EvaluateParams) -> None:
    """Write the tables that `dvc plots` draws."""
    rows = [(name, scores["model"]) for name, scores in metrics["sources"].items()]
    write_csv(Path("plots/bits_per_byte.csv"), ("source", "bits_per_byte"), rows)
    total = metrics["bits_per_byte"]
    write_csv(Path("plots/references.csv"), ("predictor", "bits_per_byte"), list(total.items()))
    names = list(curve[0].tasks) if curve else []
    header = ("step", "bits_per_byte", *(("task_mean", *names) if names else ()))
    write_csv(Path("plots/checkpoints.csv"), header, [checkpoint_row(each, params) for each in curve])


def checkpoint_row(checkpoint: Checkpoint, params: EvaluateParams) -> tuple[object, ...]:
    """Step, bits per byte, and if there are tasks their chance-centred mean and the accuracy in each."""
    found = mean(checkpoint.tasks, params.tasks)
    tasks = (found["value"], *(each["value"] for each in checkpoint.tasks.values())) if found else ()
    return (checkpoint.step, checkpoint.bits_per_byte, *tasks)


def summary(metrics: dict[str, Any]) -> str:
    """What was found, in a few words."""
    said = f"{metrics['bits_per_byte']['model']:.3f} bits per byte on held-out text"
    found = metrics.get("task_mean")
    return f"{said}, {found['value']:.3f} above guessing in {len(metrics['tasks'])} tasks" if found else said


if __name__ == "__main__":
    run(main)
