"""The watchdog, in processes of its own."""

import subprocess
import sys

import pytest

PROGRAM = """
import logging, sys, time
from stages.pretrain.watchdog import Watchdog

logging.basicConfig(stream=sys.stderr)

def a_step_that_hangs():
    time.sleep(60)

with Watchdog({seconds}) as watchdog:
    for _ in range(10):
        time.sleep(0.05)
        watchdog.step_ended()
    {then}
"""


@pytest.mark.parametrize(
    ("seconds", "then", "code"), [(0.4, "a_step_that_hangs()", 75), (0.4, "pass", 0), (0, "time.sleep(0.5)", 0)]
)
def test_a_process_ends_only_when_no_step_has_ended_for_long(seconds, then, code):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(seconds=seconds, then=then)], capture_output=True, text=True, timeout=30
    )

    assert done.returncode == code, done.stderr
    assert ("in a_step_that_hangs" in done.stderr) == (code == 75)
