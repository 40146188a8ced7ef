"""A web server of files for the tests, which fails on demand."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from serving import serving


class WebServer(ThreadingHTTPServer):
    """Serves `files` by path; the first answers with a body break off after `breaks` bytes, in turn."""

    daemon_threads = True
    seekable = True
    status = 200  # of every answer
    etags = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.breaks: list[int] = []
        self.begins: list[int] = []  # where each answer with a body began
        self.statuses: list[int] = []  # of the next answers, before `status` holds
        self.asked: Counter[str] = Counter()  # how often, by path

    @property
    def root(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def url(self, name: str = "a.txt") -> str:
        """The URL of a file."""
        return f"{self.root}/{name}"


class _Handler(BaseHTTPRequestHandler):
    server: WebServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        self.server.asked[path] += 1
        content = self.server.files.get(path)
        status = self.server.statuses.pop(0) if self.server.statuses else self.server.status
        status = 404 if content is None and status == 200 else status
        whole = content if content is not None and status == 200 else b""
        begin, end = 0, len(whole)
        if self.server.seekable and status == 200 and with_body and (asked := self.headers.get("Range")):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end, status = int(first), min(end, int(last or end) + 1), 206
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Length", str(end - begin))
        self.send_header("Connection", "close")
        if self.server.etags:
            self.send_header("ETag", f'"{hashlib.sha256(whole).hexdigest()[:8]}"')
        if self.server.seekable:
            self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(whole)}")
        self.end_headers()
        if with_body and status < 300:
            self.server.begins.append(begin)
            body = whole[begin:end]
            self.wfile.write(body[: self.server.breaks.pop(0)] if self.server.breaks else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[WebServer]:
    """A web server without files."""
    with serving(WebServer()) as server:
        yield server
