"""A build without Prefect: order, limits, failures, signals. The flow shares all of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows import work
from flows.limits import Slots
from flows.stage import StageFailed, StageRefused, log_path
from flows.work import build_locally

# DVC 3.67 reads the graph through a deprecated property of pygtrie's.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

PROJECT = Path(__file__).parents[2]


def outcomes(build):
    return {ended.stage: ended.outcome for ended in build.stages}


def test_stages_run_after_those_they_wait_for_and_beside_the_others(diamond):
    diamond.fate("left", "right")
    diamond.fate("right", "left")

    build = build_locally(["bottom"])

    assert set(outcomes(build).values()) == {"ran"}  # left and right too, which waited for each other
    assert diamond.times("top")[1] <= min(diamond.times("left")[0], diamond.times("right")[0])
    assert diamond.times("bottom")[0] >= max(diamond.times("left")[1], diamond.times("right")[1])


def test_only_what_changed_runs_again_and_what_follows_is_asked(diamond):
    build_locally(["bottom"])
    assert set(outcomes(build_locally(["bottom"])).values()) == {"cached"}

    diamond.change("left", "something else")

    assert outcomes(build_locally(["bottom"])) == {
        "top": "cached", "left": "ran", "right": "cached", "bottom": "ran",
    }  # fmt: skip
    diamond.change("left", "left")  # as it was: in the run-cache
    assert outcomes(build_locally(["left"]))["left"] == "restored"


def test_a_refusal_is_its_own_sentence_and_stops_only_what_follows(diamond, caplog):
    diamond.fate("left", "refuse")

    with caplog.at_level("INFO", "pedigree.flows"), pytest.raises(StageRefused) as refused:
        build_locally()

    assert str(refused.value) == "left: the toy is broken; mend it"
    assert (diamond.root / "out/right").exists()
    assert (diamond.root / "out/alone").exists()
    assert diamond.pid("bottom") is None
    assert "left                   failed: left: the toy is broken; mend it" in caplog.messages


def test_a_crash_fails_once_and_names_the_log(diamond):
    diamond.fate("alone", "crash")

    with pytest.raises(StageFailed, match=r"alone: .*exited with 1; all it said is in logs/alone\.log"):
        build_locally(["alone"])

    assert log_path("alone").read_text().count("ZeroDivisionError: by toy") == 1


def test_a_preempted_stage_comes_again(diamond, monkeypatch):
    monkeypatch.setattr(work, "RETRY_AFTER_SECONDS", (0.1,))
    diamond.fate("alone", "preempted")

    assert outcomes(build_locally(["alone"])) == {"alone": "ran"}


def test_the_log_is_whole_and_what_is_told_is_not_much(diamond, caplog):
    diamond.fate("alone", "chatter")

    with caplog.at_level("INFO", "pedigree.flows"):
        build_locally(["alone"])

    assert log_path("alone").read_text().count("\n") > 1000
    assert len(caplog.messages) < 50
    assert "999" in caplog.text


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_flow_that_ends_leaves_no_orphan_and_its_stage_saves(diamond, death):
    diamond.fate("alone", "hang")
    program = (
        "from flows.terminal import watched; from flows.work import build_locally; watched(); build_locally(['alone'])"
    )
    flow = subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(PROJECT)}, stderr=subprocess.DEVNULL
    )
    until(lambda: diamond.pid("alone"))
    time.sleep(0.3)  # for the stage to have its signal handler

    flow.send_signal(death)

    assert flow.wait(20) != 0
    until(lambda: not psutil.pid_exists(diamond.pid("alone")))
    assert (diamond.root / "saved/alone").exists()
    until(lambda: not any("child.py" in " ".join(process.info["cmdline"] or []) for process in of(diamond)))


def test_slots_are_taken_together_or_not_at_all():
    slots = Slots(cpu=2)

    with slots.taken(slots.needs("filter")), slots.taken(slots.needs("download")):
        assert slots._free == {"cpu": 1, "gpu": 1, "network": 3}
    with slots.taken(slots.needs("pretrain")):
        assert slots._free == {"cpu": 0, "gpu": 0, "network": 4}
    assert slots._free == slots.total


def until(condition, seconds=15):
    """Wait for `condition`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it didn't happen in time"
        time.sleep(0.05)


def of(toy):
    """The processes that work in the folder of `toy`."""
    return [process for process in psutil.process_iter(["cmdline", "cwd"]) if process.info["cwd"] == str(toy.root)]
