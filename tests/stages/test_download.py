"""Download: pinned wheels and files, verified, resumed, or refused in one sentence."""

import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from fetching import choose, download, fetched, forget, lock, sha256
from tiny import ROOT

from stages import remote
from stages.documents import read_manifest
from stages.params import Refusal

pytestmark = pytest.mark.usefixtures("empty_project")

# ---- wheels -----------------------------------------------------------------------------------------------


def a_wheel(folder: Path, name: str = "texts", tag: str = "py3-none-any", text: str = "a text") -> str:
    """Put a wheel into `folder` and return its digest."""
    info = f"{name}-1.0.dist-info"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        wheel.writestr(zipfile.ZipInfo(f"{name}/one.txt"), f"{text} of {tag}")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")
    folder.mkdir(exist_ok=True)
    (folder / f"{name}-1.0-{tag}.whl").write_bytes(content.getvalue())
    return sha256(content.getvalue())


def a_package(digest: str | None = None, **more: str) -> dict[str, object]:
    expected = {"sha256": digest} if digest else {}
    return {"kind": "package", "packages": [{"name": "texts", "version": "1.0", **expected, **more}]}


@pytest.fixture
def wheels(tmp_path, monkeypatch, empty_project):
    """A folder that pip takes for its only index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "wheels"


def test_a_wheel_is_fetched_verified_and_named_without_its_version(wheels):
    digest = a_wheel(wheels)

    folder = fetched(a_package(digest))

    assert sha256((folder / "texts.whl").read_bytes()) == digest
    manifest = read_manifest(folder)
    assert manifest["counts"] == {"files": 1}
    assert [(shard["path"], shard["sha256"]) for shard in manifest["shards"]] == [("texts.whl", digest)]


def test_the_wheel_of_the_pinned_platform_is_chosen_whatever_this_machine_is(wheels):
    a_wheel(wheels, tag="cp311-cp311-win_amd64")
    digest = a_wheel(wheels, tag="cp312-cp312-macosx_11_0_arm64")

    folder = fetched(a_package(digest, platform="macosx_11_0_arm64", python="3.12"))

    assert sha256((folder / "texts.whl").read_bytes()) == digest


def test_without_a_platform_the_wheel_for_any_is_chosen(wheels):
    here = f"cp{sys.version_info.major}{sys.version_info.minor}"
    a_wheel(wheels, tag=f"{here}-{here}-manylinux2014_x86_64")
    digest = a_wheel(wheels)

    folder = fetched(a_package(digest))

    assert sha256((folder / "texts.whl").read_bytes()) == digest


def test_a_wheel_that_was_fetched_once_needs_no_index(wheels):
    digest = a_wheel(wheels)
    fetched(a_package(digest))
    (wheels / "texts-1.0-py3-none-any.whl").unlink()

    folder = download(a_package(digest))

    assert sha256((folder / "texts.whl").read_bytes()) == digest


def test_a_damaged_file_in_scratch_is_not_trusted(wheels):
    digest = a_wheel(wheels)
    lock(a_package(digest))
    (Path("scratch/download") / digest).write_bytes(b"half a whe")

    folder = download(a_package(digest))

    assert sha256((folder / "texts.whl").read_bytes()) == digest


def test_another_digest_than_was_expected_is_refused_with_both(wheels):
    digest, expected = a_wheel(wheels), "0" * 64

    with pytest.raises(Refusal, match=rf"^texts==1\.0: .*sha256 {digest}, expected in params.yaml is {expected}"):
        fetched(a_package(expected))

    assert not Path("data/download/texts/manifest.json").exists()


def test_a_version_that_the_index_lacks_is_refused_at_once(wheels):
    digest = a_wheel(wheels)
    section = {"kind": "package", "packages": [{"name": "texts", "version": "9.9", "sha256": digest}]}

    with pytest.raises(Refusal, match=r"^texts==9\.9: pip can't download the wheel .*from versions: 1\.0"):
        fetched(section)


def test_a_package_named_twice_is_refused(wheels):
    package = {"name": "texts", "version": "1.0", "sha256": "0" * 64}

    with pytest.raises(Refusal, match="package texts is named twice"):
        fetched({"kind": "package", "packages": [package, package]})


def test_an_index_out_of_reach_is_one_sentence_and_exit_code_2(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    choose(a_package("0" * 64))
    quick = "from stages import lock, process, remote; remote.ATTEMPTS = 1; process.run(lock.main)"

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


def test_another_wheel_of_the_same_version_is_drift_until_it_is_locked(wheels):
    locked = a_wheel(wheels)
    lock(a_package())
    forget()
    found = a_wheel(wheels, text="another text")

    with pytest.raises(Refusal, match=rf"^source texts is not .*sha256 {found} \(locked: .*sha256 {locked}\);"):
        download(a_package())
    folder = fetched(a_package())

    assert sha256((folder / "texts.whl").read_bytes()) == found


def test_another_version_than_was_locked_is_drift(wheels):
    a_wheel(wheels)
    lock(a_package())

    with pytest.raises(Refusal, match=r"texts.whl is pkg:pypi/texts@2.0 \(locked: pkg:pypi/texts@1.0\)"):
        download(a_package(version="2.0"))


# ---- files ------------------------------------------------------------------------------------------------


def files(*urls: str, by_reference: bool = False, **sha256: str) -> dict[str, object]:
    expected = {name.replace("_", "."): digest for name, digest in sha256.items()}
    return {"kind": "files", "urls": list(urls), "sha256": expected, "by_reference": by_reference}


def test_local_files_are_found_by_name_and_by_glob_relative_to_the_project():
    Path("texts").mkdir()
    for name in ("b.txt", "a.txt", "c.md"):
        Path("texts", name).write_text(name)

    folder = fetched(files("texts/*.txt", "texts/c.md"))

    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "b.txt", "c.md", "manifest.json"]
    assert read_manifest(folder)["counts"] == {"files": 3}
    assert (folder / "a.txt").read_text() == "a.txt"


def test_a_source_downloaded_twice_gives_the_same_manifest():
    Path("a.txt").write_text("a")
    first = (fetched(files("a.txt")) / "manifest.json").read_bytes()

    second = (fetched(files("a.txt")) / "manifest.json").read_bytes()

    assert first == second


def test_a_changed_local_file_is_refused_until_it_is_locked():
    Path("a.txt").write_text("old")
    fetched(files("a.txt"))
    Path("a.txt").write_text("new")
    os.utime("a.txt", (1, 1))

    with pytest.raises(Refusal, match=rf"a.txt has 3 bytes, sha256 {sha256(b'new')} \(locked: 3 bytes, sha256 "):
        download(files("a.txt"))
    folder = fetched(files("a.txt"))

    assert (folder / "a.txt").read_text() == "new"


def test_files_that_came_or_went_are_refused_by_name():
    for name in "ab":
        Path(f"{name}.txt").write_text(name)
    lock(files("*.txt"))
    Path("a.txt").rename("c.txt")

    with pytest.raises(Refusal, match=r"has: c.txt is new, a.txt is gone; run `pedigree lock texts`"):
        download(files("*.txt"))


def test_a_source_that_is_not_locked_is_refused():
    Path("a.txt").write_text("a")

    with pytest.raises(Refusal, match=r"sources.lock has no source texts; run `pedigree lock texts`, and commit"):
        download(files("a.txt"))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"bytes": 1', '"bytes": 2', "texts was changed by hand or by a merge; run `pedigree lock texts`"),
        ("kind: files", "kind: [", "is not as `pedigree lock` writes it .*; restore it, or remove it"),
        ('{"name"', "{name", "is not as `pedigree lock` writes it .*; restore it, or remove it"),
        ('"bytes": 1', '"size": 1', r"texts.files.0.bytes is missing; add it"),
    ],
)
def test_a_lock_that_was_changed_by_hand_is_not_trusted(old, new, sentence):
    Path("a.txt").write_text("a")
    lock(files("a.txt"))
    Path("sources.lock").write_text(Path("sources.lock").read_text().replace(old, new))

    with pytest.raises(Refusal, match=sentence):
        download(files("a.txt"))


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        (files("absent.txt"), "absent.txt: there is no such file"),
        (files("absent/*.txt"), r"absent/\*.txt: no file matches"),
        (files("a.txt", "other/a.txt"), "the file name 'a.txt' is taken"),
        (files("manifest.json"), "the file name 'manifest.json' is taken"),
        (files("nosuch://a.txt"), "Protocol not known: nosuch"),
        (files("gs://bucket/a.txt"), r"gs:// needs gcsfs; run `pip install gcsfs`"),
        (files("a.txt", by_reference=True), "a.txt is a file of this machine; only a URL can be taken by reference"),
        (files("a.txt", b_txt="0" * 64), "sha256 names b.txt, which is none of the files"),
        (files("a.txt", a_txt="0" * 64), f"a.txt: sha256 is {sha256(b'a')}, expected in params.yaml is {'0' * 64}"),
        ({"kind": "file", "urls": ["a.txt"]}, r"sources.texts.download.kind is 'file'"),
        ({"kind": "files", "urls": []}, r"sources.texts.download.urls is \[\]"),
        ({"kind": "files", "url": "a.txt"}, "download.url is not a parameter"),
        (a_package("short"), "download.packages.0.sha256 is 'short'"),
    ],
)
def test_what_cannot_be_fetched_is_refused_by_name(section, sentence):
    Path("a.txt").write_text("a")

    with pytest.raises(Refusal, match=sentence):
        fetched(section)

    assert not Path("data/download/texts/manifest.json").exists()


# ---- a web server that fails on demand --------------------------------------------------------------------


LARGE = bytes(range(256)) * 8192  # 2 MB


def test_a_file_of_a_web_server_is_fetched_under_its_own_name(web):
    web.files["b c.txt"] = b"a text of the web"

    folder = fetched(files(web.url("b%20c.txt?version=1")))

    assert (folder / "b c.txt").read_bytes() == b"a text of the web"


@pytest.mark.parametrize("seekable", [True, False])
def test_a_dropped_connection_is_tried_again(web, seekable):
    web.files["a.txt"], web.seekable = LARGE, seekable
    web.breaks = [1_500_000, 200_000]  # less than fits a buffer may be lost whole

    folder = fetched(files(web.url(), a_txt=sha256(LARGE)))

    assert (folder / "a.txt").read_bytes() == LARGE
    assert web.breaks == []
    assert (max(web.begins) > 0) == seekable


def test_a_download_that_was_given_up_goes_on_where_it_stopped(monkeypatch, web):
    web.files["a.txt"] = LARGE
    web.breaks = [1_500_000]
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    with pytest.raises(Refusal, match="check the network"):
        fetched(files(web.url()))
    web.begins = []

    folder = fetched(files(web.url()))

    assert (folder / "a.txt").read_bytes() == LARGE
    assert len(web.begins) == 1
    assert web.begins[0] > 100_000


def test_parts_of_two_versions_are_never_joined(monkeypatch, web):
    web.files["a.txt"] = LARGE
    web.breaks = [1_500_000]
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    with pytest.raises(Refusal):
        fetched(files(web.url()))
    web.files["a.txt"] = LARGE[::-1]

    folder = fetched(files(web.url()))

    assert (folder / "a.txt").read_bytes() == LARGE[::-1]


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(404, "there is no such file"), (403, "can't be read .*403"), (503, "can't be read .*503.*check the network")],
)
def test_a_web_server_that_says_no_is_quoted(web, status, sentence):
    web.status = status

    with pytest.raises(Refusal, match=sentence):
        fetched(files(web.url()))


def test_a_busy_server_is_asked_again(web):
    web.files["a.txt"] = b"a"
    web.statuses = [503, 429, 503]

    folder = fetched(files(web.url()))

    assert (folder / "a.txt").read_bytes() == b"a"


def test_what_the_server_calls_the_same_version_is_not_read_again_to_lock_it(web):
    web.files["a.txt"] = b"a"
    first = lock(files(web.url()))
    web.begins = []

    again = lock(files(web.url()))
    web.files["a.txt"] = b"b"
    other = lock(files(web.url()))

    assert again == first
    assert len(web.begins) == 1
    assert other.digest != first.digest


def test_a_remote_file_that_was_fetched_once_is_taken_as_it_was_locked(web):
    web.files["a.txt"] = b"a"
    lock(files(web.url()))
    web.files["a.txt"] = b"b"

    folder = download(files(web.url()))
    forget()

    assert (folder / "a.txt").read_bytes() == b"a"
    with pytest.raises(Refusal, match=r"a.txt has 1 bytes, .*run `pedigree lock texts`"):
        download(files(web.url()))


def test_servers_are_asked_at_the_pace_of_the_source(monkeypatch, web):
    web.files["a.txt"] = b"a"
    monkeypatch.setenv("PEDIGREE_REQUESTS_PER_SECOND", "1000,texts=5")
    begin = time.monotonic()

    lock(files(web.url()))

    assert time.monotonic() - begin > 0.39  # three requests or more


def test_a_closed_port_is_network_trouble():
    with pytest.raises(Refusal, match=r"http://127.0.0.1:9/a.txt: can't be read .*check the network"):
        fetched(files("http://127.0.0.1:9/a.txt"))


def test_nothing_of_the_machine_or_the_time_is_in_the_manifest():
    Path("a.txt").write_text("a")

    folder = fetched(files(str(Path("a.txt").absolute())))

    shard = {"path": "a.txt", "bytes": 1, "sha256": sha256(b"a")}
    assert json.loads((folder / "manifest.json").read_text()) == {"counts": {"files": 1}, "shards": [shard]}
