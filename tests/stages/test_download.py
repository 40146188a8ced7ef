"""Download: pinned wheels and files, verified, resumed, or refused in one sentence."""

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from stages import download
from stages.documents import read_manifest
from stages.params import Refusal

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project folder with pip cut off from whatever index this machine is set up for."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in list(os.environ):
        if name.startswith(("PIP_", "PEDIGREE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setattr(download, "FIRST_WAIT_SECONDS", 0.001)
    return folder


def run_download(monkeypatch, section: dict[str, object]) -> Path:
    """The folder that the stage filled for a source `texts` with this download section."""
    Path("params.yaml").write_text(yaml.safe_dump({"sources": {"texts": {"download": section}}}))
    monkeypatch.setattr(sys, "argv", ["download", "texts"])
    download.main()
    return Path("data/download/texts")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- wheels -----------------------------------------------------------------------------------------------


def a_wheel(folder: Path, name: str = "texts", tag: str = "py3-none-any") -> str:
    """Put a wheel into `folder` and return its digest."""
    info = f"{name}-1.0.dist-info"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        wheel.writestr(zipfile.ZipInfo(f"{name}/one.txt"), f"one text of {tag}")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")
    folder.mkdir(exist_ok=True)
    (folder / f"{name}-1.0-{tag}.whl").write_bytes(content.getvalue())
    return sha256(content.getvalue())


def a_package(digest: str, **more: str) -> dict[str, object]:
    return {"kind": "package", "packages": [{"name": "texts", "version": "1.0", "sha256": digest, **more}]}


@pytest.fixture
def wheels(tmp_path, monkeypatch, project):
    """A folder that pip takes for its only index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "wheels"


def test_a_wheel_is_fetched_verified_and_named_without_its_version(monkeypatch, wheels):
    digest = a_wheel(wheels)

    folder = run_download(monkeypatch, a_package(digest))

    assert sha256((folder / "texts.whl").read_bytes()) == digest
    manifest = read_manifest(folder)
    assert manifest["counts"] == {"files": 1}
    assert [(shard["path"], shard["sha256"]) for shard in manifest["shards"]] == [("texts.whl", digest)]


def test_the_wheel_of_the_pinned_platform_is_chosen_whatever_this_machine_is(monkeypatch, wheels):
    a_wheel(wheels, tag="cp311-cp311-win_amd64")
    digest = a_wheel(wheels, tag="cp312-cp312-macosx_11_0_arm64")

    folder = run_download(monkeypatch, a_package(digest, platform="macosx_11_0_arm64", python="3.12"))

    assert sha256((folder / "texts.whl").read_bytes()) == digest


def test_without_a_platform_the_wheel_for_any_is_chosen(monkeypatch, wheels):
    here = f"cp{sys.version_info.major}{sys.version_info.minor}"
    a_wheel(wheels, tag=f"{here}-{here}-manylinux2014_x86_64")
    digest = a_wheel(wheels)

    folder = run_download(monkeypatch, a_package(digest))

    assert sha256((folder / "texts.whl").read_bytes()) == digest


def test_a_wheel_that_was_fetched_once_needs_no_index(monkeypatch, wheels):
    digest = a_wheel(wheels)
    run_download(monkeypatch, a_package(digest))
    (wheels / "texts-1.0-py3-none-any.whl").unlink()

    folder = run_download(monkeypatch, a_package(digest))

    assert sha256((folder / "texts.whl").read_bytes()) == digest


def test_a_damaged_file_in_scratch_is_not_trusted(monkeypatch, wheels):
    digest = a_wheel(wheels)
    kept = Path("scratch/download") / digest
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"half a whe")

    folder = run_download(monkeypatch, a_package(digest))

    assert sha256((folder / "texts.whl").read_bytes()) == digest


def test_another_digest_is_refused_with_both(monkeypatch, wheels):
    digest, pinned = a_wheel(wheels), "0" * 64

    with pytest.raises(Refusal, match=rf"^texts==1\.0: .*sha256 {digest}, pinned is {pinned}"):
        run_download(monkeypatch, a_package(pinned))

    assert not Path("data/download/texts/manifest.json").exists()


def test_a_version_that_the_index_lacks_is_refused_at_once(monkeypatch, wheels):
    digest = a_wheel(wheels)
    section = {"kind": "package", "packages": [{"name": "texts", "version": "9.9", "sha256": digest}]}

    with pytest.raises(Refusal, match=r"^texts==9\.9: pip can't download the wheel .*from versions: 1\.0"):
        run_download(monkeypatch, section)


def test_a_package_named_twice_is_refused(monkeypatch, wheels):
    package = {"name": "texts", "version": "1.0", "sha256": "0" * 64}

    with pytest.raises(Refusal, match="package texts is named twice"):
        run_download(monkeypatch, {"kind": "package", "packages": [package, package]})


def test_an_index_out_of_reach_is_one_sentence_and_exit_code_2(monkeypatch, project):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    section = {"sources": {"texts": {"download": a_package("0" * 64)}}}
    Path("params.yaml").write_text(yaml.safe_dump(section))
    quick = "import sys; from stages import download, process; download.ATTEMPTS = 1; process.run(download.main)"

    done = subprocess.run(
        [sys.executable, "-c", quick, "texts"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: texts==1.0: the package index at 127.0.0.1:9 can't be reached; check the network and `pip config list`"
    )
    assert "Traceback" not in done.stderr


# ---- files ------------------------------------------------------------------------------------------------


def files(*urls: str, **sha256: str) -> dict[str, object]:
    return {"kind": "files", "urls": list(urls), "sha256": {name.replace("_", "."): it for name, it in sha256.items()}}


def test_local_files_are_found_by_name_and_by_glob_relative_to_the_project(monkeypatch, project):
    Path("texts").mkdir()
    for name in ("b.txt", "a.txt", "c.md"):
        Path("texts", name).write_text(name)

    folder = run_download(monkeypatch, files("texts/*.txt", "texts/c.md"))

    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "b.txt", "c.md", "manifest.json"]
    assert read_manifest(folder)["counts"] == {"files": 3}
    assert (folder / "a.txt").read_text() == "a.txt"


def test_a_source_downloaded_twice_gives_the_same_manifest(monkeypatch, project):
    Path("a.txt").write_text("a")
    first = (run_download(monkeypatch, files("a.txt")) / "manifest.json").read_bytes()

    second = (run_download(monkeypatch, files("a.txt")) / "manifest.json").read_bytes()

    assert first == second


def test_a_changed_local_file_is_read_again(monkeypatch, project):
    Path("a.txt").write_text("old")
    run_download(monkeypatch, files("a.txt"))
    Path("a.txt").write_text("new")
    os.utime("a.txt", (1, 1))

    folder = run_download(monkeypatch, files("a.txt"))

    assert (folder / "a.txt").read_text() == "new"


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        (files("absent.txt"), "absent.txt: there is no such file"),
        (files("absent/*.txt"), r"absent/\*.txt: no file matches"),
        (files("a.txt", "other/a.txt"), "the file name 'a.txt' is taken"),
        (files("manifest.json"), "the file name 'manifest.json' is taken"),
        (files("nosuch://a.txt"), "Protocol not known: nosuch"),
        (files("a.txt", b_txt="0" * 64), "sha256 names b.txt, which is none of the files"),
        (files("a.txt", a_txt="0" * 64), f"a.txt: sha256 is {sha256(b'a')}, pinned is {'0' * 64}"),
        ({"kind": "file", "urls": ["a.txt"]}, r"sources.texts.download.kind is 'file'"),
        ({"kind": "files", "urls": []}, r"sources.texts.download.urls is \[\]"),
        ({"kind": "files", "url": "a.txt"}, "download.url is not a parameter"),
        (a_package("short"), "download.packages.0.sha256 is 'short'"),
    ],
)
def test_what_cannot_be_fetched_is_refused_by_name(monkeypatch, project, section, sentence):
    Path("a.txt").write_text("a")

    with pytest.raises(Refusal, match=sentence):
        run_download(monkeypatch, section)

    assert not Path("data/download/texts/manifest.json").exists()


# ---- a web server that fails on demand --------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves `content` at every path; the first answers with a body break off after `breaks` bytes, in turn."""

    daemon_threads = True
    content = b""
    seekable = True
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.breaks: list[int] = []
        self.begins: list[int] = []

    def url(self, name: str = "a.txt") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.answer(0, len(self.server.content), self.server.status)

    def do_GET(self) -> None:
        begin, end = 0, len(self.server.content)
        if self.server.seekable and (asked := self.headers.get("Range")):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(end, int(last or end) + 1)
        self.server.begins.append(begin)
        self.answer(begin, end, self.server.status if end - begin == len(self.server.content) else 206)
        if self.server.status == 200:
            whole = self.server.content[begin:end]
            self.wfile.write(whole[: self.server.breaks.pop(0)] if self.server.breaks else whole)

    def answer(self, begin: int, end: int, status: int) -> None:
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Length", str(end - begin if status < 400 else 0))
        self.send_header("ETag", f'"{sha256(self.server.content)[:8]}"')
        self.send_header("Connection", "close")
        if self.server.seekable:
            self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(self.server.content)}")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(project) -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


LARGE = bytes(range(256)) * 8192  # 2 MB


def test_a_file_of_a_web_server_is_fetched_under_its_own_name(monkeypatch, server):
    server.content = b"a text of the web"

    folder = run_download(monkeypatch, files(server.url("b%20c.txt?version=1")))

    assert (folder / "b c.txt").read_bytes() == server.content


@pytest.mark.parametrize("seekable", [True, False])
def test_a_dropped_connection_is_tried_again(monkeypatch, server, seekable):
    server.content, server.seekable = LARGE, seekable
    server.breaks = [1_500_000, 200_000]  # less than fits a buffer may be lost whole

    folder = run_download(monkeypatch, files(server.url(), a_txt=sha256(LARGE)))

    assert (folder / "a.txt").read_bytes() == LARGE
    assert server.breaks == []
    assert (max(server.begins) > 0) == seekable


def test_a_download_that_was_given_up_goes_on_where_it_stopped(monkeypatch, server):
    server.content = LARGE
    server.breaks = [1_500_000]
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(Refusal, match="check the network"):
        run_download(monkeypatch, files(server.url()))
    server.begins = []

    folder = run_download(monkeypatch, files(server.url()))

    assert (folder / "a.txt").read_bytes() == LARGE
    assert len(server.begins) == 1
    assert server.begins[0] > 100_000


def test_parts_of_two_versions_are_never_joined(monkeypatch, server):
    server.content = LARGE
    server.breaks = [1_500_000]
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(Refusal):
        run_download(monkeypatch, files(server.url()))
    server.content = LARGE[::-1]

    folder = run_download(monkeypatch, files(server.url()))

    assert (folder / "a.txt").read_bytes() == LARGE[::-1]


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(404, "there is no such file"), (403, "can't be read .*403"), (503, "can't be read .*503.*check the network")],
)
def test_a_web_server_that_says_no_is_quoted(monkeypatch, server, status, sentence):
    server.status = status

    with pytest.raises(Refusal, match=sentence):
        run_download(monkeypatch, files(server.url()))


def test_a_closed_port_is_network_trouble(monkeypatch, project):
    with pytest.raises(Refusal, match=r"http://127.0.0.1:9/a.txt: can't be read .*check the network"):
        run_download(monkeypatch, files("http://127.0.0.1:9/a.txt"))


def test_nothing_of_the_machine_or_the_time_is_in_the_manifest(monkeypatch, project):
    Path("a.txt").write_text("a")

    folder = run_download(monkeypatch, files(str(project / "a.txt")))

    shard = {"path": "a.txt", "bytes": 1, "sha256": sha256(b"a")}
    assert json.loads((folder / "manifest.json").read_text()) == {"counts": {"files": 1}, "shards": [shard]}
