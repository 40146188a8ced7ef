"""A real HTTP server that takes what is posted to it, as an incoming webhook does."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Listening:
    """What was posted so far, and how the next posts are answered: 200 without `answers`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.messages: list[dict[str, Any]] = []
        self.answers: list[tuple[int, object]] = []

    def texts(self) -> list[str]:
        """The `text` of each message."""
        return [message.get("text", "") for message in self.messages]


@contextmanager
def listening(path: str = "/hooks/very-secret") -> Iterator[Listening]:
    """A server on a free port, for the time of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, body = heard.answers.pop(0) if heard.answers else (200, "ok")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the tests' output is not the place."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    heard = Listening(f"http://127.0.0.1:{server.server_port}{path}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
