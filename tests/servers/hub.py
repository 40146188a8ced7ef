"""A stand-in for the hub's HTTP interface: datasets with commits, their trees, and their files by range."""

import json
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from serving import serving


class Hub(ThreadingHTTPServer):
    """One dataset, `maker/texts`: its commits in order, each with its files; `main` is the last one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []  # method and path of each
        self.faults: list[int] = []  # statuses of the next answers with a file's content

    @property
    def url(self) -> str:
        """Its URL, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, files: dict[str, bytes]) -> str:
        """Make these files the newest commit; its id."""
        name = sha1(json.dumps({path: content.hex() for path, content in files.items()}).encode()).hexdigest()
        self.commits[name] = files
        return name

    def files_at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision and its files."""
        name = list(self.commits)[-1] if revision == "main" else revision
        return (name, self.commits[name]) if name in self.commits else None


def _described(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": sha1(content).hexdigest()}


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:3] == ["api", "datasets", "maker"] and parts[3:4] == ["texts"]:
            self._api(parts[4:], body)
        elif parts[:4] == ["datasets", "maker", "texts", "resolve"]:
            self._content(parts[4], "/".join(parts[5:]))
        else:
            self._missing("RepoNotFound")

    do_HEAD = do_POST = do_GET  # noqa: N815

    def _api(self, parts: list[str], body: bytes) -> None:
        what, revision, *path = parts or [*parts, "revision", "main"]
        found = self.server.files_at(revision)
        if not found:
            self._missing("RevisionNotFound")
            return
        commit, files = found
        folder = "/".join(path)
        if what == "revision":
            siblings = [{"rfilename": name} for name in sorted(files)]
            self._json(
                {"_id": "1", "id": "maker/texts", "sha": commit, "private": False, "tags": [], "siblings": siblings}
            )
        elif what == "tree":
            listed = [_described(name, files[name]) for name in sorted(files) if name.startswith(folder)]
            folders = {name.rpartition("/")[0] for name in files if "/" in name}
            listed += [
                {"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in sorted(folders - {folder})
            ]
            self._json(listed) if listed else self._missing("EntryNotFound")
        elif what == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith(b"{") else []
            folders = {name.rpartition("/")[0] for name in files if "/" in name}
            self._json(
                [_described(name, files[name]) for name in asked if name in files]
                + [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in asked if name in folders]
            )
        else:
            self._missing("EntryNotFound")

    def _content(self, revision: str, path: str) -> None:
        found = self.server.files_at(revision)
        if not found or path not in found[1]:
            self._missing("EntryNotFound" if found else "RevisionNotFound")
            return
        commit, files = found
        whole = files[path]
        begin, end, status = 0, len(whole), 200
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end, status = int(first), min(end, int(last or end) + 1), 206
        if self.command == "GET" and self.server.faults:
            self._answer(self.server.faults.pop(0), b"busy", {})
            return
        headers = {"ETag": f'"{sha1(whole).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if status == 206:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(whole)}"
        self._answer(status, whole[begin:end], headers)

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str) -> None:
        self._answer(404, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub without commits."""
    with serving(Hub()) as server:
        yield server
