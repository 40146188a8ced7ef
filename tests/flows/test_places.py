"""Which stage runs where, by infra/places.yaml."""

import pytest
import yaml

from flows.check import check_params
from flows.places.settings import Here, read_places
from flows.work import Work
from stages.params import Refusal

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

SLURM = {"place": "slurm", "partition": "gpu", "gpus": 8, "hours": 24}


def write(root, **stages):
    (root / "infra").mkdir(exist_ok=True)
    (root / "infra/places.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))


def test_the_first_pattern_that_fits_decides_and_what_none_fits_runs_here(tmp_path):
    write(tmp_path, **{"extract@small": {"place": "here"}, "extract@*": SLURM, "*": SLURM | {"partition": "cpu"}})

    places = read_places(tmp_path)

    assert places.of("extract@small") == Here()
    assert places.of("extract@web").partition == "gpu"
    assert places.of("pretrain").partition == "cpu"
    write(tmp_path, pretrain=SLURM)
    assert read_places(tmp_path).of("evaluate") == Here()


def test_without_the_file_everything_runs_here_but_one_that_was_named_must_exist(tmp_path, monkeypatch):
    assert read_places(tmp_path).of("pretrain") == Here()
    monkeypatch.setenv("PEDIGREE_FLOW_PLACES", "infra/elsewhere.yaml")

    with pytest.raises(Refusal, match=r"infra/elsewhere.yaml is missing"):
        read_places(tmp_path)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"place": "cloud"}, r"infra/places.yaml: stages.pretrain.place is 'cloud'; make it one of here, slurm, kube"),
        ("slurm", r"infra/places.yaml: stages.pretrain is 'slurm'; it must map `place` to one of here, slurm, kube"),
        (SLURM | {"gpus": "8"}, r"infra/places.yaml: stages.pretrain.gpus is '8': input should be a valid integer"),
        (SLURM | {"queue": "gpu"}, r"infra/places.yaml: stages.pretrain.queue is not a parameter .*remove it"),
        (SLURM | {"hours": 0}, r"infra/places.yaml: stages.pretrain.hours is 0: input should be greater than 0"),
        (
            SLURM | {"hours": 0.01},
            r"infra/places.yaml: stages.pretrain.save_seconds is 60; make it less than its hours",
        ),
        (
            SLURM | {"environment": {"AWS_SECRET_ACCESS_KEY": "hush"}},
            r"stages.pretrain.environment takes PEDIGREE_ settings only, not AWS_SECRET_ACCESS_KEY",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path, given, sentence):
    write(tmp_path, pretrain=given)

    with pytest.raises(Refusal, match=sentence) as refused:
        read_places(tmp_path)

    assert "hush" not in str(refused.value)


def test_a_pattern_that_fits_no_stage_is_refused(diamond):
    write(diamond.root, botom=SLURM)

    with pytest.raises(Refusal, match=r"infra/places.yaml: stages.botom fits no stage of dvc.yaml; remove it"):
        Work()


def test_the_check_before_a_build_refuses_such_a_pattern_too(project, monkeypatch):
    write(project.folder, pretrian=SLURM)
    monkeypatch.chdir(project.folder)

    with pytest.raises(Refusal, match=r"infra/places.yaml: stages.pretrian fits no stage of dvc.yaml; remove it"):
        check_params()


def test_a_file_without_stages_is_refused(tmp_path):
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra/places.yaml").write_text("{}")

    with pytest.raises(Refusal, match=r"infra/places.yaml must hold `stages`, .*; it has nothing"):
        read_places(tmp_path)


def test_the_examples_in_the_file_are_valid(tmp_path):
    from tiny import ROOT

    text = (ROOT / "infra/places.yaml").read_text(encoding="utf-8")
    assert read_places(ROOT).patterns == {}
    examples = text.partition("stages: {}")[2]
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra/places.yaml").write_text(
        "\n".join(line.removeprefix("# ").removeprefix("#") for line in examples.splitlines())
    )

    assert {where.place for where in read_places(tmp_path).patterns.values()} == {"slurm", "kubernetes"}
