"""What a build tells an OpenLineage server, a real one over HTTP, and that no server can fail a build."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from uuid import UUID, uuid5

import pytest
import yaml

from flows.lifetime.lease import building
from flows.openlineage import Events
from flows.stage import Ended, StageFailed, Stopped
from flows.work import build_locally

# DVC 3.67 reads the graph through a deprecated property of pygtrie's.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


@dataclass
class Lineage:
    """A server that takes events, and what it got."""

    url: str = ""
    status: int = 201
    events: list[dict] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def of(self, stage: str) -> list[dict]:
        return [event for event in self.events if event["job"]["name"] == stage]

    @property
    def told(self) -> dict[str, list[str]]:
        """What it was told of each stage, in order."""
        return {name: [each["eventType"] for each in self.of(name)] for name in {e["job"]["name"] for e in self.events}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lineage]:
    """A server that takes events, at the address that OPENLINEAGE_URL has."""
    lineage = Lineage()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            lineage.paths.append(self.path)
            lineage.headers.append(dict(self.headers))
            lineage.events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(lineage.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        lineage.url = f"http://127.0.0.1:{http.server_port}"
        monkeypatch.setenv("OPENLINEAGE_URL", lineage.url)
        yield lineage
        http.shutdown()


@pytest.fixture
def pair(toy_of):
    """first -> second; the working folder is the project's."""
    return toy_of({"first": [], "second": ["first"]})


def versions(datasets: list[dict]) -> dict[str, str]:
    return {each["name"]: each["facets"]["version"]["datasetVersion"] for each in datasets}


def test_a_server_hears_of_each_stage_that_runs_and_what_one_wrote_is_what_the_next_one_read(pair, server):
    build_locally()

    assert server.told == {"first": ["START", "COMPLETE"], "second": ["START", "COMPLETE"]}
    assert set(server.paths) == {"/api/v1/lineage"}
    for event in server.events:
        assert UUID(event["run"]["runId"])
        assert datetime.fromisoformat(event["eventTime"]).tzinfo
        assert event["schemaURL"].endswith("OpenLineage.json#/$defs/RunEvent")
    (begin, end), second = server.of("first"), server.of("second")[1]
    assert begin["run"]["runId"] == end["run"]["runId"] != second["run"]["runId"]
    lock = yaml.safe_load((pair.root / "dvc.lock").read_text())["stages"]
    assert end["job"]["facets"]["sourceCode"]["sourceCode"] == lock["first"]["cmd"]
    assert versions(end["outputs"]) == {"out/first": lock["first"]["outs"][0]["md5"]}
    assert versions(second["inputs"])["out/first"] == versions(end["outputs"])["out/first"]

    server.events.clear()
    build_locally()

    assert server.events == []  # there was nothing to do


def test_a_failure_is_told_with_its_reason_and_of_what_did_not_begin_nothing(pair, server):
    pair.fate("first", "crash")

    with pytest.raises(StageFailed):
        build_locally()

    assert server.told == {"first": ["START", "FAIL"]}
    assert "exited with 1" in server.of("first")[1]["run"]["facets"]["errorMessage"]["message"]


def test_a_server_that_refuses_costs_one_line_and_no_build(pair, server, caplog):
    server.status = 500

    with caplog.at_level("INFO", "pedigree.flows"):
        build = build_locally()

    assert {ended.outcome for ended in build.stages} == {"ran"}
    assert len(server.events) == 1
    assert [line for line in caplog.messages if "OPENLINEAGE_URL" in line] == [
        "first                  OPENLINEAGE_URL: its server takes no events (HTTPError); the build goes on without them"
    ]


def test_without_an_address_nothing_is_told(tmp_path, server, monkeypatch):
    monkeypatch.delenv("OPENLINEAGE_URL")

    Events(tmp_path).around("top", lambda: Ended("top", "ran"), print)

    assert server.events == []


def test_the_client_can_be_switched_off(tmp_path, server, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")

    Events(tmp_path).around("top", lambda: Ended("top", "ran"), print)

    assert server.events == []


@pytest.mark.parametrize("address", ["http://user:hunter2@127.0.0.1:{port}", "no address"])
def test_a_server_that_is_not_there_is_no_trouble_and_its_password_is_not_told(tmp_path, monkeypatch, address):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("OPENLINEAGE_URL", address.format(port=port))
    events, lines = Events(tmp_path), []

    ended = [events.around(name, lambda: Ended("top", "ran"), lines.append) for name in ("top", "left")]

    assert [each.outcome for each in ended] == ["ran", "ran"]
    assert len(lines) == 1
    assert "hunter2" not in lines[0]


def test_a_run_of_prefect_is_the_parent_and_names_the_run(single, server):
    flow = "0b6f8f6e-5a5c-4e0f-9f0e-0c7a8f3a2b11"

    def failing() -> Ended:
        raise StageFailed("it broke")

    with building(Path(), print, flow), pytest.raises(StageFailed):
        Events(Path()).around("alone", failing, print)

    run = server.of("alone")[0]["run"]
    assert run["facets"]["parent"]["run"]["runId"] == flow
    assert run["runId"] == str(uuid5(UUID(flow), "alone"))


def test_a_build_that_is_stopped_aborts_its_stages(tmp_path, server):
    def stopped() -> Ended:
        raise Stopped("stopped")

    with pytest.raises(Stopped):
        Events(tmp_path).around("top", stopped, print)

    assert server.told == {"top": ["START", "ABORT"]}


def test_the_key_of_the_server_goes_with_each_event_and_a_password_in_a_reason_does_not(tmp_path, server, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "letmein")

    def failing() -> Ended:
        raise StageFailed("s3://name:hunter2@bucket/a is gone")

    with pytest.raises(StageFailed):
        Events(tmp_path).around("top", failing, print)

    assert [each["Authorization"] for each in server.headers] == ["Bearer letmein"] * 2
    assert server.events[1]["run"]["facets"]["errorMessage"]["message"] == "s3://bucket/a is gone"
