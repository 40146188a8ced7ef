"""The stages of a build follow each other by the paths that they read and write."""

from lineage.chain import downstream, in_order, overlap
from lineage.history import Object, Stage


def stage(name, deps, outs):
    deps, outs = ({path: Object(path, "0", None, None) for path in paths} for paths in (deps, outs))
    return Stage(name, "x", {}, deps, outs)


STAGES = [
    stage("join", ["data/part", "code.py"], ["data/join"]),
    stage("split@b", ["data/join/b"], ["data/split/b"]),
    stage("part@a", ["code.py"], ["data/part/a"]),
    stage("part@b", ["code.py"], ["data/part/b"]),
]


def test_a_stage_comes_after_those_that_write_what_it_reads():
    assert in_order(STAGES) == ["part@a", "part@b", "join", "split@b"]


def test_what_waits_for_a_stage_is_downstream_of_it_and_nothing_else():
    assert downstream(STAGES, ["part@b"]) == ["part@b", "join", "split@b"]
    assert downstream(STAGES, ["split@b"]) == ["split@b"]


def test_stages_in_a_circle_are_all_told():
    circle = [stage("a", ["y"], ["x"]), stage("b", ["x"], ["y"])]

    assert sorted(in_order(circle)) == ["a", "b"]


def test_a_path_overlaps_what_it_is_in_and_not_what_begins_alike():
    assert overlap("data/join", "data/join/b")
    assert overlap("data/join/b", "data/join")
    assert not overlap("data/join", "data/joint")
