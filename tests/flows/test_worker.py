"""Builds that a real worker runs for a real server, and what becomes of them when something dies."""

import os
import signal
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Pending
from servers.prefect_server import end, is_gone, start_worker, wait_for

from flows.lifetime import reaper
from flows.lifetime.lease import STATE, dead_runs

# DVC 3.67 reads the graph through a deprecated property of pygtrie's.
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")]

PROJECT = Path(__file__).parents[2]


class Deployed:
    """The build of a toy as a deployment, and a worker that runs it."""

    def __init__(self, toy, server, client):
        self.toy, self.client = toy, client
        self.environment = server.environment | {
            "PYTHONPATH": str(PROJECT),
            "DVC_SITE_CACHE_DIR": os.environ["DVC_SITE_CACHE_DIR"],
        }
        self.worker = start_worker(self.environment, toy.root, "toys")
        wait_for(lambda: any(pool.name == "toys" for pool in self.client.read_work_pools()), 120)
        self.deployment = self.client.create_deployment(
            flow_id=self.client.create_flow_from_name("build"),
            name="toy",
            work_pool_name="toys",
            entrypoint=f"{PROJECT}/flows/build.py:build",
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(toy.root)}}],
            parameters={"targets": ["alone"]},
        )

    def hanging(self):
        """A run whose stage `alone` hangs."""
        self.toy.fate("alone", "hang")
        run = self.client.create_flow_run_from_deployment(self.deployment)
        wait_for(lambda: self.toy.pid("alone"), 300)
        self.toy.fate("alone")
        return run.id

    def state(self, run):
        return self.client.read_flow_run(run).state.name

    def flow(self):
        """The process of the build."""
        [flow] = [
            process for process in psutil.Process(self.worker.pid).children() if "prefect" in str(process.cmdline())
        ]
        return flow


@pytest.fixture
def deployed(diamond, prefect_server):
    with SyncPrefectClient(prefect_server.url) as client:
        deployed = Deployed(diamond, prefect_server, client)
        yield deployed
        end(deployed.worker)
        client.delete_deployment(deployed.deployment)


def test_a_cancelled_run_saves_what_it_has_and_ends_in_time(deployed):
    run = deployed.hanging()
    stage, flow = psutil.Process(deployed.toy.pid("alone")), deployed.flow()

    deployed.client.set_flow_run_state(run, Cancelling())
    wait_for(lambda: is_gone(stage) and is_gone(flow), 120)
    wait_for(lambda: deployed.state(run) == "Cancelled", 120)

    assert Path("saved/alone").exists()
    assert not Path("out/alone").exists()
    assert dead_runs(deployed.toy.root)  # for the next build, which looks whether Prefect knows: here it does
    only_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    tables = {artifact.key: artifact.data for artifact in deployed.client.read_artifacts(artifact_filter=only_run)}
    assert '"stage": "alone", "outcome": "not run"' in tables["build"]


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_dies_takes_its_build_along_and_the_next_one_goes_on(deployed, death):
    run = deployed.hanging()
    stage, flow = psutil.Process(deployed.toy.pid("alone")), deployed.flow()

    deployed.worker.send_signal(death)
    wait_for(lambda: is_gone(stage) and is_gone(flow), 120)
    assert Path("saved/alone").exists()
    assert deployed.toy.start_build("alone", prefect=True, **deployed.environment).wait(400) == 0

    assert (deployed.toy.runs("alone"), Path("out/alone").read_text()) == (2, "alone")
    assert deployed.state(run) == "Crashed"
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
    assert all(task.state.is_final() for task in deployed.client.read_task_runs(flow_run_filter=of_run))
    assert list((deployed.toy.root / STATE / "runs").iterdir()) == []


def test_a_run_that_its_worker_never_began_is_taken_for_dead_after_a_while(deployed, prefect_server, monkeypatch):
    end(deployed.worker)
    run = deployed.client.create_flow_run_from_deployment(deployed.deployment, state=Pending())
    told = []
    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        reaper.reap(Path(), told.append)
        assert (deployed.state(run.id), told) == ("Pending", [])

        monkeypatch.setattr(reaper, "PENDING_MINUTES", 0)
        reaper.reap(Path(), told.append)

    assert deployed.state(run.id) == "Crashed"
    assert told == [f"the run {run.name} has not begun in 0 minutes: Prefect has it as crashed now"]
