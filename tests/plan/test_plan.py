"""A plan says beforehand what the trainer and the build say afterwards."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from small_models import LLAMA, NEOX, on_meta, params_of
from tiny import ROOT

from plan.compute import days, flops_by_part, marks_passed
from plan.corpus import portions
from plan.devices import DEVICES, PER_NODE, Machines, parse_machines
from plan.layout import FULL, divisors, first_fit, layouts
from plan.memory import FULL_BYTES, HALF_BYTES, Layout, activations, memory_by_part
from plan.page import as_json, as_text
from plan.plan import make_plan
from plan.shape import POSITIONS, VECTORS, shape_of
from stages.mixture import Epochs
from stages.params import Refusal
from stages.pretrain.model import build_config, flops_per_token

MACHINES = Machines(1, DEVICES["h100"])
GPT2 = {"model_type": "gpt2", "n_embd": 96, "n_layer": 3, "n_head": 6, "n_positions": 64}
MODELS = [
    {"model_type": "llama", **LLAMA},
    {"model_type": "llama", **LLAMA, "num_key_value_heads": 2, "tie_word_embeddings": True},
    {**GPT2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    NEOX,
]


@pytest.mark.parametrize("model", MODELS)
def test_flops_are_those_that_the_trainer_reports_less_what_it_counts_for_vectors(model):
    shape, params = shape_of(model, 1000), params_of(model)
    config = build_config(params.model, 1000, 0)

    by_part = flops_by_part(shape, 32, tokens=7)

    vectors = 6 * 7 * (shape.parts[VECTORS] + shape.parts.get(POSITIONS, 0))
    assert sum(by_part.values()) + vectors == 7 * flops_per_token(on_meta(model, 1000), config, 32)


@pytest.mark.parametrize("narrow", [HALF_BYTES, FULL_BYTES])
@pytest.mark.parametrize("model", MODELS)
def test_activations_are_what_autograd_keeps(model, narrow):
    one = Layout(1, 1, 1, 1, micro_batch=4, accumulation=1, recompute=False)
    few, many = ({**model, ("n_layer" if "n_layer" in model else "num_hidden_layers"): count} for count in (2, 4))

    planned = [activations(shape_of(each, 1000), one, narrow) for each in (few, many)]

    # Of a token, without what a batch shares: copies of the weights in bf16.
    kept = [(bytes_kept(each, 8, narrow) - bytes_kept(each, 4, narrow)) / (4 * 32) for each in (few, many)]
    assert planned[1] - planned[0] == pytest.approx(kept[1] - kept[0], rel=0.02)
    assert planned[0] == pytest.approx(kept[0], rel=0.15)


def bytes_kept(model, samples, narrow):
    """Bytes of all tensors that autograd keeps for the backward pass of `samples` samples of 32 tokens."""
    torch.manual_seed(0)
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {"vocab_size": 1000, **model}
    whole = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
    own = {parameter.untyped_storage().data_ptr() for parameter in whole.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=narrow == HALF_BYTES),
    ):
        whole(input_ids=torch.zeros(samples, 32, dtype=torch.long))
    return sum(each.untyped_storage().nbytes() for place, each in kept.items() if place not in own)


@pytest.mark.parametrize("count", [1, 8, 12])
def test_every_layout_computes_the_same_step_on_all_devices(count):
    params = params_of({"model_type": "llama", **LLAMA, "num_key_value_heads": 2}, tokens_per_step=32 * 48)

    found = list(layouts(shape_of(params.model, 1000), params, count))

    assert found
    for layout in found:
        assert layout.devices == count
        assert layout.replicas * layout.shards * layout.micro_batch * layout.accumulation == 48
        assert layout.tensor in (1, 2)  # it has two heads of keys


def test_a_larger_model_is_sharded_and_recomputed_before_its_matrices_are_split():
    def fit(preset_params, count):
        shape = shape_of(preset_params.model, 1000)
        return first_fit(shape, preset_params, Machines(count, DEVICES["h100"])).layout

    size = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8}
    small = params_of({"model_type": "llama", **size, "num_hidden_layers": 1}, tokens_per_step=32 * 64)
    large = params_of(
        {"model_type": "llama", **size, "num_hidden_layers": 32}, sequence_length=8192, tokens=2**20,
        tokens_per_step=2**20,
    )  # fmt: skip

    assert fit(small, 8) == Layout(8, 1, 1, 1, micro_batch=8, accumulation=1, recompute=False)
    chosen = fit(large, 8)
    assert (chosen.tensor, chosen.context, chosen.recompute) == (1, 1, True)
    assert chosen.shards > 1


def test_shards_share_the_state_and_tensor_parallelism_the_inner_activations():
    params = params_of({"model_type": "llama", **LLAMA})
    shape = shape_of(params.model, 1000)
    one = memory_by_part(shape, params, Layout(1, 1, 1, 1, 2, 1, recompute=False))
    four = memory_by_part(shape, params, Layout(1, 4, 1, 1, 2, 1, recompute=False))
    split = memory_by_part(shape, params, Layout(1, 1, 2, 1, 2, 1, recompute=False))

    assert one["weights"] == 4 * shape.parameters
    assert one["optimizer states"] == 8 * shape.parameters
    for part in ("weights", "gradients", "optimizer states"):
        assert four[part] == one[part] / 4
        assert split[part] == one[part] / 2
    assert four["activations"] == one["activations"]
    assert one["activations"] / 2 < split["activations"] < one["activations"]


def test_muon_keeps_one_number_for_an_inner_matrix():
    adamw = params_of({"model_type": "llama", **LLAMA})
    muon = params_of(adamw.model, optimizer={"name": "muon"})
    shape, layout = shape_of(adamw.model, 1000), Layout(1, 1, 1, 1, 1, 1, recompute=False)

    both = [memory_by_part(shape, params, layout)["optimizer states"] for params in (adamw, muon)]

    assert both[0] - both[1] == 4 * shape.inner_matrices


def test_drawn_tokens_and_epochs_are_those_that_the_trainer_reports(built, monkeypatch):
    monkeypatch.chdir(built.folder)
    metrics = built.json("metrics/pretrain.json")

    plan = make_plan(None, MACHINES)

    assert plan.shape.parameters == metrics["parameters"]
    assert plan.tokens == metrics["tokens"]
    for portion in plan.portions:
        assert portion.epochs == pytest.approx(metrics["epochs"][portion.source], abs=0.05)
        assert portion.documents == built.json(f"data/tokenize/{portion.source}/manifest.json")["counts"]["documents"]
        assert portion.source in as_text(plan)


def test_what_isn_t_counted_is_unknown():
    params = params_of({"model_type": "llama"}, tokens=2560 * 32)

    found = portions(params, {"stories": 2 / 3, "scripts": 1 / 3}, root=None)

    # 171 and 85 samples of each block of 256, ten times.
    assert [(each.drawn_tokens, each.documents, each.tokens, each.epochs) for each in found] == [
        (1710 * 32, None, None, None),
        (850 * 32, None, None, None),
    ]


def test_epochs_are_planned_from_counts_with_a_warning_past_four_and_unknown_before(built, monkeypatch):
    monkeypatch.chdir(built.folder)
    params, mixture = params_of({"model_type": "llama"}, tokens=2560 * 32), {"scripts": Epochs(5), "stories": 1.0}
    tokens = built.json("data/tokenize/scripts/manifest.json")["counts"]["tokens"]

    before, after = portions(params, mixture, root=None), portions(params, mixture, built.folder)

    assert {(each.share, each.drawn_tokens, each.epochs) for each in before} == {(None, None, None)}
    assert after[0].drawn_tokens == pytest.approx(5 * tokens, rel=0.05)
    assert sum(each.drawn_tokens for each in after) == 2560 * 32
    pages = [as_text(replace(make_plan(None, MACHINES), portions=tuple(each))) for each in (before, after)]
    assert "unknown: not counted yet" in pages[0]
    assert f"scripts is seen {after[0].epochs:.1f} times: past 4" in pages[1]


def test_days_follow_from_peak_and_utilisation():
    assert days(flops=86_400 * 5e14, peak=1e15, utilisation=0.5) == 1
    assert days(flops=86_400 * 5e14, peak=1e15, utilisation=0.25) == 2


@pytest.mark.parametrize(("flops", "marks"), [(9e22, []), (1.1e23, [1e23]), (3.8e25, [1e23, 1e25])])
def test_a_mark_is_passed_by_more_compute(flops, marks):
    assert list(marks_passed(flops)) == marks


def test_machines_are_a_count_and_a_device():
    assert parse_machines("16xH100") == Machines(16, DEVICES["h100"])


@pytest.mark.parametrize(
    ("text", "sentence"), [("h100", "is not COUNTxDEVICE"), ("0xh100", "is not COUNTxDEVICE"), ("2xh10", "name one of")]
)
def test_other_machines_are_refused(text, sentence):
    with pytest.raises(Refusal, match=sentence):
        parse_machines(text)


def test_divisors_are_all_of_them_in_order():
    for number in (1, 12, 36, 2048):
        assert divisors(number) == [each for each in range(1, number + 1) if number % each == 0]


def test_the_page_has_every_figure_that_a_reader_can_check_and_json_the_same(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = make_plan("llama3-405b", Machines(16_384, DEVICES["h100"]), price=2.5)

    page, values = as_text(plan), json.loads(as_json(plan))

    for figure in ("405,853,388,800", "6·N·D = 6 x 4.059e+11 x 1.56e+13 = 3.8e+25", "above 1e+25", "dp_shard"):
        assert figure in page
    assert values["cost"] == pytest.approx(values["days"] * 24 * 16_384 * 2.5)
    assert sum(values["memory_bytes"].values()) <= FULL * 80e9
    assert values["layout"]["tensor"] <= PER_NODE


def test_what_fits_nowhere_near_is_said_with_what_would(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = make_plan("gpt3-175b", Machines(8, DEVICES["h100"]))

    assert plan.fit is None
    assert first_fit(plan.shape, plan.params, Machines(plan.fewest, DEVICES["h100"]))
    assert f"the fewest that hold it are {plan.fewest}" in as_text(plan)


def test_a_plan_is_there_in_two_seconds_without_torch():
    begin = time.monotonic()
    code = "import sys; from pedigree import app; app(['plan', '--preset', 'llama3-405b'], standalone_mode=False)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"], cwd=ROOT, capture_output=True, text=True
    )

    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert time.monotonic() - begin < 6  # alone 1.2 s; others may run beside
