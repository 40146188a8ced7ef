"""Train one run of the ladder with the pretrain stage, and measure it on the build's held-out text.

    the build's token shards, tokenizer and held-out documents  ->  ladder/metrics/RUN.json

The run has a folder of its own in scratch: links to the build's data, and a params.yaml with the run's values. So
the stage runs as it is, and a killed run goes on from its checkpoint.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import yaml

from stages.documents import read_manifest, write_json
from stages.mixture import in_epochs, load_mixture
from stages.order import count_windows
from stages.params import Refusal, StageParams, load_params, read_params
from stages.pretrain.params import PretrainParams
from stages.process import log, run

ROOT = Path(__file__).parents[1]
LADDER = ROOT / "ladder"
LINKS = ("data", "models/tokenizer")
TOKENS = Path("data/tokenize")


class RunParams(StageParams):
    """What a run has of its own."""

    model: dict[str, Any]  # fields of pretrain.model
    tokens: int


def lay_out(folder: Path, params: dict[str, Any]) -> None:
    """Make `folder` one in which the stages find the build's data and these `params`."""
    for name in LINKS:
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(ROOT / name)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def params_of(whole: dict[str, Any], own: RunParams) -> dict[str, Any]:
    """The build's parameters with those of a run; nothing is published on the way."""
    pretrain = whole["pretrain"]
    changed = {"model": {**pretrain["model"], **own.model}, "tokens": own.tokens, "checkpoint_steps": None}
    return {**whole, "pretrain": {**pretrain, **changed}}


def mixture_of(root: Path) -> dict[str, Any]:
    """The mixture of the build in `root`, with epochs as the shares that they come to there.

    With its own budget a run would turn the same epochs into other shares: it would be trained on other text.
    """
    path = root / "params.yaml"
    mixture, pretrain = load_mixture(path), load_params(PretrainParams, "pretrain", path)
    windows = {
        name: count_windows(read_manifest(root / TOKENS / name)["counts"]["tokens"], pretrain.sequence_length)
        for name in in_epochs(mixture)
    }
    return pretrain.mixture_shares(mixture, windows) if windows else read_params(path)["mixture"]


def train(folder: Path) -> None:
    """Run the pretrain stage in `folder`; what it says is seen.

    Raises:
        SystemExit: with the stage's own exit code, if it isn't 0.
    """
    done = subprocess.run(
        [sys.executable, "-m", "stages.pretrain"], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    if done.returncode:
        sys.exit(done.returncode)


def bits_per_byte() -> float:
    """Of the model in this folder, on the same held-out text and in the same windows as the build's evaluation.

    Raises:
        Refusal: if the model isn't a causal one, of which alone bits per byte are what others understand.
    """
    # Here, not at the top: they load torch, which the training's own process has already.
    import torch
    from transformers import AutoModelForCausalLM

    from stages.evaluate.held_out import held_out, per_byte
    from stages.evaluate.params import EvaluateParams
    from stages.evaluate.score import causal_nats
    from stages.tokens import load_tokenizer

    pretrain, params = load_params(PretrainParams, "pretrain"), load_params(EvaluateParams, "evaluate")
    if pretrain.objective != "causal":
        raise Refusal("params.yaml: pretrain.objective is masked; a ladder forecasts causal models only")
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(pretrain.threads)
    model = AutoModelForCausalLM.from_pretrained("models/base", local_files_only=True, dtype=torch.float32).eval()
    tokenizer, separator = load_tokenizer(Path("models/base"))
    sets = held_out(list(load_mixture()), params.source_bytes)
    nats = 0.0
    for each in sets:
        tokens = [one.ids for one in tokenizer.encode_batch_fast(list(each.texts), add_special_tokens=False)]
        nats += sum(causal_nats(model, tokens, separator, params.sequence_length, params.stride))
    return per_byte([nats / math.log(2)], sets)


def main() -> None:
    """Train and measure the run named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="a name under `runs` in ladder/params.yaml")
    name = parser.parse_args().run
    own = load_params(RunParams, f"runs.{name}", LADDER / "params.yaml")
    folder = LADDER / "scratch" / name
    whole = {**read_params(ROOT / "params.yaml"), "mixture": mixture_of(ROOT)}
    lay_out(folder, params_of(whole, own))
    with chdir(folder):
        train(folder)
        trained = json.loads(Path("metrics/pretrain.json").read_text(encoding="utf-8"))
        kept = {key: trained[key] for key in ("parameters", "tokens", "steps", "flops", "loss", "epochs")}
        result = {**kept, "bits_per_byte": bits_per_byte()}
    write_json(LADDER / "metrics" / f"{name}.json", result)
    shutil.rmtree(folder)
    log.info("ladder %s: %.4f bits per byte on held-out text", name, result["bits_per_byte"])


if __name__ == "__main__":
    run(main)
