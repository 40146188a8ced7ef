"""Every section of params.yaml is checked before anything runs, and nothing heavy is loaded for it."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.check import check_params
from stages.params import Refusal

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path, monkeypatch):
    """The project's own parameters in a folder of the test's; call it with a change to write them changed."""
    values = yaml.safe_load((PROJECT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").symlink_to(PROJECT / "dvc.yaml")

    def write(change):
        change(values)
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))

    return write


def first_source(values):
    return next(iter(values["sources"].values()))


def test_the_project_s_own_parameters_are_valid(params):
    params(lambda values: None)

    assert check_params() > 10


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda values: values["pretrain"].update(tokenz=1), "pretrain.tokenz is not a parameter of this stage"),
        (lambda values: values["tokenizer"].update(vocabulary="many"), "tokenizer.vocabulary is 'many'"),
        (lambda values: values.update(tokenzier={}), "no stage reads tokenzier; .*known: .*tokenizer"),
        (lambda values: first_source(values).update(fliter={}), r"no stage reads sources\.\w+\.fliter"),
        (lambda values: first_source(values).pop("extract"), r"section sources\.\w+\.extract is missing"),
        (lambda values: first_source(values)["download"].update(kind="tape"), r"download\.kind is 'tape'"),
        (lambda values: values["mixture"].update(nowhere=1), "mixture must give each of the sources"),
        (lambda values: values["mixture"].update(papers={"epoch": 2}), "mixture.papers is {'epoch': 2}; give a weight"),
        (lambda values: values.pop("evaluate"), "section evaluate is missing"),
        (lambda values: values["evaluate"].pop("probe"), r"evaluate\.probe is missing, and dvc\.yaml names it; add it"),
    ],
)
def test_a_mistake_is_refused_by_its_full_name(params, change, sentence):
    params(change)

    with pytest.raises(Refusal, match=sentence):
        check_params()


def test_all_mistakes_are_in_one_sentence(params):
    params(lambda values: (values["dedup"].update(bandz=1), values["tokenize"].update(dtipe=1)))

    with pytest.raises(Refusal, match=r"dedup\.bandz .*; .*tokenize\.dtipe "):
        check_params()


def test_an_unknown_setting_is_refused(params, monkeypatch):
    params(lambda values: None)
    monkeypatch.setenv("PEDIGREE_SLOT", "2")

    with pytest.raises(Refusal, match="environment variable PEDIGREE_SLOT is unknown"):
        check_params()


def test_checking_loads_no_torch():
    program = "import sys; from flows.check import check_params; check_params(); print('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
