"""The memory that a training gives back stays with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MEASURE = """
import json, re, resource, sys
from pathlib import Path
from stages.pretrain import memory

if "keep" in sys.argv:
    memory.keep()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytearray(b"x") * (8 << 20)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
held = bytearray(b"x") * (64 << 20)
large = sum(map(int, re.findall(r"AnonHugePages: *(\\d+)", Path("/proc/self/smaps").read_text())))
print(json.dumps([faults, large]))
"""


def measured(*arguments: str) -> list[int]:
    """Page faults of ten blocks of 8 MB, one after another; and KB in large pages then."""
    command = [sys.executable, "-c", MEASURE, *arguments]
    found: list[int] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return found


def test_memory_is_taken_from_the_kernel_once_and_not_for_each_tensor() -> None:
    faults, _ = measured()
    kept, _ = measured("keep")

    assert kept < faults / 5


@pytest.mark.skipif(
    not LARGE_PAGES.exists() or "[never]" in LARGE_PAGES.read_text(),
    reason="this kernel gives no large pages; allow them in /sys/kernel/mm/transparent_hugepage/enabled",
)
def test_the_heap_is_in_large_pages_where_the_kernel_has_them() -> None:
    _, large = measured("keep")

    assert large >= 32 << 10
