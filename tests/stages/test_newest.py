"""The newest revision of a source: asked for, never older than the pinned one, and nothing is changed."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile

import pytest
import yaml

from stages.download.scratch import digest_of
from stages.newest import newest
from stages.params import Refusal


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project; pip takes the folder `wheels` for its only index."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "PEDIGREE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wheels").mkdir()
    return tmp_path


def wheel(project, version, tag="py3-none-any"):
    """Put a wheel of `texts` into the index; its digest."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        info = f"texts-{version}.dist-info"
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: texts\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        file.writestr(f"{info}/RECORD", "")
    (project / "wheels" / f"texts-{version}-{tag}.whl").write_bytes(content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def pin(project, **section):
    params = {"sources": {"web": {"download": section}}}
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def package(version, sha256=None, **more):
    expected = {"sha256": sha256} if sha256 else {}
    return {"kind": "package", "packages": [{"name": "texts", "version": version, **expected, **more}]}


def test_a_package_gets_the_newest_wheel_that_fits(project):
    wheel(project, "1.0")
    digest = wheel(project, "1.10")
    wheel(project, "2.0", tag="cp311-cp311-win_amd64")
    wheel(project, "3.0rc1")
    pin(project, **package("1.9", "0" * 64))

    found = newest("web")

    assert found["download"] == package("1.10", digest)
    [file] = found["lock"]["files"]
    assert (file["name"], file["sha256"], file["url"]) == ("texts.whl", digest, "pkg:pypi/texts@1.10")


def test_a_package_without_an_expected_digest_gets_none(project):
    wheel(project, "1.1")
    pin(project, **package("1.0"))

    assert newest("web")["download"] == package("1.1")


def test_the_platform_decides_too(project):
    wheel(project, "1.0")
    digest = wheel(project, "2.0", tag="cp311-cp311-win_amd64")
    pin(project, **package("1.0", "0" * 64, platform="win_amd64"))

    done = subprocess.run([sys.executable, "-m", "stages.newest", "web"], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout)["download"] == package("2.0", digest, platform="win_amd64")


def test_an_index_that_went_back_is_refused(project):
    wheel(project, "1.0")
    pin(project, **package("2.0", "0" * 64))

    with pytest.raises(Refusal, match=r"texts: the index has no wheel from 2\.0 on"):
        newest("web")


def test_files_are_listed_and_pinned_anew(project):
    (project / "corpus").mkdir()
    for name in ("one.txt", "two.txt"):
        (project / "corpus" / name).write_text(f"now {name}")
    pin(project, kind="files", urls=["corpus/*.txt"], sha256={"one.txt": "0" * 64, "gone.txt": "1" * 64})

    found = newest("web")

    digests = {name: digest_of(project / "corpus" / name) for name in ("one.txt", "two.txt")}
    assert found["download"] == {"kind": "files", "urls": ["corpus/*.txt"], "sha256": digests}
    assert {file["name"]: file["sha256"] for file in found["lock"]["files"]} == digests


def test_of_files_without_expected_digests_only_the_lock_is_new(project):
    (project / "one.txt").write_text("now")
    pin(project, kind="files", urls=["*.txt"])

    found = newest("web")

    assert found["download"] == {"kind": "files", "urls": ["*.txt"]}
    assert [file["sha256"] for file in found["lock"]["files"]] == [digest_of(project / "one.txt")]


def test_a_missing_file_is_refused_in_one_sentence(project):
    pin(project, kind="files", urls=["corpus/one.txt"], sha256={"one.txt": "0" * 64})

    done = subprocess.run([sys.executable, "-m", "stages.newest", "web"], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: corpus/one.txt: there is no such file; correct the URL in params.yaml\n"
