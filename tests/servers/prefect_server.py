"""A real Prefect server in a folder of its own, and workers for it."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from infra.ports import free_port

PR_SET_PDEATHSIG = 1
START_SECONDS = 400  # it makes its database first: 8 s alone on the machine, minutes where many tests run


@dataclass(frozen=True)
class PrefectServer:
    """A server that answers at `url` (which ends with /api)."""

    url: str
    environment: dict[str, str]  # for the processes that shall use it
    log: Path
    process: "subprocess.Popen[bytes]"


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """`prefect server start` with SQLite, for all tests of this process."""
    with prefect_serving(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@contextmanager
def prefect_serving(home: Path, **settings: str) -> Iterator[PrefectServer]:
    """A server whose PREFECT_HOME is `home`, for the time of the block; `settings` are more PREFECT_ variables."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PEDIGREE_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",  # how often a worker asks for new runs; 10 is its default
        **settings,
    }
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    process = start(command, home, environment, log := home / "server.log")
    try:
        wait_for(lambda: answers(environment["PREFECT_API_URL"], process), START_SECONDS)
        yield PrefectServer(environment["PREFECT_API_URL"], environment, log, process)
    finally:
        end(process)


def start_worker(environment: Mapping[str, str], cwd: Path, pool: str) -> "subprocess.Popen[bytes]":
    """A process worker of `pool` (made if it isn't there), whose lines go to `cwd`/worker.log; `end` ends it."""
    command = ["prefect", "worker", "start", "--pool", pool, "--type", "process", "--install-policy", "never"]
    return start(command, cwd, environment, cwd / "worker.log")


def start(command: list[str], cwd: Path, environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """A program of this Python that ends with this process, however that dies."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            preexec_fn=die_with_us,
        )


def end(process: "subprocess.Popen[bytes]") -> None:
    """Have `process` end, by force if it won't."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def answers(url: str, process: "subprocess.Popen[bytes]") -> bool:
    """Whether the server at `url` is ready."""
    assert process.poll() is None, f"the server ended with {process.returncode}"
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    """Wait until `condition` holds."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"it didn't happen in {seconds} s"
        time.sleep(0.1)


def is_gone(process: psutil.Process) -> bool:
    """Whether `process` has ended, be it that nobody has asked how (a container's first process may take its time)."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def die_with_us() -> None:
    """In a child, before its program: ask the kernel for a SIGTERM when the tests die."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
