"""What every stage's process does: die with its parent, show progress, refuse in one sentence."""

import ctypes
import errno
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, spawn
from pathlib import Path
from typing import Any, TypeVar

from stages.params import Refusal
from stages.settings import settings

log = logging.getLogger("pedigree")

T = TypeVar("T")
R = TypeVar("R")

PR_SET_PDEATHSIG = 1
USER_ERROR = 2
REPORT_EVERY_SECONDS = 2.0

# Of a Dask cluster. A task whose process was killed is tried again; one whose worker was, too, by the scheduler.
TASK_RETRIES = 3
CONNECT_SECONDS = 10
WATCH_SECONDS = 0.5


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
    """`function` of every shard, in the order of `shards`, on PEDIGREE_WORKERS processes, or on PEDIGREE_DASK's.

    The results don't depend on the number of workers; `function` and the shards must pickle to
    a fresh process (top-level functions, functools.partial). One shard, or one worker, runs here.
    """
    if (cluster := settings().dask) and shards:
        return list(progress(_on_dask(cluster, function, shards, label), len(shards), label))
    workers = min(settings().workers, len(shards))
    if workers <= 1:
        return list(progress((function(shard) for shard in shards), len(shards), label))
    # spawn: Polars and Arrow have threads, which don't survive a fork.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=die_with_parent) as pool:
        return list(progress(pool.map(function, shards), len(shards), label))


# ---- on a Dask cluster -------------------------------------------------------------------------------------


def _on_dask(where: str, function: Callable[[T], R], shards: Sequence[T], label: str) -> Iterator[R]:
    """`function` of every shard, each in a process of its own on a worker of the cluster; their order is kept."""
    try:
        import distributed  # of the extra `scale`: only who has a cluster needs it
    except ImportError:
        raise Refusal("PEDIGREE_DASK needs the packages of the extra `scale`: pip install 'pedigree[scale]'") from None
    here = {name: value for name, value in os.environ.items() if name.startswith("PEDIGREE_")}
    environment = {**here, "PEDIGREE_DASK": "", "PEDIGREE_WORKERS": "1"}
    with _cluster(where) as cluster, _client(cluster) as client:
        main = getattr(sys.modules["__main__"].__spec__, "name", None)
        tasks = [pickle.dumps((main, pickle.dumps((function, shard)))) for shard in shards]
        run_here = partial(run_task, folder=str(Path.cwd()), environment=environment)
        futures = client.map(run_here, tasks, pure=False, retries=TASK_RETRIES, key=label.replace(" ", "-"))
        for number, future in enumerate(futures):
            try:
                outcome = pickle.loads(future.result())
            except distributed.KilledWorker:
                raise Refusal(
                    f"{label}: shard {number} has ended every worker that tried it; give the workers more memory, "
                    f"or lower shard_bytes"
                ) from None
            future.release()
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome


@contextmanager
def _cluster(where: str) -> Iterator[Any]:
    """The address of the scheduler, or the cluster that Slurm gives for as long as the stage runs."""
    kind, _, jobs = where.partition(":")
    if kind != "slurm":
        yield where
        return
    if not jobs.isdigit() or int(jobs) < 1:
        raise Refusal(f"PEDIGREE_DASK is {where!r}; give slurm:JOBS, as slurm:8, or the address of a scheduler")
    from dask_jobqueue import SLURMCluster

    # What else Slurm wants to know (cores, memory, queue, account, walltime) stands in Dask's own configuration.
    try:
        cluster = SLURMCluster(log_directory="logs/dask")
    except ValueError as error:
        raise Refusal(f"PEDIGREE_DASK is {where}, and {' '.join(str(error).split())} (docs/scale.md)") from None
    with cluster:
        cluster.scale(jobs=int(jobs))
        yield cluster


@contextmanager
def _client(cluster: Any) -> Iterator[Any]:
    """A client of the cluster, once it has a worker."""
    import distributed

    try:
        client = distributed.Client(cluster, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise Refusal(f"PEDIGREE_DASK: no scheduler answers at {cluster} ({error}); start it, or unset it") from None
    with client:
        if not client.scheduler_info(n_workers=1)["workers"]:
            log.info("waiting for a worker of %s", cluster)
        client.wait_for_workers(1)
        yield client


def run_task(task: bytes, folder: str, environment: dict[str, str]) -> bytes:
    """On a Dask worker: the pickled result of `task` (function, shard), or what it raised, from a process of its own.

    So a task runs today's code in the project's `folder`, however long ago the worker began. It dies with the worker,
    and with the stage that asked for it, before another run of that stage can write the same files.
    """
    import distributed

    worker = distributed.get_worker()
    key = worker.get_current_task()
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "stages.process"],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    except FileNotFoundError:
        return pickle.dumps(
            Refusal(f"{worker.address} doesn't see {folder}; the project must lie on a file system that workers share")
        )
    answer: bytes | None = None
    question: bytes | None = task
    while answer is None:
        try:
            answer, _ = child.communicate(question, timeout=WATCH_SECONDS)
        except subprocess.TimeoutExpired:
            question = None  # it is on its way
            asked = worker.state.tasks.get(key)
            if asked is None or asked.state == "cancelled":
                child.kill()
    if child.returncode:
        raise ChildProcessError(f"a task ended with {child.returncode} on {worker.address}")
    return answer


def _answer() -> None:
    """The process of a task: the stage's module, (function, shard) from stdin, what comes of it to stdout."""
    die_with_parent()
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    main, task = pickle.load(sys.stdin.buffer)
    # A stage's functions are named after __main__, which is another here.
    spawn.prepare({"init_main_from_name": main} if main else {})
    function, shard = pickle.loads(task)
    try:
        outcome = function(shard)
    except (Refusal, OSError) as error:
        outcome = error
    with out:
        pickle.dump(outcome, out)


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


if __name__ == "__main__":
    _answer()
