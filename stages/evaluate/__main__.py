"""Score the base model beside honest references, draw its curve, and let it write."""

import csv
import io
import math
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
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
from stages.evaluate.held_out import HeldOut, held_out, per_byte
from stages.evaluate.intervals import intervals
from stages.evaluate.params import EvaluateParams, SamplesParams
from stages.evaluate.references import reference_bits
from stages.params import Refusal, load_mixture, load_params
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
        encodings = self.tokenizer.encode_batch_fast(list(documents.texts), add_special_tokens=False)
        tokens = [encoding.ids for encoding in encodings]
        length = self.params.sequence_length
        if self.mask is None:
            nats = score.causal_nats(model, tokens, self.separator, length, self.params.stride)
        else:
            nats = score.masked_nats(model, tokens, self.mask, length)
        return [each / math.log(2) for each in nats]


def checkpoint_curve(scorer: Scorer, sets: Sequence[HeldOut]) -> list[tuple[int, float]]:
    """Bits per byte of every published checkpoint, by step, on the first documents of each set."""
    budget = scorer.params.checkpoint_bytes
    folders = sorted(CHECKPOINTS.glob("step-*")) if budget else []
    small = [each.first(budget) for each in sets]

    def measure(folder: Path) -> tuple[int, float]:
        model = load_model(folder)
        return int(folder.name.removeprefix("step-")), per_byte(
            [sum(scorer.bits(model, each)) for each in small], small
        )

    return list(progress(map(measure, folders), len(folders), "evaluate", "checkpoints"))


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
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=die_with_parent) as pool:
        # The references are plain computing: they go on beside the model's.
        pending: Future[dict[str, Any]] = pool.submit(reference_bits, sets, sources)
        model, untrained = load_model(BASE), untrained_model(BASE)
        bits = list(progress((scorer.bits(model, each) for each in sets), len(sets), "evaluate", "sources"))
        blind = [sum(scorer.bits(untrained, each)) for each in sets]
        curve = checkpoint_curve(scorer, sets)
        samples = write_samples(model, scorer, params.samples) if mask is None else []
        others = pending.result()
    write_outs(sets, bits, blind, others, curve, samples)


def write_outs(
    sets: Sequence[HeldOut],
    bits: Sequence[Sequence[float]],
    blind: Sequence[float],
    others: dict[str, Any],
    curve: Sequence[tuple[int, float]],
    samples: list[dict[str, Any]],
) -> None:
    """Write metrics, scores of each document, plots and samples."""
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
    sure = intervals({each.source: (mine, each.sizes) for each, mine in zip(sets, bits, strict=True)})
    write_json(Path("metrics/evaluate.json"), {"bits_per_byte": total, "sources": by_source, "intervals": sure})
    write_shard(Path("metrics/held_out.parquet"), score_table(sets, bits))
    write_json(Path("models/samples.json"), samples)
    rows = [(name, scores["model"]) for name, scores in by_source.items()]
    write_csv(Path("plots/bits_per_byte.csv"), ("source", "bits_per_byte"), rows)
    write_csv(Path("plots/references.csv"), ("predictor", "bits_per_byte"), list(total.items()))
    write_csv(Path("plots/checkpoints.csv"), ("step", "bits_per_byte"), curve)
    log.info("evaluate: %.3f bits per byte on held-out text, in metrics/evaluate.json", total["model"])


if __name__ == "__main__":
    run(main)
