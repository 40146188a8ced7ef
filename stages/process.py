"""What every stage's process does: die with its parent, show progress, refuse in one sentence."""

import ctypes
import errno
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from stages.params import Refusal
from stages.settings import settings

log = logging.getLogger("pedigree")

T = TypeVar("T")
R = TypeVar("R")

PR_SET_PDEATHSIG = 1
USER_ERROR = 2
REPORT_EVERY_SECONDS = 2.0


def run(main: Callable[[], None]) -> None:
    """Run a stage's `main` as this process, and exit: 0 done, 2 refused (one sentence on stderr), 1 for a bug."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("pedigree").setLevel(logging.INFO)
    die_with_parent()
    try:
        main()
    except Refusal as refusal:
        sys.exit(_refuse(str(refusal)))
    except Exception as error:
        if not is_full_disk(error):
            raise
        name = getattr(error, "filename", None) or Path.cwd()
        sys.exit(_refuse(f"{name}: No space left on device; free some and run again, nothing is half-written"))


def is_full_disk(error: Exception) -> bool:
    """Whether `error` says that the disk is full. Polars and safetensors say so in words only."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "(os error 28)" in str(error)


def _refuse(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    return USER_ERROR


def die_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the parent dies: a killed dvc or flow leaves no orphan (Linux)."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died between the two lines
            sys.exit(128 + signal.SIGTERM)


def map_shards(function: Callable[[T], R], shards: Sequence[T], label: str) -> list[R]:
    """`function` of every shard, in the order of `shards`, on PEDIGREE_WORKERS processes.

    The results don't depend on the number of workers; `function` and the shards must pickle to
    a fresh process (top-level functions, functools.partial). One shard, or one worker, runs here.
    """
    workers = min(settings().workers, len(shards))
    if workers <= 1:
        return list(progress((function(shard) for shard in shards), len(shards), label))
    # spawn: Polars and Arrow have threads, which don't survive a fork.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=die_with_parent) as pool:
        return list(progress(pool.map(function, shards), len(shards), label))


def progress(results: Iterator[R], total: int, label: str, unit: str = "shards") -> Iterator[R]:
    """Pass `results` on, and say every few seconds how far they are, how fast, and how long it will take."""
    begin = said = time.monotonic()
    for done, result in enumerate(results, start=1):
        yield result
        now = time.monotonic()
        if now - said >= REPORT_EVERY_SECONDS and done < total:
            rate = done / (now - begin)
            log.info("%s: %d of %d %s, %.1f/s, %.0f s left", label, done, total, unit, rate, (total - done) / rate)
            said = now
