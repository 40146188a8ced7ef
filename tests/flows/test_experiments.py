"""Sweeps, on the toy project."""

import fcntl
import subprocess
import sys
from threading import Thread

import psutil
import pytest
import yaml
from servers.prefect_server import is_gone, wait_for

from flows.experiments import (
    FOLDER,
    Experiment,
    Result,
    Sweep,
    combinations,
    parse_values,
    ranked,
    set_params,
    sweep_locally,
)  # fmt: skip
from stages.params import Refusal

# DVC 3.67 reads the graph through a deprecated property of pygtrie's.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


def test_what_a_user_types_is_read_as_yaml():
    assert parse_values(["a.b=0.01,0.02", "c=[1, 2],null", "d=adamw"]) == {
        "a.b": [0.01, 0.02], "c": [[1, 2], None], "d": ["adamw"],
    }  # fmt: skip


@pytest.mark.parametrize("typed", ["a", "a=", "=1", "a={", "a=]["])
def test_what_gives_no_values_is_refused_with_an_example(typed):
    with pytest.raises(Refusal, match=r"gives no values; write it as pretrain\.optimizer"):
        parse_values([typed])


def test_every_combination_is_an_experiment_with_a_name_of_its_own():
    found = combinations({"pretrain.seed": [0, 1], "pretrain.optimizer.name": ["muon", "adamw"]})

    assert [experiment.name for experiment in found] == [
        "seed-0-name-muon", "seed-0-name-adamw", "seed-1-name-muon", "seed-1-name-adamw",
    ]  # fmt: skip
    assert found[1].values == {"pretrain.seed": 0, "pretrain.optimizer.name": "adamw"}


def test_parameters_of_the_same_last_word_are_told_apart():
    [experiment] = combinations({"a.rate": [1], "b.rate": [2]})

    assert experiment.name == "a.rate-1-b.rate-2"


@pytest.mark.parametrize("values", [{}, {"a": []}])
def test_a_sweep_without_values_is_refused(values):
    with pytest.raises(Refusal, match="a sweep needs values"):
        combinations(values)


def test_a_value_that_stands_there_twice_is_refused():
    with pytest.raises(Refusal, match="tries each value once"):
        combinations({"a": [1, 1]})


def test_a_parameter_is_set_and_all_else_stays_as_it_is_written(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("# Why.\npretrain:\n  seed: 0  # drawn\n  name: 'a'\n  tokens: 4_096\n")

    set_params(path, {"pretrain.seed": 7, "pretrain.tokens": 8, "new": True})

    assert path.read_text() == "# Why.\npretrain:\n  seed: 7  # drawn\n  name: 'a'\n  tokens: 8\nnew: true\n"


def test_a_parameter_in_no_section_is_refused(tmp_path):
    (tmp_path / "params.yaml").write_text("pretrain: {seed: 0}\n")

    with pytest.raises(Refusal, match=r"has no section pretrain\.seed\.x; correct the parameter pretrain\.seed\.x\.y"):
        set_params(tmp_path / "params.yaml", {"pretrain.seed.x.y": 1})


def test_the_fewest_bits_per_byte_come_first_and_failures_last():
    results = [
        Result(Experiment(name, {}), "done", bits_per_byte=value) for name, value in (("a", None), ("b", 2), ("c", 1))
    ]

    assert [result.experiment.name for result in ranked(results)] == ["c", "b", "a"]


def git(root, *arguments):
    author = ["-c", "user.name=toy", "-c", "user.email=toy@localhost"]
    subprocess.run(["git", *author, *arguments], cwd=root, check=True)


def commit(root):
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "toy")


@pytest.fixture
def committed(single):
    """A toy project of one stage, which depends on a parameter; committed."""
    root = single.root
    (root / "params.yaml").write_text("seed: 0\n")
    pipeline = yaml.safe_load((root / "dvc.yaml").read_text())
    pipeline["stages"]["alone"]["params"] = ["seed"]
    (root / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    # What `pedigree run --local` is where params.yaml is that of a toy.
    (root / "pedigree.py").write_text(
        "import sys\nfrom flows.terminal import watched\nfrom flows.work import build_locally\n"
        "watched()\ntry:\n    build_locally()\n"
        "except ValueError as refusal:\n    print(f'error: {refusal}', file=sys.stderr)\n    sys.exit(2)\n"
    )
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (root / ".gitignore").write_text("/logs/\n/.dvc/tmp\n/.dvc/cache\n/.dvc/config.local\n__pycache__/\n")
    for folder in ("fate", "pids", "times", "saved", "out"):
        (root / folder / ".keep").touch()
    git(root, "init", "--quiet")
    commit(root)
    return single


@pytest.mark.long
def test_a_sweep_leaves_experiments_and_nothing_else(committed):
    root = committed.root
    before = subprocess.check_output(["git", "status", "--porcelain"], cwd=root)

    results = sweep_locally({"seed": [1, 2]}, at_once=2)

    assert [(result.experiment.name, result.outcome, result.reason) for result in results] == [
        ("seed-1", "done", ""), ("seed-2", "done", ""),
    ]  # fmt: skip
    refs = subprocess.check_output(["git", "for-each-ref", "--format=%(refname)", "refs/exps"], text=True)
    assert sorted(ref.rpartition("/")[2] for ref in refs.split()) == ["seed-1", "seed-2"]
    shown = [subprocess.check_output(["git", "show", f"{ref}:params.yaml"], text=True) for ref in refs.split()]
    assert sorted(shown) == ["seed: 1\n", "seed: 2\n"]
    assert subprocess.check_output(["git", "status", "--porcelain"], cwd=root) == before
    assert [path.name for path in (root / FOLDER).iterdir()] == ["lock"]


def test_an_experiment_that_breaks_is_a_result_with_the_sentence_of_its_stage(committed):
    committed.fate("alone", "refuse")
    commit(committed.root)

    [result] = sweep_locally({"seed": [1]})

    assert (result.outcome, result.reason) == ("failed", "alone: the toy is broken; mend it")


def test_what_a_killed_sweep_left_is_removed_when_its_children_are_gone(committed):
    left = committed.root / FOLDER / "seed-1"
    left.mkdir(parents=True)
    (left / "half").touch()
    child = (committed.root / FOLDER / "lock").open("a")  # a child of a killed sweep still has it
    fcntl.flock(child, fcntl.LOCK_EX)
    seen = []

    def wait_and_look():
        with Sweep().held():
            seen.append(left.exists())

    waiting = Thread(target=wait_and_look)
    waiting.start()
    waiting.join(0.5)
    assert (seen, left.exists()) == ([], True)
    child.close()
    waiting.join(60)

    assert seen == [False]


@pytest.mark.long
def test_a_sweep_that_is_killed_takes_its_stages_with_it_and_the_next_one_runs(committed):
    committed.fate("alone", "hang")
    commit(committed.root)
    pids = committed.root / FOLDER / "seed-1/pids/alone"
    command = "from flows.experiments import sweep_locally; sweep_locally({'seed': [1]})"
    sweeping = subprocess.Popen([sys.executable, "-c", command], cwd=committed.root)
    wait_for(lambda: pids.exists() and pids.read_text(), 120)
    stage = psutil.Process(int(pids.read_text()))

    sweeping.kill()
    sweeping.wait()

    wait_for(lambda: is_gone(stage), 120)
    with Sweep().held():  # when the last of its children has ended
        assert not pids.exists()
