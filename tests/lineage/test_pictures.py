"""Pictures of a build: well-formed, whole, and unharmed by hostile names."""

import json
from xml.etree import ElementTree

import pytest
from tiny import ROOT

from lineage.pictures import (
    Box,
    draw_all,
    draw_bits_per_byte,
    draw_dag,
    draw_loss,
    find_arrows,
    find_depths,
    find_lanes,
    read_boxes,
    write_pictures,
)
from lineage.svg import short_number, ticks
from stages.params import Refusal

HOSTILE = "</text><script>alert(1)</script> & \"'\x00\u202e"
SCORES = {"model": 1.5, "untrained": 3.0, "xz": 2.0, "order2": 2.5}
PICTURES = ("dag.svg", "loss.svg", "bits_per_byte.svg")


def texts(picture):
    """All that can be read in `picture`, which must be well-formed."""
    return [element.text for element in ElementTree.fromstring(picture).iter() if element.text]


def kinds(picture):
    """The kinds of elements in `picture`."""
    return {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(picture).iter()}


def stage(name, deps, outs, for_each=False):
    return Box(name, for_each, tuple(deps), tuple(outs))


@pytest.fixture
def build(tmp_path):
    """A folder with the files that pictures are made of."""
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots/loss.csv").write_text(
        "step,tokens,loss,smoothed,skipped\n1,256,6.0,6.0,0\n2,512,5.0,5.5,0\n3,768,nan,5.5,1\n"
    )
    (tmp_path / "metrics").mkdir()
    evaluation = {"bits_per_byte": {**SCORES, "xz_primed": 1.2}, "sources": {"papers": SCORES}}
    (tmp_path / "metrics/evaluate.json").write_text(json.dumps(evaluation))
    return tmp_path


def test_every_stage_and_source_is_in_the_dag(build):
    seen = texts(draw_all(build)["dag.svg"])

    for name in (
        "download",
        "extract",
        "filter",
        "fingerprint",
        "dedup",
        "tokenizer",
        "tokenize",
        "pretrain",
        "evaluate",
    ):
        assert name in seen
    assert "for each of 6 sources: papers, speeches, wiki, manuals, cli, code" in seen


def test_every_source_and_reference_is_beside_the_model(build):
    seen = texts(draw_all(build)["bits_per_byte.svg"])

    for name in ("all sources", "papers", "1.50", "this model", "xz -9e, primed with training text"):
        assert name in seen


def test_equal_files_make_equal_pictures(build):
    assert draw_all(build) == draw_all(build)


def test_a_built_project_can_be_drawn(built, tmp_path):
    paths = write_pictures(tmp_path / "pictures", built.folder)

    assert [path.name for path in paths] == list(PICTURES)
    assert all("svg" in kinds(path.read_text(encoding="utf-8")) for path in paths)


@pytest.mark.parametrize(
    "picture",
    [
        draw_dag([stage(HOSTILE, [], [f"data/{HOSTILE}"], for_each=True)], [HOSTILE]),
        draw_bits_per_byte(SCORES, {HOSTILE: SCORES}),
    ],
)
def test_a_hostile_name_is_only_text(picture):
    assert "script" not in kinds(picture)
    assert not any("\u202e" in text for text in texts(picture))


def test_a_long_name_is_cut():
    seen = texts(draw_bits_per_byte(SCORES, {"x" * 100: SCORES}))

    assert "x" * 17 + "…" in seen


def test_an_arrow_leads_from_an_out_to_what_lies_in_it_and_to_what_holds_it():
    boxes = [
        stage("part", ["code.py"], ["data/part/${key}"], for_each=True),
        stage("join", ["data/part", "code.py"], ["data/join"]),
        stage("split", ["data/join/${key}"], ["data/split/${key}"], for_each=True),
        stage("other", ["data/joint"], ["data/other"]),
    ]

    assert find_arrows(boxes) == [("part", "join"), ("join", "split")]


def test_a_stage_stands_behind_the_last_one_that_it_waits_for():
    boxes = [stage("a", [], ["a"]), stage("b", ["a"], ["b"]), stage("c", ["a", "b"], ["c"])]
    arrows = find_arrows(boxes)

    depths = find_depths(boxes, arrows)

    assert depths == {"a": 0, "b": 1, "c": 2}
    assert [(lane.origin, lane.targets) for lane in find_lanes(arrows, depths)] == [("a", ("c",))]


def test_stages_side_by_side_share_a_column():
    boxes = [stage("a", [], ["a"]), stage("b", ["a"], ["b"]), stage("c", ["a"], ["c"]), stage("d", ["b", "c"], ["d"])]

    picture = draw_dag(boxes, [])

    assert find_depths(boxes, find_arrows(boxes)) == {"a": 0, "b": 1, "c": 1, "d": 2}
    assert {"a", "b", "c", "d"} < set(texts(picture))


def test_stages_in_a_circle_are_refused():
    boxes = [stage("a", ["b"], ["a"]), stage("b", ["a"], ["b"])]

    with pytest.raises(Refusal, match="wait for each other"):
        find_depths(boxes, find_arrows(boxes))


@pytest.mark.parametrize("text", ["", "[]", "stages:", "stages: {a: 1}", "{", "vars: []"])
def test_what_is_no_dvc_yaml_is_refused(text):
    with pytest.raises(Refusal, match=r"dvc\.yaml doesn't describe stages"):
        read_boxes(text)


@pytest.mark.parametrize("missing", ["dvc.yaml", "params.yaml", "plots/loss.csv", "metrics/evaluate.json"])
def test_a_missing_file_is_refused_and_nothing_is_written(build, missing):
    (build / missing).unlink()

    with pytest.raises(Refusal, match=f"{missing} is missing; "):
        write_pictures(build / "pictures", build)

    assert not (build / "pictures").exists()


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("plots/loss.csv", ""),
        ("plots/loss.csv", "step,tokens\n1,256\n"),
        ("plots/loss.csv", "step,tokens,loss,smoothed\n1,256,nan,nan\n"),
        ("plots/loss.csv", "step,tokens,loss,smoothed\n1,256\n"),
        ("metrics/evaluate.json", "{"),
        ("metrics/evaluate.json", "[]"),
        ("metrics/evaluate.json", '{"bits_per_byte": {}, "sources": {}}'),
    ],
)
def test_a_file_of_another_kind_is_refused(build, path, content):
    (build / path).write_text(content)

    with pytest.raises(Refusal, match=path):
        draw_all(build)


def test_a_long_curve_is_thinned_out():
    curve = [(float(step), 2.0, 2.0) for step in range(1, 100_001)]

    assert len(draw_loss(curve)) < 100_000


def test_a_curve_of_one_step_can_be_drawn():
    assert "tokens trained on" in texts(draw_loss([(256.0, 6.0, 6.0)]))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (2.9, 8.3, [2, 4, 6, 8, 10]),
        (0, 2_400_000, [0, 500_000, 1_000_000, 1_500_000, 2_000_000, 2_500_000]),
        (6, 6, [6, 8]),
        (0, 0.05, [0, 0.01, 0.02, 0.03, 0.04, 0.05]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (500, "500"), (20_000, "20k"), (2_400_000, "2.4M"), (1e9, "1B"), (1.5e13, "15T")]
)
def test_numbers_are_shown_short(value, shown):
    assert short_number(value) == shown
