"""`pedigree run` where nobody runs a Prefect server, and where the server dies."""

import os
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, temporary_settings
from servers.prefect_server import prefect_serving, wait_for

from flows.lifetime import reaper
from flows.lifetime.lease import dead_runs

# DVC 3.67 reads the graph through a deprecated property of pygtrie's.
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")]


def of(toy):
    """The processes that work in the folder of `toy`, but for this one."""
    found = [process for process in psutil.process_iter(["cwd"]) if process.pid != os.getpid()]
    return [process for process in found if Path(process.info["cwd"] or "/").is_relative_to(toy.root)]


def test_a_killed_build_takes_its_own_server_along_and_prefect_is_told_later(diamond, prefect_server):
    """Both servers have one database, so that it can be looked at."""
    environment = {**prefect_server.environment, "PREFECT_API_URL": ""}
    diamond.fate("alone", "hang")
    build = diamond.start_build("alone", prefect=True, **environment)
    wait_for(lambda: diamond.pid("alone"), 400)
    assert any("uvicorn" in process.cmdline() for process in of(diamond))

    build.kill()

    build.wait(200)
    wait_for(lambda: of(diamond) == [], 200)
    [run] = dead_runs(diamond.root)
    with temporary_settings({PREFECT_API_URL: prefect_server.url}), SyncPrefectClient(prefect_server.url) as client:
        assert client.read_flow_run(run.flow_run).state.name == "Running"
        reaper.reap(Path(), print)
        assert client.read_flow_run(run.flow_run).state.name == "Crashed"
    assert dead_runs(diamond.root) == []


def test_a_build_goes_on_where_its_server_dies_or_never_was(diamond, tmp_path):
    (tmp_path / "home").mkdir()
    diamond.fate("alone", "left")
    with prefect_serving(tmp_path / "home") as server:
        environment = {**server.environment, "PREFECT_CLIENT_MAX_RETRIES": "0"}
        build = diamond.start_build("alone", prefect=True, **environment)
        wait_for(lambda: diamond.pid("alone"), 400)
        server.process.kill()
        server.process.wait()
        (diamond.root / "pids/left").touch()  # now it goes on

        assert build.wait(400) == 0
        assert "Prefect doesn't record this build any more (ConnectError); it goes on without" in diamond.said()
        assert diamond.start_build("top", prefect=True, **environment).wait(400) == 0

    assert "it goes on without" in diamond.said()
    assert (diamond.runs("alone"), diamond.runs("top")) == (1, 1)
