"""Builds with a remote in a real S3 server: what is pushed, what is downloaded, and what goes wrong on the way."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from stored import Clone, builder, make_clone

from flows.rebuild import rebuild

# DVC 3.67 reads the graph through a deprecated property of pygtrie's.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


@pytest.fixture
def toy(tmp_path, s3) -> Clone:
    """One stage, not built yet."""
    return make_clone(tmp_path / "toy", s3.url("dvc"), s3.environment, {"numbers": []})


@pytest.fixture(scope="module")
def built(tmp_path_factory, s3) -> Clone:
    """Built, pushed and committed, for tests that only clone it."""
    toy = make_clone(tmp_path_factory.mktemp("built") / "toy", s3.url("dvc"), s3.environment)
    done = toy.build()
    assert done.returncode == 0, done.stderr
    assert len(stored(toy, s3)) == 9  # 2 files, a list of 3 files, those, and 3 entries of the run-cache
    toy.commit()
    return toy


def copied(clone: Clone, folder: Path) -> Clone:
    """A copy of all that a clone has, its cache too."""
    shutil.copytree(clone.folder, folder, symlinks=True)
    return replace(clone, folder=folder, environment=clone.environment | {"TOY_RUNS": str(folder.parent / "runs.txt")})


def stored(clone: Clone, s3) -> list[str]:
    """The paths of all objects in the remote of `clone`."""
    found = s3.filesystem().find(clone.url.removeprefix("s3://"))
    return [path for path in found if "/files/md5/" in path or "/runs/" in path]


def test_a_fresh_clone_is_built_by_downloading_only(built, tmp_path):
    fresh = built.clone(tmp_path / "fresh")

    done = fresh.build()

    assert done.stdout == "3 stages: 3 restored\n", done.stderr
    assert built.runs() == ["letters", "numbers", "total"]  # once each
    assert fresh.good("git", "status", "--porcelain") == ""


def test_dvc_itself_builds_a_fresh_clone_by_downloading_only(built, tmp_path):
    fresh = built.clone(tmp_path / "fresh")

    fresh.good("dvc", "repro", "--pull")

    assert built.runs() == ["letters", "numbers", "total"]
    assert fresh.good("git", "status", "--porcelain") == ""


def test_what_another_clone_made_of_other_inputs_is_found_in_the_run_cache(built, tmp_path):
    first, second = copied(built, tmp_path / "first"), copied(built, tmp_path / "second")
    for clone in (first, second):
        clone.change("total", "other")

    assert first.build().stdout == "3 stages: 2 cached, 1 ran\n"
    assert second.build().stdout == "3 stages: 2 cached, 1 restored\n"

    assert first.runs() == ["total"]
    assert (first.folder / "dvc.lock").read_text() == (second.folder / "dvc.lock").read_text()


def test_one_stage_alone_gets_what_it_depends_on(built, tmp_path):
    node = built.clone(tmp_path / "node")
    node.change("total", "alone")
    program = (
        "from pathlib import Path; from flows.stage import Children\n"
        "print(Children().repro('total', Path(), print, pull=True).outcome)"
    )

    done = node.run(*builder()[:2], program, TOY_RUNS=str(tmp_path / "runs.txt"))

    assert done.stdout.endswith("ran\n"), done.stdout + done.stderr
    assert (node.folder / "out/numbers/2.txt").exists()


def test_when_nothing_is_stale_the_remote_is_not_asked(built, tmp_path):
    done = copied(built, tmp_path / "copy").build(AWS_ENDPOINT_URL="http://127.0.0.1:9")

    assert done.stdout == "3 stages: 3 cached\n", done.stderr


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "not-the-secret"}, r"refuses these credentials (SignatureDoesNotMatch)"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "there are no credentials for the remote store"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "at 127.0.0.1:9) does not answer"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_sentence(toy, s3, wrong, sentence):
    done = toy.build(**wrong, RETRY_AFTER="0.1")

    assert done.returncode == 2
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    for secret in ("not-the-secret", s3.environment["AWS_ACCESS_KEY_ID"], s3.environment["AWS_SECRET_ACCESS_KEY"]):
        everything = done.stdout + done.stderr + "".join(path.read_text() for path in toy.folder.glob("logs/*"))
        assert secret not in everything


def test_a_bucket_that_is_missing_fails_the_push_and_what_was_built_stays(toy, s3):
    config = toy.folder / ".dvc/config"
    config.write_text(config.read_text().replace(toy.url, "s3://nobody-made-it/dvc"))

    assert "there is no such bucket" in toy.build().stderr.splitlines()[-1]
    assert toy.runs() == []  # it is asked before anything runs


def test_a_build_is_pushed_once_the_store_is_there_again(toy, s3):
    assert toy.build("push=False").returncode == 0
    assert stored(toy, s3) == []

    lost = toy.build(AWS_ENDPOINT_URL="http://127.0.0.1:9", RETRY_AFTER="0.1")
    again = toy.build()

    assert lost.returncode == 2
    assert (toy.folder / "out/numbers").exists()
    assert stored(toy, s3)
    assert again.stdout == "1 stages: 1 cached\n"


def test_a_long_stage_is_pushed_to_a_folder_while_others_run(tmp_path):
    remote = tmp_path / "remote"
    toy = make_clone(tmp_path / "toy", str(remote), {}, {"letters": [], "slow": ["out/letters"]})
    flow = toy.start(*builder(), PEDIGREE_FLOW_PUSH_SECONDS="0")
    try:
        until(lambda: any(path.is_file() for path in remote.glob("runs/**/*")))
        assert toy.runs()[0] == "letters"
        assert not (toy.folder / "out/slow").exists()
    finally:
        Path(toy.environment["TOY_RUNS"]).with_name("go").touch()
        said, _ = flow.communicate(timeout=120)

    assert flow.returncode == 0, said
    assert len([path for path in remote.rglob("*") if path.is_file()]) == 4


def test_what_breaks_off_is_busy_or_slow_ends_right(tmp_path, faulty):
    toy = make_clone(tmp_path / "toy", faulty.behind.url("dvc"), faulty.environment, {"numbers": []})
    faulty.faults = {"drop": 0.15, "busy": 0.15, "slow": 0.1}

    first = toy.build(RETRY_AFTER="0.1", AWS_MAX_ATTEMPTS="4")
    toy.commit()
    fresh = toy.clone(tmp_path / "fresh")
    second = fresh.build(RETRY_AFTER="0.1", AWS_MAX_ATTEMPTS="4")

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert second.stdout == "1 stages: 1 restored\n"
    assert {"drop", "busy", "slow"} <= set(faulty.counts)
    assert fresh.good("git", "status", "--porcelain") == ""


@pytest.mark.long
def test_a_server_that_dies_in_mid_push_gets_the_rest_when_it_is_back(tmp_path, s3):
    toy = make_clone(tmp_path / "toy", s3.url("dvc"), s3.environment, {"many": []})
    push = toy.start(*builder(), RETRY_AFTER="0.1")
    until(lambda: stored(toy, s3))

    s3.kill()
    said, _ = push.communicate(timeout=300)
    s3.start()

    assert push.returncode == 2, said
    part = len(stored(toy, s3))
    assert part < 402
    done = toy.build()
    assert done.returncode == 0, done.stderr
    assert len(stored(toy, s3)) == 402
    toy.commit()
    assert "0 missing, 0 damaged" in toy.pedigree("store", "check").stdout


def test_two_clones_that_build_the_same_at_the_same_time_run_it_once(tmp_path, s3):
    toy = make_clone(tmp_path / "toy", s3.url("dvc"), s3.environment, {"slow": []})
    other = toy.clone(tmp_path / "other")
    first = toy.start(*builder())
    until(lambda: toy.runs())
    second = other.start(*builder())
    assert second.stdout
    heard = iter(second.stdout.readline, "")

    assert any("slow is run by process" in line for line in heard)
    (tmp_path / "go").touch()
    said = first.communicate(timeout=200)[0], second.communicate(timeout=200)[0]

    assert "1 stages: 1 ran" in said[0]
    assert "1 stages: 1 restored" in said[1]
    assert toy.runs() == ["slow"]


def until(condition, seconds=60):
    """Wait for `condition`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it didn't happen in time"
        time.sleep(0.05)


def test_a_build_that_proves_itself_downloads_nothing(built, tmp_path, monkeypatch):
    copy = copied(built, tmp_path / "copy")
    monkeypatch.setenv("TOY_RUNS", copy.environment["TOY_RUNS"])

    with rebuild(targets=["letters"], root=copy.folder) as folder:
        assert (folder / "out/letters").exists()

    assert copy.runs() == ["letters"]
