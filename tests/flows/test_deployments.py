"""The deployments of prefect.yaml, on real Prefect servers (SQLite and Postgres) with real workers."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from uuid import UUID

import psutil
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import IntervalSchedule
from servers.prefect_server import PrefectServer, end, start_worker, wait_for
from tiny import PARAMS, ROOT
from webhook import Listening, listening

from flows.lock import write_lock
from stages.locked import Locked, entry

pytestmark = pytest.mark.long

WAIT_SECONDS = 240.0  # for what takes seconds when the machine is idle
AUTOMATIONS = ("pedigree-not-started", "pedigree-silent", "pedigree-too-long")
DEPLOYMENTS = {
    "build/rebuild": 1,
    "refresh/refresh": 1,
    "audit/audit": 1,
    "sweep/sweep": 0,
}  # and how many schedules each has

# Two stages, which do what in/fate says; the second one is the model, and its parameter what it is worth.
STAGE = """
import json, os, sys, time
from pathlib import Path

import polars as pl
import yaml

name, fate = sys.argv[1], Path("in/fate").read_text().split()
if fate == ["refuse", name]:
    print("error: the toy is broken; mend it", file=sys.stderr)
    sys.exit(2)
if fate == ["hang", name]:
    time.sleep(600)
for folder in ("out", "metrics"):
    Path(folder).mkdir(exist_ok=True)
Path("out", name).write_text(name + " ".join(fate))
if name == "model":
    seed = yaml.safe_load(Path("params.yaml").read_text())["pretrain"]["seed"]
    bits, row = 2 - seed / 10, {"id": "a", "source": "stories", "bytes": 100, "bits": 100.0 * (2 - seed / 10)}
    scores = {"model": bits}, {"low": bits - 0.01, "high": bits + 0.01}
    metrics = {
        "bits_per_byte": scores[0], "sources": {"stories": scores[0]},
        "intervals": {"all": scores[1], "sources": {"stories": scores[1]}},
    }
    Path("metrics/evaluate.json").write_text(json.dumps(metrics))
    pl.DataFrame([row]).write_parquet("metrics/held_out.parquet")
"""
PIPELINE = {
    "data": {"cmd": "exec python stage.py data", "deps": ["stage.py", "in/fate"], "outs": ["out/data"]},
    "model": {
        "cmd": "exec python stage.py model",
        "deps": ["stage.py", "out/data"],
        "params": ["pretrain.seed"],
        "outs": ["out/model", "metrics/held_out.parquet"],
        "metrics": ["metrics/evaluate.json"],
    },
}


@dataclass
class Deployed:
    """A project whose deployments are loaded into a server, and the worker that runs them there."""

    root: Path
    environment: dict[str, str]
    webhook: Listening

    def client(self) -> SyncPrefectClient:
        """A client of the server."""
        return SyncPrefectClient(self.environment["PREFECT_API_URL"])

    def command(self, *command: str) -> str:
        """Run a command in the project, which must succeed; what it says."""
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=self.root, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str, **parameters: object) -> UUID:
        """Ask for a run of a deployment."""
        with self.client() as client:
            deployment = client.read_deployment_by_name(name)
            return client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id

    def run(self, run: UUID) -> FlowRun:
        """The run, as it is now."""
        with self.client() as client:
            return client.read_flow_run(run)

    def ended(self, run: UUID) -> FlowRun:
        """The run, when it has ended."""
        wait_for(lambda: (state := self.run(run).state) and state.is_final(), WAIT_SECONDS)
        return self.run(run)

    def logs(self, run: UUID) -> list[str]:
        """The lines of the run's log that have arrived; it sends them until its process ends."""
        of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))
        with self.client() as client:
            return [entry.message for entry in client.read_logs(of_run, limit=200)]

    def artifact(self, run: UUID, key: str) -> str:
        """What an artifact of the run holds."""
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]), flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        with self.client() as client:
            [artifact] = client.read_artifacts(artifact_filter=wanted)
        return str(artifact.data)


def git(root: Path, *arguments: str) -> None:
    author = ["-c", "user.name=toy", "-c", "user.email=toy@localhost"]
    subprocess.run(["git", *author, *arguments], cwd=root, check=True, capture_output=True)


def make_project(root: Path, environment: dict[str, str]) -> None:
    """The toy with everything of this repository that its deployments need, built and committed."""
    for name in ("flows", "stages", "lineage", "infra"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pedigree.py", "prefect.yaml"):
        shutil.copyfile(ROOT / name, root / name)
    (root / "stage.py").write_text(STAGE)
    (root / "in").mkdir()
    (root / "in/fate").write_text("good")
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": PIPELINE}, sort_keys=False))
    params = {**PARAMS, "pretrain": {**PARAMS["pretrain"], "seed": 0}}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    nothing = entry(Locked(kind="files", files=()))  # nobody downloads them here
    write_lock(root, dict.fromkeys(PARAMS["sources"], nothing))
    (root / "requirements.lock").write_text("".join(f"{name}=={version(name)}\n" for name in ("dvc", "pydantic")))
    (root / ".gitignore").write_text("/out/\n/metrics/\n/logs/\n/scratch/\n/worker.log\n__pycache__/\n")
    (root / ".dvcignore").write_text("__pycache__/\n")
    git(root, "init", "--quiet")
    for command in (["dvc", "init", "--quiet"], ["dvc", "config", "core.analytics", "false"], ["dvc", "repro"]):
        subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True)
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "toy")


@contextmanager
def deployed(root: Path, server: PrefectServer) -> Iterator[Deployed]:
    """The toy in `root`, deployed, with a worker, for the time of the block."""
    with listening() as webhook:
        environment = {
            **server.environment,
            "PYTHONPATH": str(root),
            "PEDIGREE_FLOW_WEBHOOK": webhook.url,
            "DVC_SITE_CACHE_DIR": str(root.parent / "site"),
        }
        toy = Deployed(root, environment, webhook)
        make_project(root, environment)
        with toy.client() as client:
            client.create_work_pool(WorkPoolCreate(name="pedigree", type="process"))
        toy.command("prefect", "--no-prompt", "deploy", "--all")
        worker = start_worker(environment, root, "pedigree")
        try:
            yield toy
        finally:
            end(worker)


@pytest.fixture(scope="module")
def on_sqlite(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with deployed(tmp_path_factory.mktemp("sqlite") / "toy", prefect_server) as toy:
        yield toy


@pytest.fixture(scope="module")
def on_postgres(prefect_on_postgres: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with deployed(tmp_path_factory.mktemp("postgres") / "toy", prefect_on_postgres) as toy:
        yield toy


def schedules(toy: Deployed) -> dict[str, list[bool]]:
    """Of each deployment, whether its schedules are awake."""
    with toy.client() as client:
        found = {name: client.read_deployment_by_name(name) for name in DEPLOYMENTS}
    return {name: [schedule.active for schedule in deployment.schedules] for name, deployment in found.items()}


def test_every_deployment_loads_asleep_and_one_command_wakes_them(on_postgres):
    asleep, awake = ({name: [active] * count for name, count in DEPLOYMENTS.items()} for active in (False, True))

    assert schedules(on_postgres) == asleep
    on_postgres.command("prefect", "--no-prompt", "deployment", "schedule", "resume", "--all")
    assert schedules(on_postgres) == awake
    on_postgres.command("prefect", "--no-prompt", "deployment", "schedule", "pause", "--all")
    with on_postgres.client() as client:
        pull = client.read_deployment_by_name("build/rebuild").pull_steps
    assert pull[0]["prefect.deployments.steps.set_working_directory"]["directory"] == str(on_postgres.root)


def test_the_build_runs_on_schedule_and_is_idle_the_second_time(on_sqlite):
    # With Postgres the schedule of test_weekly.py does.
    (on_sqlite.root / "in/fate").write_text("other")

    with on_sqlite.client() as client:
        deployment = client.read_deployment_by_name("build/rebuild").id
        every = IntervalSchedule(interval=timedelta(seconds=15))
        [schedule] = client._client.post(
            f"/deployments/{deployment}/schedules",
            json=[DeploymentScheduleCreate(schedule=every, active=True).model_dump(mode="json", exclude_unset=True)],
        ).json()
        wait_for(lambda: len(completed_on_schedule(client)) >= 2, WAIT_SECONDS)
        client._client.delete(f"/deployments/{deployment}/schedules/{schedule['id']}")
        wait_for(lambda: not begun_on_schedule(client), WAIT_SECONDS)
        first, second, *_ = completed_on_schedule(client)

    outcomes = [[row["outcome"] for row in json.loads(on_sqlite.artifact(run.id, "build"))] for run in (first, second)]
    assert outcomes == [["ran", "ran"], ["cached", "cached"]]
    assert on_sqlite.webhook.messages == []


def test_a_refused_build_reaches_the_webhook_and_its_url_no_log(on_sqlite):
    (on_sqlite.root / "in/fate").write_text("refuse data")
    on_sqlite.webhook.messages.clear()

    run = on_sqlite.ended(on_sqlite.start("build/rebuild"))

    assert run.state_name == "Failed"
    wait_for(lambda: on_sqlite.webhook.messages, WAIT_SECONDS)
    [message] = on_sqlite.webhook.messages
    assert message["kind"] == "refusal"
    assert message["text"].startswith("toy: build failed: data: the toy is broken; mend it\n")
    assert message["details"]["run"] == run.name
    wait_for(lambda: any("the toy is broken" in line for line in on_sqlite.logs(run.id)), WAIT_SECONDS)
    lines = [*on_sqlite.logs(run.id), (on_sqlite.root / "worker.log").read_text()]
    assert not any("very-secret" in line for line in lines)


@pytest.fixture
def watched(on_postgres: Deployed) -> Iterator[Deployed]:
    """The toy, whose server watches for 10 seconds what it should for days."""
    automations = on_postgres.root / "infra/prefect/automations.yaml"
    text = automations.read_text()
    automations.write_text(re.sub(r"within: \d+", "within: 10", text))
    on_postgres.command("pedigree", "automations")
    on_postgres.command("pedigree", "automations")  # the second time they are brought up to date
    yield on_postgres
    automations.write_text(text)
    with on_postgres.client() as client:
        known = [automation for name in AUTOMATIONS for automation in client.read_automations_by_name(name)]
        for automation in known:
            client.delete_automation(automation.id)
    assert sorted(automation.name for automation in known) == sorted(AUTOMATIONS)


def test_people_are_told_of_a_build_that_lasts_too_long_or_is_silent_and_of_its_end(watched):
    (watched.root / "in/fate").write_text("hang data")
    watched.webhook.messages.clear()

    run = watched.start("build/rebuild")
    wait_for(lambda: {"pedigree-too-long", "pedigree-silent"} <= told(watched).keys(), WAIT_SECONDS)
    for process in psutil.process_iter(["environ", "cmdline"]):
        environment, command = process.info["environ"] or {}, process.info["cmdline"] or []
        if environment.get("PREFECT__FLOW_RUN_ID") == str(run) and "prefect" in " ".join(command[:3]):
            process.kill()
    wait_for(lambda: "failure" in told(watched), WAIT_SECONDS)

    name, texts = watched.run(run).name, told(watched)
    assert texts["pedigree-too-long"] == f"build (run {name}): A run has been running for two days."
    assert texts["pedigree-silent"].startswith(f"build (run {name}): A run has given no sign of life for ten minutes")
    assert texts["failure"].startswith("toy: build crashed: ")
    (watched.root / "in/fate").write_text("good")


def test_an_audit_has_a_finding_for_each_part_and_the_broken_one_reaches_the_webhook(on_postgres):
    on_postgres.webhook.messages.clear()
    set_license(on_postgres.root, "all rights reserved")

    run = on_postgres.ended(on_postgres.start("audit/audit", advisories="http://127.0.0.1:9/no-server"))

    rows = [line.strip("| ").split(" | ") for line in on_postgres.artifact(run.id, "audit").splitlines()[4:]]
    found = {part: (outcome, sentence) for part, outcome, sentence in rows}
    assert {part: outcome for part, (outcome, _) in found.items()} == {
        "rebuild": "good", "store": "good", "dependencies": "good", "advisories": "not asked", "licences": "good",
        "sources": "broken",
    }  # fmt: skip
    assert found["rebuild"][1].endswith("every digest is equal")
    assert found["advisories"][1] == "not asked: no network (ConnectError)"
    assert run.state_name == "Failed"
    [text] = on_postgres.webhook.texts()
    assert "sources: source stories is under 'all rights reserved', not allowed" in text
    set_license(on_postgres.root, "CC0-1.0")


def test_a_sweep_ranks_its_experiments_and_one_that_fails_is_a_row_with_its_reason(on_postgres):
    on_postgres.webhook.messages.clear()

    run = on_postgres.ended(on_postgres.start("sweep/sweep", values={"pretrain.seed": ["none", 2]}))

    assert run.state_name == "Completed"
    rows = json.loads(on_postgres.artifact(run.id, "sweep"))
    assert [(row["pretrain.seed"], row["outcome"], row["bits per byte"]) for row in rows] == [
        (2, "done", 1.8), ("none", "failed", None),
    ]  # fmt: skip
    assert rows[-1]["reason"].startswith("params.yaml: pretrain.seed is 'none': ")
    [text] = on_postgres.webhook.texts()
    assert text.startswith("toy: 1 of 2 experiments failed\nseed-none: params.yaml: pretrain.seed")
    listed = on_postgres.command("dvc", "exp", "list", "--name-only")
    assert listed.split() == ["seed-2"]
    assert not list((on_postgres.root / ".dvc/tmp/sweep").glob("*/"))


def test_a_refresh_publishes_a_build_that_nothing_is_better_than(on_postgres):
    git(on_postgres.root, "checkout", "--quiet", ".")
    git(on_postgres.root, "config", "user.name", "toy")
    git(on_postgres.root, "config", "user.email", "toy@localhost")

    run = on_postgres.ended(on_postgres.start("refresh/refresh"))

    assert run.state_name == "Completed", run.state
    assert on_postgres.artifact(run.id, "refresh").startswith("**published**: ")
    tags = subprocess.check_output(["git", "tag"], cwd=on_postgres.root, text=True).split()
    assert tags == ["base#prod#1", "base@v1.0.0"]


def told(toy: Deployed) -> dict[str, str]:
    """The newest text of each kind that reached the webhook."""
    return {message["kind"]: message["text"] for message in toy.webhook.messages}


def completed_on_schedule(client: SyncPrefectClient) -> list[FlowRun]:
    """The runs that nobody asked for, and that ended well, in order."""
    runs = [run for run in client.read_flow_runs() if run.auto_scheduled and run.state and run.state.is_completed()]
    return sorted(runs, key=lambda run: run.expected_start_time)


def begun_on_schedule(client: SyncPrefectClient) -> list[FlowRun]:
    """The runs that nobody asked for, and that have not ended; those that have not begun are gone afterwards."""
    runs = [run for run in client.read_flow_runs() if run.auto_scheduled and run.state and not run.state.is_final()]
    for run in runs:
        if run.state and run.state.is_scheduled():
            client._client.delete(f"/flow_runs/{run.id}")
    return runs


def set_license(root: Path, text: str) -> None:
    """Say that the source stories is under another licence."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["sources"]["stories"]["extract"]["license"] = text
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
