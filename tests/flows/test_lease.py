"""Builds that meet in a clone, that die in it, and what they leave."""

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from servers.prefect_server import is_gone, wait_for

from flows.lifetime.lease import STATE, building, dead_runs
from flows.lifetime.orphans import MARK, orphans_of
from flows.work import build_locally

# DVC 3.67 reads the graph through a deprecated property of pygtrie's.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


def test_a_second_build_waits_for_the_first_and_says_for_whom(diamond):
    diamond.fate("alone", "hang")
    first = diamond.start_build("alone", log="first.log")
    wait_for(lambda: diamond.pid("alone"), 200)
    diamond.fate("alone")

    stopped, second = (diamond.start_build("alone", log=log) for log in ("stopped.log", "second.log"))
    sentence = f"waits for the build of process {first.pid} on "
    wait_for(lambda: all(sentence in diamond.said(log) for log in ("stopped.log", "second.log")), 200)
    stopped.terminate()

    assert stopped.wait(200) == 128 + signal.SIGTERM
    assert second.poll() is None
    assert diamond.runs("alone") == 1
    first.kill()
    first.wait(200)
    assert second.wait(200) == 0
    assert diamond.runs("alone") == 2
    assert Path("out/alone").read_text() == "alone"
    assert dead_runs(diamond.root) == []


def test_an_orphan_of_a_dead_build_ends_before_the_next_one_begins(diamond, caplog):
    diamond.fate("alone", "hang")
    build = diamond.start_build("alone")
    wait_for(lambda: diamond.pid("alone"), 200)
    stage = psutil.Process(diamond.pid("alone"))
    dvc = stage.parent()
    dvc.suspend()  # so that it can't hand on the signal that it gets
    build.kill()
    build.wait(200)
    dvc.kill()
    wait_for(lambda: len(dead_runs(diamond.root)) == 1, 200)
    assert not is_gone(stage)
    diamond.fate("alone")

    with caplog.at_level("INFO", "pedigree.flows"):
        build_locally(["alone"])

    assert f"ends what a dead build left running: {stage.pid}" in caplog.text
    assert is_gone(stage)
    assert Path("saved/alone").exists()
    assert diamond.runs("alone") == 2


def test_the_stage_of_a_dvc_that_was_killed_ends_with_its_build(diamond):
    diamond.fate("alone", "hang")
    build = diamond.start_build("alone")
    wait_for(lambda: diamond.pid("alone"), 200)
    stage = psutil.Process(diamond.pid("alone"))

    stage.parent().kill()

    assert build.wait(200) == 1
    assert is_gone(stage)


def test_only_processes_that_the_build_started_and_that_work_in_its_clone_are_its_orphans(diamond, tmp_path):
    before = subprocess.Popen(["sleep", "60"])
    with building(diamond.root, print):
        elsewhere = subprocess.Popen(["sleep", "60"], cwd=tmp_path)
        here = subprocess.Popen(["sleep", "60"], cwd="out")
        found = orphans_of(os.environ[MARK], diamond.root)
    for process in (before, elsewhere, here):
        process.kill()
        process.wait()

    assert [process.pid for process in found] == [here.pid]
    assert MARK not in os.environ


def test_a_build_within_a_build_of_one_process_is_the_same_one_and_its_record_holds_no_password(diamond):
    with building(diamond.root, print), building(Path(), print, "a-run", "https://me:secret@prefect.example/api"):
        [record] = (diamond.root / STATE / "runs").iterdir()
        written = json.loads(record.read_text())
        assert dead_runs(diamond.root) == []

    assert (written["flow_run"], written["api"]) == ("a-run", "https://prefect.example/api")
    assert not record.exists()


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_a_lock_file_that_was_cut_short_is_put_back(diamond, share):
    build_locally(["left"])
    whole = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(whole[: int(len(whole) * share)])

    build = build_locally(["left"])

    assert Path("dvc.lock").read_text() == whole
    assert {ended.outcome for ended in build.stages} <= {"cached", "restored"}  # half a lock may be one of fewer stages


def test_a_lock_file_in_the_middle_of_a_merge_is_left_to_people(diamond):
    build_locally(["alone"])
    conflict = "<<<<<<< ours\nschema: '2.0'\n=======\n>>>>>>> theirs\n"
    Path("dvc.lock").write_text(conflict)

    with pytest.raises(ValueError, match=r"DVC can't read the project: .*dvc\.lock"):
        build_locally(["alone"])

    assert Path("dvc.lock").read_text() == conflict


def test_a_lock_of_dvc_s_processes_that_was_cut_short_is_begun_anew(diamond):
    Path(".dvc/tmp").mkdir(exist_ok=True)
    Path(".dvc/tmp/rwlock").write_text('{"write": {"out/al')

    assert build_locally(["alone"]).stages[0].outcome == "ran"


@pytest.mark.long
def test_builds_at_once_run_each_stage_once_and_lose_no_entry_of_the_lock(wide):
    builds = [wide.start_build(log=f"{number}.log", PEDIGREE_FLOW_SLOTS="20") for number in range(2)]

    assert [build.wait(500) for build in builds] == [0, 0]
    assert {wide.runs(name) for name in wide.names} == {1}
    lock = Path("dvc.lock").read_text()
    assert all(f"\n  {name}:\n" in lock for name in wide.names)
    assert subprocess.run(["dvc", "status", "--quiet"], check=False).returncode == 0
