"""A Prefect API server of one's own, for the time of a build: for whoever runs none.

Prefect would start one, too, but not end it if the build is killed. Its database is the one of PREFECT_HOME, so the
history of such builds is kept, and `prefect server start` shows it.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from flows.lifetime import bound
from infra.ports import free_port

# The first start makes a database: 6 to 12 s here, 75 s were seen on slow disks.
START_SECONDS = 90
END_SECONDS = 10
LOG = Path("logs/prefect-server.log")
_TRIES = 3  # two first starts at once on one database; a port that somebody else took meanwhile


class ServerFailed(RuntimeError):
    """The server did not start; one sentence."""


@contextmanager
def own_server(root: Path = Path()) -> Iterator[str]:
    """The URL of a Prefect API that answers, for the time of the block. It dies with this process, however that dies.

    Raises:
        ServerFailed: if it doesn't start.
    """
    server, url = _start(root)
    try:
        yield url
    finally:
        server.terminate()
        try:
            server.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _start(root: Path) -> tuple["subprocess.Popen[bytes]", str]:
    limit = time.monotonic() + START_SECONDS
    for _ in range(_TRIES):
        port = free_port()
        server, url = _serve(port, root), f"http://127.0.0.1:{port}/api"
        try:
            while server.poll() is None and time.monotonic() < limit:
                if _answers(url):
                    return server, url
                time.sleep(0.1)
        except BaseException:  # a signal
            server.kill()
            raise
        if server.poll() is None:
            server.kill()
            raise ServerFailed(f"a Prefect server of its own did not answer in {START_SECONDS} s; {LOG} says more")
    raise ServerFailed(f"a Prefect server of its own ended with {server.returncode}; {LOG} says why")


def _serve(port: int, root: Path) -> "subprocess.Popen[bytes]":
    """The server as a child that dies with us, in a group of its own: Ctrl-C must not end it before the build."""
    app = ["prefect.server.api.server:create_app", "--factory", "--host", "127.0.0.1", "--port", str(port)]
    options = ["--log-level", "error", "--lifespan", "on", "--timeout-graceful-shutdown", "5"]
    environment = os.environ | {
        "PREFECT_UI_ENABLED": "0",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT__SERVER_EPHEMERAL": "1",  # without the services that only a server that stays needs
        "PREFECT__SERVER_FINAL": "1",
    }
    log = root / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-P", bound.__file__, str(os.getpid()), sys.executable, "-m", "uvicorn", *app, *options],
            cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, process_group=0,
        )  # fmt: skip


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
