"""Every preset is a complete set of parameters, and the model that its paper has."""

import shutil

import pytest
import torch
import yaml
from tiny import ROOT

from flows.check import check_params
from plan.compute import six_nd
from plan.devices import DEVICES, Machines
from plan.plan import make_plan, vocabulary
from plan.published import PUBLISHED
from plan.shape import shape_of
from stages.params import Refusal, load_params
from stages.pretrain.model import build_config, build_model, count_parameters
from stages.pretrain.params import PretrainParams

PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))
GPT3 = [name for name in PRESETS if name.startswith("gpt3-")]
# By the widths of table 2.1 of arXiv:2005.14165; 13B: see the preset.
COUNTED = {
    "gpt2-124m": 124_439_808, "pythia-160m": 162_322_944, "llama-1b": 1_235_814_400,
    "gpt3-125m": 125_226_240, "gpt3-350m": 355_871_744, "gpt3-760m": 760_300_032, "gpt3-1.3b": 1_315_723_264,
    "gpt3-2.7b": 2_651_553_280, "gpt3-6.7b": 6_658_404_352, "gpt3-13b": 12_853_386_240,
    "gpt3-175b": 174_604_259_328,
    "llama3-8b": 8_030_261_248, "llama3-70b": 70_553_706_496, "llama3-405b": 405_853_388_800,
}  # fmt: skip


def pretrain_of(preset):
    return load_params(PretrainParams, "pretrain", ROOT / f"presets/{preset}.yaml")


def plan_of(preset):
    return make_plan(preset, Machines(8, DEVICES["h100"]))


@pytest.fixture(autouse=True)
def _project(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_all_promised_presets_are_there():
    assert {"smoke", "starter", *COUNTED} == set(PRESETS)
    assert len(GPT3) == 8


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_passes_every_check_that_params_yaml_must_pass(preset, tmp_path, monkeypatch):
    shutil.copyfile(ROOT / f"presets/{preset}.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)

    assert check_params() > 5


def test_starter_is_the_default():
    read = [
        yaml.safe_load((ROOT / name).read_text(encoding="utf-8")) for name in ("params.yaml", "presets/starter.yaml")
    ]

    assert read[0] == read[1]


@pytest.mark.parametrize("preset", COUNTED)
def test_a_preset_has_the_exact_parameters_of_its_model_by_arithmetic_and_on_the_meta_device(preset):
    params = pretrain_of(preset)
    size = vocabulary(ROOT / f"presets/{preset}.yaml", params.model, None)

    with torch.device("meta"):
        model = build_model(build_config(params.model, size, 0), params)

    assert count_parameters(model) == shape_of(params.model, size).parameters == COUNTED[preset]


@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_published_count_is_met_within_its_rounding(preset):
    counted, published = plan_of(preset).shape.parameters, PUBLISHED[preset].parameters

    exact = not preset.startswith("gpt3-")
    assert counted == published if exact else abs(counted / published - 1) < 0.004


@pytest.mark.parametrize("preset", GPT3)
def test_six_nd_gives_each_row_of_gpt_3_s_table_d1_to_three_digits(preset):
    row, plan = PUBLISHED[preset], plan_of(preset)

    assert f"{six_nd(row.parameters, 300e9):.2e}" == f"{row.flops:.2e}"
    # From our own count, too; but for 1.3B, of which the table rounds 1,316 million up to 1,320.
    assert f"{plan.six_nd:.2e}" == ("2.37e+21" if preset == "gpt3-1.3b" else f"{row.flops:.2e}")


def test_six_nd_gives_llama_3_s_compute_to_three_digits():
    assert f"{plan_of('llama3-405b').six_nd:.2e}" == "3.80e+25"
    assert f"{six_nd(8.03e9, 15e12):.1e}" == "7.2e+23"


@pytest.mark.parametrize(("preset", "tokens"), [("gpt3-175b", 300e9), ("llama3-70b", 15e12), ("llama3-405b", 15.6e12)])
def test_a_budget_is_that_of_the_paper_up_to_a_step(preset, tokens):
    plan = plan_of(preset)

    assert 0 <= plan.tokens - tokens < plan.params.tokens_per_step


def test_a_preset_that_isn_t_there_is_refused_with_those_that_are():
    with pytest.raises(Refusal, match=r"--preset gpt5: .* no such file; name one of .*llama3-8b"):
        plan_of("gpt5")
