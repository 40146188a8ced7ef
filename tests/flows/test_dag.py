"""The DAG is that of dvc.yaml, `foreach` resolved."""

from pathlib import Path

import pytest

from flows.dag import Dag, Stage, read_dag
from stages.params import Refusal

# DVC 3.67 reads the graph through a deprecated property of pygtrie's.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

FOREACH = """
vars: [params.yaml]
stages:
  cut:
    foreach: ${sources}
    do: {cmd: cut, params: ["sources.${key}.cut"], outs: ["cut/${key}"]}
  join: {cmd: join, deps: [cut], outs: [joined]}
"""
DAG = Dag((Stage("cut@a", (), True), Stage("cut@b", (), True), Stage("join", ("cut@a", "cut@b"), True)))


@pytest.fixture
def project(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    (tmp_path / "dvc.yaml").write_text(FOREACH)
    (tmp_path / "params.yaml").write_text("sources: {a: {cut: 1}, b: {cut: 2}}\n")
    return tmp_path


def test_a_stage_for_each_source_and_the_one_that_joins_them_last(project):
    dag = read_dag(project)

    assert {stage.name: stage.upstream for stage in dag.stages} == {stage.name: stage.upstream for stage in DAG.stages}
    assert dag.stages[-1].name == "join"
    assert [stage.kind for stage in dag.stages] == ["cut", "cut", "join"]
    assert all(stage.stale for stage in dag.stages)


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        ([], ["cut@a", "cut@b", "join"]),
        (["cut@a"], ["cut@a"]),
        (["cut"], ["cut@a", "cut@b"]),
        (["join"], ["cut@a", "cut@b", "join"]),
    ],
)
def test_targets_bring_what_they_need(targets, names):
    assert [stage.name for stage in DAG.in_order(targets)] == names


def test_an_unknown_target_is_refused_with_its_neighbours():
    with pytest.raises(Refusal, match=r"dvc\.yaml has no stage cat@a; name one of its stages .*cut@a"):
        DAG.in_order(["cat@a"])


def test_a_broken_dvc_yaml_is_refused_with_the_reason(project):
    (project / "dvc.yaml").write_text("stages: {cut: {cmd: cut, out: [x]}}\n")

    with pytest.raises(Refusal, match=r"DVC can't read the project: .*dvc\.yaml.*'out'"):
        read_dag(project)


def test_the_real_dag_is_that_of_this_project():
    dag = read_dag(Path(__file__).parents[2])

    assert dag.stages[-1].name == "evaluate"
    assert {stage.kind for stage in dag.stages} == {
        "download", "extract", "filter", "fingerprint", "dedup", "tokenizer", "tokenize", "pretrain", "evaluate",
    }  # fmt: skip
