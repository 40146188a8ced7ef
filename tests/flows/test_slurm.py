"""Stages as Slurm jobs, on a real cluster. Where Slurm is the point, the program on the node is a small one."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event

import pytest
import yaml
from servers.slurm import until

from flows.places import Errand
from flows.places import slurm as place
from flows.places.settings import SlurmResources
from flows.places.slurm import Slurm
from flows.stage import ComeAgain, StageFailed, StageRefused, Stopped
from flows.work import build_locally
from stages.params import Refusal

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

# What a node runs instead of `pedigree`: it does what the stage's name says.
PROGRAM = """\
#!/usr/bin/env bash
echo "$3 of $2 on $SLURMD_NODENAME, try ${SLURM_RESTART_COUNT:-0}, token ${AWS_SESSION_TOKEN:-none}, \
$PEDIGREE_WORKERS workers"
trap 'echo saved; exit 75' TERM
case $3 in
    train) if ((${SLURM_RESTART_COUNT:-0} == 0)); then touch "$0.trains"; while true; do sleep 0.1; done; fi ;;
    wait*) touch "$0.$3"; until [[ -e $0.go ]]; do sleep 0.1; done ;;
    again) exit 75 ;;
    refuse) echo "error: the node has no licence; buy one" >&2; exit 2 ;;
    crash) exit 3 ;;
esac
"""


@pytest.fixture(scope="module")
def cluster(slurm):
    """The cluster, looked at often."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slurm.environment.items():
            patch.setenv(name, value)
        patch.setattr(place, "LOOK_SECONDS", 0.2)
        patch.setattr(place, "GATHER_SECONDS", 0.5)
        yield slurm


@pytest.fixture(scope="module")
def pool(cluster):
    with ThreadPoolExecutor(8) as pool:
        yield pool
        cluster.ask("scancel", "--user", "root")  # what a failed test left ends, and its thread with it


@pytest.fixture
def program(tmp_path):
    return write_program(tmp_path)


@pytest.fixture
def resources(program):
    return partial(resources_of, program)


@pytest.fixture(scope="module")
def limited(cluster, pool, tmp_path_factory):
    """A stage that runs into its time limit, begun before all tests: Slurm looks at limits every 30 seconds."""
    folder = tmp_path_factory.mktemp("limited")
    where = resources_of(write_program(folder), partition="short", constraint="two", hours=1 / 60, save_seconds=59)
    return folder, start(pool, Slurm(folder), errand(folder, "train"), where)


def write_program(folder):
    path = folder / "program"
    path.write_text(PROGRAM)
    path.chmod(0o755)
    return path


def resources_of(program, **more):
    logs = program.parent / "shared"
    logs.mkdir(exist_ok=True)
    given = {
        "place": "slurm", "partition": "main", "cpus": 1, "memory_gib": 0.1, "program": str(program),
        "log_folder": str(logs), "environment": {"PEDIGREE_WORKERS": "3"},
    }  # fmt: skip
    return SlurmResources.model_validate(given | more)


class Told(list):
    """What a build says; called with each line."""

    __call__ = list.append

    @property
    def task(self):
        """The Slurm job that was told of."""
        return next(line.removeprefix("is Slurm job ") for line in self if line.startswith("is Slurm job "))

    def has(self, words):
        return any(words in line for line in self)


def errand(tmp_path, stage, digest="0" * 64):
    return Errand(stage, digest, "c0ffee", f"{tmp_path}/store", tmp_path / "logs" / f"{stage}.log")


def start(pool, slurm, errand, resources, told=print, stopping=None):
    return pool.submit(slurm.run, errand, resources, told, stopping or Event())


def test_stages_that_become_ready_together_are_one_array(limited, cluster, tmp_path, resources, pool):
    slurm, told = Slurm(tmp_path), Told()
    names = [f"quick@{name}" for name in "abc"]

    runs = [start(pool, slurm, errand(tmp_path, name, name * 8), resources(), told) for name in names]

    for run in runs:
        run.result(400)
    tasks = {line.removeprefix("is Slurm job ") for line in told if line.startswith("is Slurm job ")}
    assert len({task.partition("_")[0] for task in tasks}) == 1
    assert {task.partition("_")[2] for task in tasks} == {"0", "1", "2"}
    for name in names:
        assert f"{name} of c0ffee" in (tmp_path / f"logs/{name}.log").read_text()


def test_a_job_knows_no_secret_of_whoever_submits_it_but_those_of_its_node(cluster, tmp_path, resources, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "hush")
    Slurm(tmp_path).run(errand(tmp_path, "quick"), resources(), Told(), Event())
    assert "token none, 3 workers" in (tmp_path / "logs/quick.log").read_text()

    (tmp_path / "node.env").write_text("AWS_SESSION_TOKEN=of the node\n".replace("of the node", "'of the node'"))
    given = resources(node_environment=str(tmp_path / "node.env"))
    Slurm(tmp_path).run(errand(tmp_path, "quick"), given, Told(), Event())

    assert "token of the node, 3 workers" in (tmp_path / "logs/quick.log").read_text()


@pytest.mark.parametrize(
    ("stage", "kind", "sentence"),
    [
        ("refuse", StageRefused, "refuse: the node has no licence; buy one"),
        ("crash", StageFailed, r"crash: exited with 3 \(Slurm job \d+_0\); all it said is in .*crash.log"),
        ("again", ComeAgain, r"again: preempted \(Slurm job \d+_0\)"),
    ],
)
def test_how_a_stage_ends_there_is_how_it_ends_here(cluster, tmp_path, resources, stage, kind, sentence):
    with pytest.raises(kind, match=sentence):
        Slurm(tmp_path).run(errand(tmp_path, stage), resources(restarts=1), Told(), Event())

    (record,) = [json.loads(line) for line in (tmp_path / "logs/jobs.jsonl").read_text().splitlines()]
    assert record["restarts"] == (1 if stage == "again" else 0)  # and no more often


def test_a_job_that_someone_cancels_fails_with_a_sentence_and_does_not_come_again(
    cluster, tmp_path, program, resources, pool
):
    run = start(pool, Slurm(tmp_path), errand(tmp_path, "train"), resources(), told := Told())
    until(Path(f"{program}.trains").exists)

    cluster.ask("scancel", next(line for line in told if line.startswith("is Slurm job ")).split()[-1])

    with pytest.raises(StageFailed, match=r"train: Slurm job \d+_0 was cancelled by someone; run again"):
        run.result(400)
    assert "saved" in (tmp_path / "logs/train.log").read_text()


def test_a_flow_that_stops_has_its_job_save_and_end_for_good(cluster, tmp_path, program, resources, pool):
    stopping = Event()
    run = start(pool, Slurm(tmp_path), errand(tmp_path, "train"), resources(), told := Told(), stopping)
    until(Path(f"{program}.trains").exists)

    stopping.set()

    with pytest.raises(Stopped):
        run.result(400)
    log = (tmp_path / "logs/train.log").read_text()
    assert "saved" in log
    assert "try 1" not in log
    assert told.has("ended as FAILED (75:0)")


def test_a_job_that_still_waits_is_removed_when_its_flow_stops(cluster, tmp_path, resources, pool):
    cluster.ask("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        stopping = Event()
        run = start(pool, Slurm(tmp_path), errand(tmp_path, "quick"), resources(), told := Told(), stopping)
        until(lambda: told.has("waits (PartitionDown"))

        stopping.set()

        with pytest.raises(Stopped):
            run.result(400)
        assert told.has("ended as CANCELLED")
    finally:
        cluster.ask("scontrol", "update", "PartitionName=main", "State=UP")


def test_a_flow_that_was_killed_leaves_its_job_and_the_next_one_follows_it(cluster, tmp_path, program, resources, pool):
    given = errand(tmp_path, "wait")
    code = (
        "import sys; from pathlib import Path; from threading import Event; from flows.places import Errand; "
        "from flows.places.settings import SlurmResources; from flows.places.slurm import Slurm; "
        "slurm, where, *words, log = sys.argv[1:]; "
        "Slurm(Path(slurm)).run(Errand(*words, Path(log)), SlurmResources.model_validate_json(where), print, Event())"
    )
    words = [given.stage, given.digest, given.commit, given.remote, str(given.log)]
    killed = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), resources().model_dump_json(), *words])
    until(Path(f"{program}.wait").exists)
    killed.kill()
    killed.wait()

    later = replace(given, commit="another")  # another stage has ended meanwhile: dvc.lock is not the same
    run = start(pool, Slurm(tmp_path), later, resources(), told := Told())
    until(lambda: told.has("follows Slurm job"))
    Path(f"{program}.go").touch()

    run.result(400)
    log = (tmp_path / "logs/wait.log").read_text()
    assert log.count("wait of c0ffee") == 1
    assert "another" not in log


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"partition": "nowhere"},
            "quick: Slurm refuses the job: .*invalid partition specified: nowhere.*infra/places.yaml",
        ),
        ({"memory_gib": 99999.0}, r"quick: Slurm refuses the job: .*Memory specification can not be satisfied"),
        ({"gpus": 1}, r"quick: Slurm refuses the job: .*Invalid generic resource"),
        (
            {"partition": "short", "hours": 2.0},
            r"can't start: Partition(TimeLimit|Config); correct its partition, nodes or hours",
        ),
        ({"log_folder": "/nowhere"}, "quick: log_folder /nowhere is no folder on this machine; make it"),
        (
            {"nodes": 3},
            r"quick: .*(more processors than permitted|Node count|node configuration|Partition(Config|NodeLimit))",
        ),
    ],
)
def test_what_slurm_can_not_do_is_one_sentence(cluster, tmp_path, resources, given, sentence):
    with pytest.raises(StageRefused, match=sentence):
        Slurm(tmp_path).run(errand(tmp_path, "quick"), resources(**given), Told(), Event())


def test_a_machine_without_slurm_is_told_so(tmp_path, resources, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(Refusal, match=r"squeue is not on this machine, but infra/places.yaml sends stages to Slurm"):
        Slurm(tmp_path).run(errand(tmp_path, "quick"), resources(), Told(), Event())


def test_a_stage_saves_before_its_time_limit_and_comes_again(limited):
    folder, run = limited

    run.result(400)

    log = (folder / "logs/train.log").read_text()
    assert log.index("try 0") < log.index("saved") < log.index("try 1")


def place_on(toy, slurm, folder, s3, **more):
    """Send `alone` of the toy to Slurm, and give the nodes the store's credentials; nodes share nothing else."""
    (folder / "node.env").write_text(
        "".join(f"{name}={value}\n" for name, value in s3.environment.items())
        + f"DVC_SITE_CACHE_DIR={folder}/site\nPEDIGREE_FLOW_NODE_FOLDER={folder}/$SLURMD_NODENAME\n"
        f"PATH={Path(sys.executable).parent}:$PATH\n"
    )
    where = {
        "place": "slurm", "node_environment": str(folder / "node.env"),
        "environment": {"PEDIGREE_SCRATCH": str(folder / "scratch")}, **more,
    }  # fmt: skip
    (toy.root / "infra").mkdir()
    (toy.root / "infra/places.yaml").write_text(yaml.safe_dump({"stages": {"alone": where}}))


@pytest.fixture
def stored(diamond, s3, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    diamond.fate("alone", "meet")
    diamond.share(s3.url())
    return diamond


def test_a_stage_on_two_nodes_has_a_launcher_on_each_and_they_meet(cluster, stored, s3, tmp_path):
    place_on(stored, cluster, tmp_path, s3, nodes=2, partition="main")

    build = build_locally(["alone"])

    assert [(ended.stage, ended.outcome) for ended in build.stages] == [("alone", "restored")]
    assert (stored.root / "out/alone").read_text() == "alone"
    met = {path.name: path.read_text().split(" ", 1) for path in (tmp_path / "scratch/met").iterdir()}
    assert {node for node, _ in met.values()} == {"one", "two"}
    assert set(met) == {"0", "1"}
    assert all("--num_machines 2 --main_process_ip 127.0.0.1" in launch for _, launch in met.values())
    assert "Running stage 'alone'" in (stored.root / "logs/alone.log").read_text()  # through the store


@pytest.mark.long
def test_a_training_that_loses_its_node_goes_on_elsewhere_and_comes_home(cluster, stored, s3, tmp_path, pool):
    stored.fate("alone", "train")
    place_on(stored, cluster, tmp_path, s3, partition="main", constraint="one|two")
    build = pool.submit(build_locally, ["alone"])
    until(Path(tmp_path, "scratch/trains").exists)
    node = cluster.ask("squeue", "--noheader", "--name=alone", "--format=%N").strip()

    cluster.ask("sbatch", "--partition=urgent", f"--nodelist={node}", "--exclusive", "--output=/dev/null", "--wrap=:")

    assert [(ended.stage, ended.outcome) for ended in build.result(400).stages] == [("alone", "restored")]
    began, saved, again = (tmp_path / "scratch/alone").read_text().splitlines()
    assert (began, saved) == (f"began on {node}", "saved")
    assert again.startswith("began on")
    log = (stored.root / "logs/alone.log").read_text()
    assert log.count("> exec python stage.py alone") >= 2  # what it said before it was stopped, too
    (record,) = [json.loads(line) for line in (stored.root / "logs/jobs.jsonl").read_text().splitlines()]
    assert (record["stage"], record["state"], record["exit_code"]) == ("alone", "COMPLETED", "0:0")
    assert (record["nodes"] in ("one", "two"), record["cpus"], record["restarts"]) == (True, 1, 1)
