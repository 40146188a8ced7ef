"""Download of a git repository: the files of a commit in tars, with the licence that it states."""

import subprocess
import tarfile
from pathlib import Path

import pytest
from fetching import download, fetched, forget, lock, sha256
from tiny import ROOT

from stages.documents import read_manifest
from stages.download.licence import licence_of
from stages.locked import entry
from stages.newest import newest
from stages.params import Refusal

pytestmark = pytest.mark.usefixtures("empty_project")

MIT = (
    "Copyright (c) 2026 A. Maker\n\nPermission is hereby granted, free of charge, to any person\nobtaining a copy of\n"
)


def git(*arguments: str) -> str:
    author = ["-c", "user.name=maker", "-c", "user.email=maker@localhost"]
    done = subprocess.run(["git", *author, *arguments], cwd="code", check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(**files: str) -> str:
    """Write files (by path, with __ for /), and commit them; the commit."""
    for name, text in files.items():
        path = Path("code") / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    git("add", "--all")
    git("commit", "--quiet", "--message", "more")
    return git("rev-parse", "HEAD")


@pytest.fixture
def code() -> str:
    """A repository; its URL."""
    Path("code").mkdir()
    git("init", "--quiet", "--initial-branch", "main")
    commit(LICENSE=MIT, a_dot_py="one = 1\n", lib__b_dot_py="two = 2\n", lib__c_dot_txt="three\n")
    return f"file://{Path('code').absolute()}"


def a_repository(url: str, **more: object) -> dict[str, object]:
    return {"kind": "git", "url": url, "files": ["**/*.py", "!lib/x*"], **more}


def members(folder: Path) -> dict[str, str]:
    """The text of each member of each tar, by tar and name."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for entry in archive:
                content = archive.extractfile(entry)
                assert content
                assert (entry.mtime, entry.uid, entry.uname) == (0, 0, "")
                found[f"{path.name}!{entry.name}"] = content.read().decode()
    return found


@pytest.mark.parametrize("by_path", [True, False])
def test_the_files_that_globs_match_are_put_into_a_tar_with_commit_and_licence(code, by_path):
    Path("code/link.py").symlink_to("/etc/passwd")
    head = commit(lib__x_dot_py="excluded\n")

    folder = fetched(a_repository("code" if by_path else code))

    assert members(folder) == {"files-00000.tar!a.py": "one = 1\n", "files-00000.tar!lib/b.py": "two = 2\n"}
    assert read_manifest(folder)["about"] == {"license": "MIT", "revision": head}


def test_a_branch_that_moved_changes_nothing_until_it_is_locked(code):
    first = lock(a_repository(code))
    forget()
    commit(a_dot_py="one = 111\n")

    before = members(download(a_repository(code)))
    after = members(fetched(a_repository(code)))

    assert before["files-00000.tar!a.py"] == "one = 1\n"
    assert after["files-00000.tar!a.py"] == "one = 111\n"
    assert lock(a_repository(code)).revision != first.revision


def test_the_newest_revision_is_looked_up_and_what_is_locked_is_not_made_again(code):
    section = a_repository(code)
    before = lock(section)
    forget()

    same = newest("texts")
    tars = list(Path("scratch").rglob("*.tar"))
    head = commit(a_dot_py="one = 111\n")
    newer = newest("texts")

    assert same == {"download": section, "lock": entry(before)}
    assert tars == []
    assert newer["lock"]["revision"] == head


def test_a_tar_ends_with_the_file_that_fills_it_and_is_the_same_bytes_again(code):
    section = a_repository(code, shard_bytes=8)
    first = fetched(section)
    digests = {path.name: sha256(path.read_bytes()) for path in first.glob("*.tar")}
    forget()

    again = download(section)

    assert sorted(digests) == ["files-00000.tar", "files-00001.tar"]
    assert {path.name: sha256(path.read_bytes()) for path in again.glob("*.tar")} == digests


def test_a_commit_that_is_no_tip_is_found_and_another_than_was_locked_is_refused(code):
    old = git("rev-parse", "HEAD")
    new = commit(a_dot_py="one = 111\n")

    folder = fetched(a_repository(code, revision=old))

    assert members(folder)["files-00000.tar!a.py"] == "one = 1\n"
    with pytest.raises(Refusal, match=rf"@{new}\?.*|revision {new} \(locked: {old}\)"):
        download(a_repository(code, revision=new))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"revision": "nosuch"}, r"git fetch failed .*nosuch.*correct the URL, the revision"),
        ({"revision": "0" * 40}, r"has no commit 0{40} on a branch or tag"),
        ({"files": ["*.rs"]}, r"has no file at \w+ that matches \*\.rs; correct the globs"),
        ({"url": "absent"}, r"git fetch failed"),
        ({"url": "http://127.0.0.1:9/x.git"}, r"git can't reach it .*check the network"),
        ({"url": "--upload-pack=x"}, r"texts.download.url is '--upload-pack=x'"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_sentence(code, more, sentence):
    with pytest.raises(Refusal, match=sentence):
        lock({**a_repository(code), **more})


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (MIT, "MIT"),
        ((ROOT / "LICENSE").read_text(encoding="utf-8"), "Apache-2.0"),
        ("GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007", "GPL-3.0"),
        (
            "/* Redistribution and use in source and binary\n * forms ... retain the above copyright notice */",
            "BSD-2-Clause",
        ),
        ("All rights reserved.", None),
        ("", None),
    ],
)
def test_a_licence_is_known_by_its_phrases(text, licence):
    assert licence_of(text) == licence
