"""The training step on real token shards: what must not change its result, and what must."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from tiny import PARAMS, Project

from stages.mixture import load_mixture
from stages.params import Refusal, parse_params
from stages.pretrain import checkpoint
from stages.pretrain.history import Step
from stages.pretrain.parallel import start_accelerate
from stages.pretrain.params import PretrainParams
from stages.pretrain.state import Share, snapshot, whole_weights
from stages.pretrain.streaming import TOKENS
from stages.pretrain.trainer import Trainer

Make = Callable[..., Trainer]


@pytest.fixture
def trainer(built: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a Trainer on the tokens of the tiny build, with other values of pretrain."""
    monkeypatch.chdir(built.folder)
    threads = torch.get_num_threads()

    def make(**values: Any) -> Trainer:
        params = parse_params(PretrainParams, PARAMS["pretrain"] | values, "pretrain")
        return Trainer(params, load_mixture(), start_accelerate(params), TOKENS)

    yield make
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def train(trainer: Trainer, until: int, micro_batch: int = 8) -> Trainer:
    """`trainer`, after so many steps."""
    while len(trainer.steps) < until:
        first = len(trainer.steps) * trainer.params.samples_per_step
        step = trainer.train_step(range(first, first + trainer.params.samples_per_step), micro_batch)
        trainer.steps.append(step)
    return trainer


def digest(trainer: Trainer) -> str:
    """Of all weights."""
    tensors = whole_weights(trainer.model)
    return hashlib.sha256(b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()


def optimizer_state(trainer: Trainer) -> dict[str, torch.Tensor]:
    """A copy of it."""
    return snapshot(trainer.model, trainer.optimizers, [], Share()).parts["optimizer"]


@pytest.mark.parametrize("skipped", [True, False])
def test_a_step_that_stands_out_leaves_weights_and_optimizer_as_they_were(trainer, skipped):
    after = train(trainer(tokens=256 * 1000), 2)
    expected = digest(after)
    state = optimizer_state(after)
    level = 1e-3 if skipped else 100.0
    after.steps = [Step(level * each, level * each) for each in (1, 1.1) * 64]

    step = after.train_step(range(16, 24), 8)

    now = optimizer_state(after)
    assert step.skipped is skipped
    assert (digest(after) == expected) is skipped
    assert all(torch.equal(now[key], value) for key, value in state.items()) is skipped


def test_training_that_blows_up_stops_and_names_its_documents(copy):
    shutil.rmtree(copy.folder / "scratch/pretrain")
    copy.set("pretrain.optimizer", {"name": "adamw", "learning_rate": 1e30})
    copy.set("pretrain.guard", {"most": 2})

    done = copy.stage("pretrain")

    assert done.returncode == 2, done.stderr
    assert "3 of the last" in done.stderr
    owners = pl.read_parquet(copy.folder / "data/tokenize/*/documents-*.parquet")
    named = re.findall(r"[0-9a-f]{32}", done.stderr)
    assert set(named) <= set(owners["id"])
    assert len(named) > 3


def test_recomputed_layers_give_the_same_bits(trainer, monkeypatch):
    kept = train(trainer(), 3)
    monkeypatch.setenv("PEDIGREE_RECOMPUTE", "true")
    recomputed = train(trainer(), 3)

    assert recomputed.model.is_activation_checkpointing
    assert recomputed.steps == kept.steps
    assert digest(recomputed) == digest(kept)


def test_dropout_is_the_same_after_a_resume(trainer, tmp_path):
    dropping = {
        "model": {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.5},
        "optimizer": {"name": "adamw"},
    }
    unbroken, broken = train(trainer(**dropping), 4), train(trainer(**dropping), 2)
    checkpoint.save(tmp_path, snapshot(broken.model, broken.optimizers, broken.steps, Share()), kept=1)
    torch.manual_seed(99)

    resumed = trainer(**dropping)
    resumed.resume(checkpoint.read_newest(tmp_path))

    assert digest(train(resumed, 4)) == digest(unbroken)


def test_a_compiler_that_isnt_there_is_named(trainer, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(Refusal, match=r"pretrain\.compile needs a C\+\+ compiler"):
        trainer(compile=True)


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler: apt-get install g++")
@pytest.mark.filterwarnings("default")  # torch's compiler has warnings of its own
def test_compiled_layers_give_the_same_loss_but_for_rounding_and_the_same_bits_each_time(trainer):
    eager, compiled, again = (train(trainer(compile=each), 3) for each in (False, True, True))

    assert digest(again) == digest(compiled)
    for one, other in zip(eager.steps, compiled.steps, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-3)


def test_fp8_without_a_gpu_is_refused(trainer):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")

    with pytest.raises(Refusal, match=r"pretrain\.precision is fp8, which needs a GPU"):
        trainer(precision="fp8")


def started(folder: Path, changes: dict[str, str] | None = None) -> dict[str, Any]:
    """The parameters that go on from the base model in `folder`."""
    digests = {
        field: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for field, name in (("sha256", "model.safetensors"), ("config_sha256", "config.json"))
    }
    return {"model": None, "start": {"folder": str(folder), **digests, **(changes or {})}}


def test_training_goes_on_from_a_base_model(trainer, built):
    base = trainer(**started(built.folder / "models/base"))
    fresh = trainer()

    assert train(base, 1).steps[0].loss < train(fresh, 1).steps[0].loss - 0.5
    assert base.model.training
    assert base.config.model_type == "llama"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sha256": "0" * 64}, r"has the sha256 \w+, pretrain\.start\.sha256 in params\.yaml is 0000"),
        ({"config_sha256": "0" * 64}, r"pretrain\.start\.config_sha256 in params\.yaml is 0000"),
        ({"folder": "nowhere"}, r"pretrain\.start\.folder is nowhere, which has no model\.safetensors"),
    ],
)
def test_a_base_model_that_isnt_the_pinned_one_is_refused(trainer, built, change, sentence):
    with pytest.raises(Refusal, match=sentence):
        trainer(**started(built.folder / "models/base", change))


def test_a_base_model_of_another_vocabulary_or_another_kind_is_refused(trainer, built, tmp_path):
    shutil.copytree(built.folder / "models/base", tmp_path / "base")
    tokenizer = json.loads((tmp_path / "base/tokenizer.json").read_text(encoding="utf-8"))
    with pytest.raises(Refusal, match="is missing or unknown"):
        trainer(objective="causal", **other_architecture(tmp_path / "base"))

    vocabulary = tokenizer["model"]["vocab"]
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (tmp_path / "base/tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(Refusal, match="has another vocabulary than models/tokenizer"):
        trainer(**started(tmp_path / "base"))


def test_an_architecture_without_linear_layers_has_nothing_for_muon(trainer):
    with pytest.raises(Refusal, match="GPT2LMHeadModel has no linear layers"):
        trainer(model={"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2})


def other_architecture(folder: Path) -> dict[str, Any]:
    """The parameters that go on from `folder`, whose config now says another architecture than its weights have."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt_neox"}), encoding="utf-8")
    return started(folder)


# Trains a few steps as the stage does, and prints the digest of the weights.
PINNED = """
import sys
from stages.mixture import load_mixture
from stages.params import load_params
from stages.pretrain import numerics
from stages.pretrain.params import PretrainParams
params = load_params(PretrainParams, "pretrain").model_copy(update={"numerics": sys.argv[1]})
numerics.pin(params)
from stages.pretrain.parallel import start_accelerate
from stages.pretrain.streaming import TOKENS
from stages.pretrain.trainer import Trainer
sys.path.insert(0, sys.argv[2])
from pipeline.test_step import digest, train
print(digest(train(Trainer(params, load_mixture(), start_accelerate(params), TOKENS), 6)))
"""
PROCESSORS = (
    {},
    {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    {"MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX"},
)


def digests(project: Project, numerics: str, processors: Sequence[dict[str, str]]) -> set[str]:
    """Of the model, as trained on processors that look different; all but the first have a single core."""
    found = set()
    for number, faked in enumerate(processors):
        cores = ["taskset", "-c", "0"] if number else []
        done = subprocess.run(
            [*cores, sys.executable, "-c", PINNED, numerics, str(Path(__file__).parents[1])], cwd=project.folder,
            env=os.environ | project.environment() | faked, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.add(done.stdout.strip())
    return found


@pytest.mark.long
def test_portable_numerics_dont_depend_on_what_the_processor_could_do(built):
    assert len(digests(built, "portable", PROCESSORS)) == 1


@pytest.mark.long
def test_fast_numerics_do(built):
    assert len(digests(built, "fast", PROCESSORS[:2])) > 1
