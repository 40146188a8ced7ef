"""A stage as a Kubernetes job, in the small cluster of tests/servers/kubernetes_api.py, whose pods are processes."""

import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from stored import make_clone
from tiny import ROOT

from flows.places import Errand
from flows.places import kubernetes as place
from flows.places.job import job_name
from flows.places.settings import KubernetesResources
from flows.stage import ComeAgain, StageFailed, StageRefused, Stopped
from flows.work import build_locally
from stages.params import Refusal

ONCE = """
    import pathlib, sys
    mark = pathlib.Path({mark!r})
    if not mark.exists():
        mark.touch()
        sys.exit(75)
    print("this time")
"""
HANG = """
    import signal, sys, time
    def save(signum, frame):
        print("saved", flush=True)
        sys.exit(75)
    signal.signal(signal.SIGTERM, save)
    print("waiting", flush=True)
    time.sleep(120)
"""
AGAIN = """
    import os, pathlib, signal, sys, time
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(75))
    while not pathlib.Path({mark!r}).exists():
        time.sleep(0.05)
    print("this time")
"""


@dataclass
class Asker:
    """Whoever asks for a stage, and what it hears."""

    folder: Path
    errand: Errand
    told: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    resources: dict[str, object] = field(default_factory=dict)

    def stage_does(self, script: str) -> None:
        """What the pod runs in place of `pedigree stage`."""
        template = yaml.safe_load((ROOT / "infra/kubernetes/job.yaml").read_text())
        code = textwrap.dedent(script).format(mark=str(self.folder / "mark"))
        template["spec"]["template"]["spec"]["containers"][0]["command"] = [sys.executable, "-c", code]
        (self.folder / "job.yaml").write_text(yaml.safe_dump(template))

    def run(self) -> None:
        """Ask for it, and wait for its end."""
        given = {"place": "kubernetes", "image": "pedigree:test", "template": "job.yaml", **self.resources}
        place.Kubernetes(self.folder).run(
            self.errand, KubernetesResources.model_validate(given), self.told.append, self.stopping
        )

    @property
    def log(self) -> list[str]:
        """What the stage said there."""
        return self.errand.log.read_text().splitlines()


@pytest.fixture
def asker(tmp_path: Path, kubernetes_api) -> Asker:
    errand = Errand("extract@papers", "d" * 64, "c" * 40, str(tmp_path / "store"), tmp_path / "logs" / "extract.log")
    (tmp_path / "store").mkdir()
    return Asker(tmp_path, errand)


def heard(asker: Asker, words: str) -> None:
    """Wait until the asker was told of it."""
    begin = time.monotonic()
    while not any(words in line for line in asker.told):
        assert time.monotonic() < begin + 120, asker.told
        time.sleep(0.02)


@pytest.fixture
def aside(asker: Asker) -> Iterator[ThreadPoolExecutor]:
    """Runs something while the test looks on."""
    with ThreadPoolExecutor(4) as pool:
        yield pool
        asker.stopping.set()  # if the test failed, what runs must not go on for ever


def test_a_stage_that_ends_well_leaves_its_log(asker, kubernetes_api):
    asker.stage_does("print('one'); print('two')")

    asker.run()

    assert asker.log == ["one", "two"]
    assert asker.told[-2:] == ["one", "two"]
    assert len(kubernetes_api.all_pods) == 1


@pytest.mark.parametrize(
    ("script", "error", "sentence"),
    [
        (
            "import sys; sys.exit('error: the papers are missing')",
            StageFailed,
            "extract@papers: the papers are missing",
        ),
        (
            "import sys; print('error: extract@papers: mend it', file=sys.stderr); sys.exit(2)",
            StageRefused,
            "extract@papers: mend it",
        ),
        ("raise ZeroDivisionError", StageFailed, "exited with 1"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", StageFailed, "exited with 137"),
    ],
)
def test_a_stage_that_fails_by_itself_fails_once(asker, kubernetes_api, script, error, sentence):
    asker.stage_does(script)

    with pytest.raises(error, match=sentence):
        asker.run()

    assert len(kubernetes_api.all_pods) == 1


def test_a_stage_that_saved_comes_again_within_its_job(asker, kubernetes_api):
    asker.stage_does(ONCE)

    asker.run()

    assert asker.log == ["this time"]
    assert [pod.exit_code for pod in kubernetes_api.all_pods] == [75, 0]
    assert len(kubernetes_api.jobs) == 1


def test_a_stage_that_saves_for_ever_is_left_to_whoever_asked(asker, kubernetes_api):
    asker.stage_does("import sys; sys.exit(75)")

    with pytest.raises(ComeAgain, match="extract@papers: preempted"):
        asker.run()

    assert len(kubernetes_api.all_pods) == 7


@pytest.mark.parametrize("lost", [False, True], ids=["preempted", "node lost"])
def test_a_disrupted_pod_is_replaced(asker, kubernetes_api, aside, lost):
    asker.stage_does(AGAIN)
    done = aside.submit(asker.run)
    pod = kubernetes_api.pod()
    (asker.folder / "mark").touch()

    pod.disrupt("PreemptionByScheduler", "a pod of more priority needs room", lost)
    done.result()

    assert any("PreemptionByScheduler: a pod of more priority needs room" in line for line in asker.told)
    assert len(kubernetes_api.all_pods) == 2
    assert asker.log[-1] == "this time"


def test_a_job_that_runs_is_followed_by_whoever_asks_next(asker, kubernetes_api, aside):
    asker.stage_does(AGAIN)
    first = aside.submit(asker.run)
    kubernetes_api.pod()
    second = aside.submit(asker.run)
    heard(asker, "it is followed")

    (asker.folder / "mark").touch()
    for each in (first, second):
        each.result()

    assert len(kubernetes_api.all_pods) == 1


def test_a_job_that_has_ended_makes_room_for_the_next(asker, kubernetes_api):
    asker.stage_does("raise ZeroDivisionError")
    with pytest.raises(StageFailed):
        asker.run()

    asker.stage_does("print('mended')")
    asker.run()

    assert asker.log == ["mended"]
    assert len(kubernetes_api.jobs) == 1


def test_a_stage_that_is_stopped_saves_and_leaves_nothing(asker, kubernetes_api, aside):
    asker.stage_does(HANG)
    done = aside.submit(asker.run)
    kubernetes_api.pod()
    heard(asker, "waiting")

    asker.stopping.set()

    with pytest.raises(Stopped):
        done.result()
    assert not kubernetes_api.jobs
    [pod] = kubernetes_api.all_pods
    assert pod.exit_code == 75
    assert [line for _, line in pod.log] == ["waiting", "saved"]


@pytest.mark.parametrize("trouble", ["watches break", "history is forgotten", "503", "drop"])
def test_an_api_in_trouble_costs_time_only(asker, kubernetes_api, aside, monkeypatch, trouble):
    monkeypatch.setattr(place, "LOOK_SECONDS", 1)
    asker.stage_does(AGAIN)
    done = aside.submit(asker.run)
    kubernetes_api.pod()

    if trouble == "watches break":
        kubernetes_api.cut_watches = True
    elif trouble == "history is forgotten":
        kubernetes_api.compact()
    else:
        kubernetes_api.faults.extend([trouble] * 3)
    heard_of = len(kubernetes_api.requests)
    kubernetes_api.until(lambda: len(kubernetes_api.requests) > heard_of + 6)
    (asker.folder / "mark").touch()
    done.result()

    assert asker.log[-1] == "this time"
    assert len(kubernetes_api.all_pods) == 1


def test_an_image_that_cannot_be_pulled_is_a_sentence(asker, kubernetes_api, monkeypatch):
    monkeypatch.setattr(place, "START_SECONDS", 0.0)
    asker.stage_does("")
    asker.resources["image"] = "pedigree:misspelt"

    with pytest.raises(
        Refusal, match=r"extract@papers: the image pedigree:misspelt can't be pulled \(ImagePullBackOff"
    ):
        asker.run()

    kubernetes_api.until(lambda: not kubernetes_api.jobs)


def test_a_stage_that_no_node_has_room_for_is_a_sentence(asker, kubernetes_api):
    asker.stage_does("")
    asker.resources |= {"gpus": 8, "wait_minutes": 0.001}

    with pytest.raises(Refusal, match=r"no node has had room for it \(0/1 nodes are available: 1 Insufficient"):
        asker.run()

    kubernetes_api.until(lambda: not kubernetes_api.jobs)


@pytest.mark.long
def test_a_job_whose_time_is_up_saves_and_comes_again(asker, kubernetes_api, monkeypatch):
    monkeypatch.setattr(place, "SHORT_SECONDS", 0.0)
    asker.stage_does(HANG)
    asker.resources |= {"hours": 1 / 3600, "restarts": 1}

    with pytest.raises(ComeAgain, match="its time was up"):
        asker.run()

    assert any("its time was up; it comes again" in line for line in asker.told)
    assert len(kubernetes_api.all_pods) == 2


def test_a_job_that_someone_deletes_is_not_made_again(asker, kubernetes_api, aside):
    asker.stage_does(HANG)
    done = aside.submit(asker.run)
    kubernetes_api.pod()

    kubernetes_api.delete(job_name(asker.errand), "Foreground")

    with pytest.raises(StageFailed, match="was deleted by someone"):
        done.result()


def test_several_nodes_find_each_other_and_come_again_together(asker, kubernetes_api, aside, monkeypatch):
    monkeypatch.setattr(place, "SHORT_SECONDS", 0.0)
    asker.stage_does(AGAIN.replace('"this time"', 'os.environ["MASTER_ADDR"], os.environ["PEDIGREE_LAUNCH"]'))
    asker.resources |= {"nodes": 2, "environment": {"PEDIGREE_LAUNCH": "--num_processes 2"}}
    done = aside.submit(asker.run)
    kubernetes_api.until(lambda: [pod.phase for pod in kubernetes_api.pods.values()] == ["Running"] * 2)
    kubernetes_api.until(lambda: set(kubernetes_api.services) == {job_name(asker.errand)})

    next(iter(kubernetes_api.pods.values())).disrupt("EvictionByEvictionAPI", "the node is emptied")
    kubernetes_api.until(lambda: len(kubernetes_api.all_pods) == 4)
    (asker.folder / "mark").touch()
    done.result()

    name = job_name(asker.errand)
    for rank, prefix in ((0, ""), (1, "[1] ")):
        launch = f"--num_processes 2 --num_machines 2 --machine_rank {rank} --main_process_ip {name}-0.{name}"
        assert f"{prefix}{name}-0.{name} {launch} --main_process_port 29500" in asker.log
    assert len(kubernetes_api.all_pods) == 4


def test_a_token_that_is_not_accepted_is_refused_and_not_repeated(asker, kubernetes_api, monkeypatch):
    asker.stage_does("")
    path = Path(asker.folder / "kubeconfig")
    path.write_text(path.read_text().replace("token-of-the-tests", "secret-token"))

    with pytest.raises(Refusal, match="Kubernetes refuses: Unauthorized") as caught:
        asker.run()

    assert "secret-token" not in str(caught.value)


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        ({"context": "elsewhere"}, "set KUBECONFIG to a file that has the context elsewhere"),
        ({"namespace": "theirs"}, "Kubernetes refuses: jobs is forbidden"),
        ({"template": "missing.yaml"}, "missing.yaml is missing"),
    ],
)
def test_what_is_wrong_with_a_place_is_a_sentence(asker, resources, sentence):
    asker.stage_does("")
    asker.resources |= resources

    with pytest.raises(Refusal, match=sentence):
        asker.run()


def test_a_job_holds_no_secret(asker, kubernetes_api, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    kubernetes_api.secrets["pedigree-store"] = {"AWS_SECRET_ACCESS_KEY": "very-secret"}
    asker.stage_does("import os; print(len(os.environ['AWS_SECRET_ACCESS_KEY']))")

    asker.run()

    assert asker.log == ["11"]
    assert "very-secret" not in str(kubernetes_api.jobs)


def test_the_role_of_the_worker_allows_what_the_place_asks_for_and_no_more(asker, kubernetes_api, aside):
    asker.stage_does(HANG)
    asker.resources["nodes"] = 2
    done = aside.submit(asker.run)
    heard(asker, "waiting")
    kubernetes_api.until(lambda: any("watch" in each for each in kubernetes_api.requests))
    asker.stopping.set()
    with pytest.raises(Stopped):
        done.result()

    documents = yaml.safe_load_all((ROOT / "infra/kubernetes/base/worker.yaml").read_text())
    [role] = [each for each in documents if each["kind"] == "Role"]
    allowed = {(kind, verb) for rule in role["rules"] for kind in rule["resources"] for verb in rule["verbs"]}
    # To watch one job by its name takes the right to list as well.
    assert {right(each) for each in kubernetes_api.requests} | {("jobs", "list")} == allowed


def right(request: str) -> tuple[str, str]:
    """What a request asks to be allowed: ("pods/log", "get")."""
    method, _, url = request.partition(" ")
    kind, _, rest = url.partition("?")[0].partition("/namespaces/pedigree/")[2].partition("/")
    kind = "pods/log" if rest.endswith("/log") else kind
    verb = "watch" if "watch=" in url else "get" if rest else "list"
    return kind, {"POST": "create", "DELETE": "delete"}.get(method, verb)


@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")
def test_a_build_has_a_stage_run_as_a_job_and_restores_it_here(tmp_path, s3, kubernetes_api, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    kubernetes_api.secrets["pedigree-store"] = s3.environment
    clone = make_clone(tmp_path / "clone", s3.url(), s3.environment, {"letters": [], "total": ["out/letters"]})
    kubernetes_api.inherited["TOY_RUNS"] = clone.environment["TOY_RUNS"]
    monkeypatch.setenv("TOY_RUNS", clone.environment["TOY_RUNS"])
    shutil.copytree(ROOT / "infra/kubernetes", clone.folder / "infra/kubernetes")
    places = {"stages": {"total": {"place": "kubernetes", "image": "pedigree:test", "cpus": 1}}}
    (clone.folder / "infra/places.yaml").write_text(yaml.safe_dump(places))
    clone.commit()
    monkeypatch.chdir(clone.folder)

    built = build_locally()

    assert [(stage.stage, stage.outcome) for stage in built.stages] == [("letters", "ran"), ("total", "restored")]
    assert clone.runs() == ["letters", "total"]
    assert (clone.folder / "out/total").read_text().startswith("total total")
    [job] = kubernetes_api.jobs.values()
    assert job["metadata"]["annotations"]["pedigree/stage"] == "total"
    assert s3.environment["AWS_SECRET_ACCESS_KEY"] not in str(job)
