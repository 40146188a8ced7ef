"""The ladder runs the pretrain stage as it is, with other sizes and budgets, and keeps its figures."""

import json
import shutil
import subprocess

import pytest
import yaml
from tiny import ROOT

from flows.code import code_of
from forecast.forecast import make_forecast
from forecast.page import as_json, as_text
from forecast.runs import Run, read_ladder, read_target
from ladder.run import RunParams, mixture_of, params_of
from stages.params import Refusal, load_params, parse_params, read_params
from stages.pretrain.params import PretrainParams

LADDER = yaml.safe_load((ROOT / "ladder/dvc.yaml").read_text(encoding="utf-8"))["stages"]["run"]["do"]
RUNS = yaml.safe_load((ROOT / "ladder/params.yaml").read_text(encoding="utf-8"))["runs"]
OWN = {
    "small": {"model": {"hidden_size": 16, "intermediate_size": 32}, "tokens": 10 * 256},
    "large": {"model": {"hidden_size": 24, "intermediate_size": 48}, "tokens": 10 * 256},
}


@pytest.fixture
def ladder(copy):
    """A built tiny project with a ladder of two runs."""
    shutil.copytree(
        ROOT / "ladder", copy.folder / "ladder", ignore=shutil.ignore_patterns("metrics", "scratch", "dvc.lock")
    )
    shutil.rmtree(copy.folder / "ladder/.dvc/cache", ignore_errors=True)
    (copy.folder / "ladder/params.yaml").write_text(yaml.safe_dump({"runs": OWN}), encoding="utf-8")
    subprocess.run(["git", "init", "--quiet"], cwd=copy.folder, check=True)
    return copy


def test_the_ladder_has_five_sizes_and_several_budgets_of_models_that_can_be_trained():
    sizes = {run["model"]["hidden_size"] for run in RUNS.values()}
    budgets = {run["tokens"] for run in RUNS.values()}

    assert len(sizes) >= 5
    assert len(budgets) >= 3
    for name in RUNS:
        own = load_params(RunParams, f"runs.{name}", ROOT / "ladder/params.yaml")
        changed = params_of(read_params(ROOT / "params.yaml"), own)
        params = parse_params(PretrainParams, changed["pretrain"], name)
        assert params.tokens == own.tokens
        assert (
            params.model["num_hidden_layers"]
            == read_params(ROOT / "params.yaml")["pretrain"]["model"]["num_hidden_layers"]
        )


def test_a_run_has_the_shares_of_the_build_whatever_its_own_budget(copy):
    weights = mixture_of(copy.folder)
    copy.set("mixture.scripts", {"epochs": 0.5})
    tokens = copy.json("data/tokenize/scripts/manifest.json")["counts"]["tokens"]

    shares = mixture_of(copy.folder)

    assert weights == {"stories": 2, "scripts": 1}
    assert shares["scripts"] == pytest.approx(0.5 * tokens / (40 * 256), rel=0.01)
    assert sum(shares.values()) == pytest.approx(1)


def test_a_run_depends_on_all_code_that_it_runs():
    commands = LADDER["cmd"], "python -m stages.pretrain"
    code = {str(path) for command in commands for path in code_of(command, ROOT)}
    deps = {each.removeprefix("../") for each in LADDER["deps"]} - {"run.py"} | {"ladder/run.py"}

    assert {each for each in deps if each.endswith(".py")} == code


@pytest.mark.long
def test_a_ladder_is_cached_and_a_build_knows_nothing_of_it(ladder):
    first = ladder.run("dvc", "--cd", "ladder", "repro")
    again = ladder.run("dvc", "--cd", "ladder", "repro")
    build = ladder.run("dvc", "status", "--json")

    assert first.returncode == 0, first.stdout + first.stderr
    runs = read_ladder(ladder.folder / "ladder/metrics")
    assert [run.name for run in runs] == ["small", "large"]
    assert runs[0].parameters < runs[1].parameters
    assert all(run.tokens == 2560 and 2 < run.bits_per_byte < 9 for run in runs)
    assert not list((ladder.folder / "ladder/scratch").glob("*/*"))
    assert "Running stage" not in again.stdout
    assert json.loads(build.stdout) == {}


def test_a_result_counts_only_for_the_model_that_params_yaml_describes(copy, monkeypatch):
    monkeypatch.chdir(copy.folder)
    result = copy.json("metrics/evaluate.json")["bits_per_byte"]["model"]

    trained = read_target()
    copy.set("pretrain.tokens", 80 * 256)
    planned = read_target()

    assert (trained.tokens, trained.bits_per_byte) == (40 * 256, result)
    assert (planned.tokens, planned.bits_per_byte) == (80 * 256, None)


def test_the_page_shows_the_prediction_and_what_came_out_or_that_nothing_did():
    runs = [Run(f"{n}-{d}", n * 1000, d * 1000, 1 + 5 / n + 9 / d) for n in (2, 4, 9, 20) for d in (3, 7, 30)]
    done, open_ = (make_forecast(runs, Run("params.yaml", 40_000, 90_000, each), 5) for each in (1.25, None))

    assert "result    1.2500  (predicted less result: " in as_text(done)
    assert "result    not there yet" in as_text(open_)
    assert json.loads(as_json(done))["error"] == pytest.approx(done.predicted - 1.25)


def test_without_runs_it_is_said_how_to_make_them(tmp_path):
    with pytest.raises(Refusal, match="holds no runs; train them by `dvc --cd ladder repro`"):
        read_ladder(tmp_path)


def test_a_file_that_is_no_result_is_refused_by_its_name(tmp_path):
    (tmp_path / "small.json").write_text('{"parameters": 3}')

    with pytest.raises(Refusal, match=r"small\.json is no result of the ladder"):
        read_ladder(tmp_path)
