"""Two builds are compared digest by digest, and the grade that was reached is said."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from lineage.builds import (
    DATA,
    MODEL,
    beside_commit,
    compare,
    evaluations_agree,
    first_difference,
    print_verdict,
    read_outs,
    verdict,
)
from stages.params import Refusal

EVALUATION = {"bits_per_byte": {"model": 1.5}, "sources": {"wiki": {"model": 1.5}}}


def md5(data):
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def make_build(root, shard=b"rows", weights=b"weights", evaluation=EVALUATION):
    """A build of three stages in `root`: files, DVC's cache and dvc.lock."""
    folder = {"a.parquet": b"first", "b.parquet": shard}
    files = {"models/base": weights, "metrics/evaluate.json": json.dumps(evaluation).encode()}
    for name, data in {**{f"data/filter/wiki/{name}": data for name, data in folder.items()}, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    listing = json.dumps([{"md5": md5(data), "relpath": name} for name, data in folder.items()]).encode()
    digest = md5(listing) + ".dir"
    cached = root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(listing)
    outs = {
        "evaluate": ("metrics/evaluate.json", md5(files["metrics/evaluate.json"])),
        "filter@wiki": ("data/filter/wiki", digest),
        "pretrain": ("models/base", md5(weights)),
    }
    lock = {stage: {"cmd": "x", "outs": [{"path": path, "md5": digest}]} for stage, (path, digest) in outs.items()}
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    return root


@pytest.fixture
def first(tmp_path):
    return make_build(tmp_path / "first")


@pytest.fixture
def second_folder(tmp_path):
    return tmp_path / "second"


def test_every_stage_has_a_grade():
    stages = yaml.safe_load((Path(__file__).parents[2] / "dvc.yaml").read_text())["stages"]

    assert set(stages) == {*DATA, *MODEL, "evaluate"}


def test_equal_builds_reach_every_grade(first, second_folder, capsys):
    second = make_build(second_folder)

    assert [pair.out.grade for pair in compare(first, second)] == ["data", "model", "metric"]
    assert print_verdict(first, second) == 0
    assert "grade reached: model, every digest is equal" in capsys.readouterr().out


def test_other_data_is_a_broken_promise_and_the_file_is_named(first, second_folder, capsys):
    second = make_build(second_folder, shard=b"flipped")

    assert print_verdict(first, second, data_only=True) == 1
    output = capsys.readouterr().out
    assert "data digests differ" in output
    assert "b.parquet" in output
    assert "models/base" not in output


def test_without_the_cache_the_folders_are_walked(first, second_folder):
    second = make_build(second_folder, shard=b"flipped")
    for cached in second.glob(".dvc/cache/files/md5/*/*"):
        cached.unlink()

    [pair] = compare(first, second, data_only=True)

    assert first_difference(pair, first, second) == "b.parquet: byte 0: 0x72 and 0x66"


@pytest.mark.parametrize(("bits", "code"), [(1.5, 0), (1.52, 0), (1.48, 0), (1.54, 1), (1.0, 1)])
def test_another_model_must_evaluate_alike(first, second_folder, bits, code):
    evaluation = {"bits_per_byte": {"model": 1.5}, "sources": {"wiki": {"model": bits}}}
    second = make_build(second_folder, weights=b"others", evaluation=evaluation)

    exit_code, sentence = verdict(compare(first, second), first, second)

    assert exit_code == code
    assert "model digests differ" in sentence
    assert ("expected on another processor, see docs/reproducibility.md" in sentence) == (code == 0)
    assert (evaluations_agree(first, second) is None) == (code == 0)


def test_an_out_of_one_build_only_is_a_difference(first, second_folder):
    second = make_build(second_folder)
    lock = yaml.safe_load((second / "dvc.lock").read_text())
    del lock["stages"]["filter@wiki"]
    (second / "dvc.lock").write_text(yaml.safe_dump(lock))

    [pair] = compare(first, second, data_only=True)

    assert not pair.equal
    assert first_difference(pair, first, second) == "only one of the builds has it"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [(None, "is missing: there is no build to compare"), ("a: 1", "is not a dvc.lock"), ("[", "is not")],
)
def test_what_is_no_dvc_lock_is_refused(tmp_path, text, sentence):
    if text:
        (tmp_path / "dvc.lock").write_text(text)

    with pytest.raises(Refusal, match=sentence):
        read_outs(tmp_path)


def commit(root):
    for command in (
        ["init", "--quiet"],
        ["add", "dvc.lock"],
        ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, "Grade reached: model."),
        ({"weights": b"others"}, "Grade reached: data."),
        ({"shard": b"others"}, "This is another build than the committed dvc.lock"),
    ],
)
def test_a_build_is_compared_with_the_committed_one(tmp_path, change, sentence):
    root = make_build(tmp_path / "root")
    commit(root)
    (root / "dvc.lock").write_bytes((make_build(tmp_path / "other", **change) / "dvc.lock").read_bytes())

    assert beside_commit(root).startswith(sentence)


def test_without_a_commit_there_is_nothing_to_compare_with(first):
    assert "no committed dvc.lock" in beside_commit(first)
