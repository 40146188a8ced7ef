"""Builds that are hurt: a project under a worker, with real servers, and one fault in each build.

    a new input  ->  a scheduled build  ->  a fault at a random moment  ->  the same build again

What must hold afterwards is `Campaign.holds`. All that is random comes out of one seed.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import httpx
import psutil
import s3fs
import yaml
from prefect.client.orchestration import SyncPrefectClient
from tiny import ROOT

from infra.ports import free_port

FAULTS = (
    "none", "kill stage", "kill dvc", "kill flow", "kill worker", "kill Prefect server", "kill S3", "faulty S3",
    "full disk", "clock jump", "cancel",
)  # fmt: skip
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
WAIT_SECONDS = 240.0
DISK_BYTES = 48 << 20

# The wall clock of whoever loads it (LD_PRELOAD) is off by the seconds in the file $CLOCK_OFF_BY. libfaketime
# breaks Python's sleep, which waits on the monotonic clock; that one stays as it is here.
CLOCK = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long off(void) {
    const char *path = getenv("CLOCK_OFF_BY");
    FILE *file = path ? fopen(path, "r") : NULL;
    long seconds = 0;
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    long result = syscall(SYS_clock_gettime, clock, now);
    if (!result && clock == CLOCK_REALTIME) now->tv_sec += off();
    return (int)result;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
"""

# A stage works in pieces, and goes on from the last one that it saved: what a trainer does, in a second.
STAGE = """
import hashlib, os, signal, sys, time
from pathlib import Path

stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
name, *before = sys.argv[1:]
text = Path("in.txt").read_text() + "".join(Path("out", each).read_text()[:64] for each in before)
state = Path("scratch", hashlib.sha256((name + text).encode()).hexdigest())
done = int(state.read_text()) if state.exists() else 0
while done < 4:
    if stopping:
        sys.exit(75)
    time.sleep(0.15)
    done += 1
    partial = state.with_suffix(".partial")
    partial.write_text(str(done))
    partial.rename(state)
Path("out").mkdir(exist_ok=True)
Path("out", name).write_text((text + name) * 500)
"""
STAGES = {"first": [], "left": ["first"], "right": ["first"], "last": ["left", "right"]}


def until(holds: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait until `holds()` is true."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"in {seconds:.0f} s, this did not come: {what}"
        time.sleep(0.1)


@dataclass
class Program:
    """A server or worker that can be killed and started again."""

    command: list[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    ready: Callable[[], bool]
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, env={**self.environment}, stdout=out, stderr=out, start_new_session=True
            )
        until(self.ready, f"{self.command[0]} is ready", 120)

    def kill(self) -> None:
        """kill -9, of this process alone."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it and what it started."""
        if self.process:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def answers(url: str) -> bool:
    """Whether an HTTP server says 200 at `url`."""
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@dataclass
class Round:
    """One build, its fault, and what came of it."""

    number: int
    fault: str
    after_seconds: float
    first: str = ""  # how the disturbed run ended
    second: str = ""  # and the one after it
    problems: list[str] = field(default_factory=list)


class Campaign:
    """The project, its servers and its worker, all in `folder`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.draw = random.Random(seed)
        self.folder, self.clone, self.reference = folder, folder / "clone", folder / "reference"
        self.clock, self.library = folder / "clock", compile_clock(folder)
        self._s3_port, self._proxy_port, self._api_port = free_port(), free_port(), free_port()
        self._seen: set[str] = set()
        self.keys = {
            "AWS_ACCESS_KEY_ID": "campaign", "AWS_SECRET_ACCESS_KEY": hashlib.sha256(folder.name.encode()).hexdigest(),
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._s3_port}",
        }  # fmt: skip
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PEDIGREE_", "PREFECT_"))}
        self.environment = {
            **clean,
            **self.keys,
            "PATH": f"{Path(sys.executable).parent}:{clean['PATH']}",
            "PYTHONPATH": str(ROOT),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self._api_port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        self.s3, self.server, self.worker = self._programs()

    def _programs(self) -> tuple[Program, Program, Program]:
        store, python = self.folder / "store", Path(sys.executable).parent
        store.mkdir(parents=True)
        ports = [f"-{name}.port={free_port()}" for name in ("master", "volume", "filer")]
        weed = [
            str(python / "weed"), "mini", f"-dir={store}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-bucket=pedigree",
            f"-s3.port={self._s3_port}", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", *ports,
        ]  # fmt: skip
        endpoint, api = self.keys["AWS_ENDPOINT_URL"], self.environment["PREFECT_API_URL"]
        faked = dict(self.environment)
        if self.library:
            faked |= {"LD_PRELOAD": str(self.library), "CLOCK_OFF_BY": str(self.clock)}
        server = [str(python / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(self._api_port)]
        worker = [str(python / "prefect"), "worker", "start", "--pool", "pedigree", "--type", "process"]
        logs = self.folder
        return (
            Program(weed, self.environment, self.folder, logs / "s3.log", lambda: answers(f"{endpoint}/healthz")),
            Program(server, self.environment, self.folder, logs / "server.log", lambda: answers(f"{api}/health")),
            Program(worker, faked, self.clone, logs / "worker.log", lambda: True),
        )

    @contextmanager
    def running(self) -> Iterator["Campaign"]:
        """All servers up, the project deployed, a worker at work; a small disk for the clone, if one can be had."""
        self.clone.mkdir()
        mounted = not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", self.clone], capture_output=True, check=False
        ).returncode
        self.faults = tuple(
            fault for fault in FAULTS if (fault != "full disk" or mounted) and (fault != "clock jump" or self.library)
        )
        try:
            self.s3.start()
            self.server.start()
            for project in (self.clone, self.reference):
                make_project(project, self.environment)
            self._deploy()
            self.worker.start()
            yield self
        finally:
            for program in (self.worker, self.server, self.s3):
                program.stop()
            for process in self.at_work():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            if mounted:
                subprocess.run(["umount", "--lazy", self.clone], check=False)

    def _deploy(self) -> None:
        self._run("dvc", "remote", "add", "--default", "store", "s3://pedigree/dvc")
        self._run("prefect", "work-pool", "create", "pedigree", "--type", "process")
        self._run("prefect", "--no-prompt", "deploy", "--name", "rebuild")

    def _run(self, *command: str, folder: Path | None = None) -> str:
        done = subprocess.run(
            command, cwd=folder or self.clone, env=self.environment, capture_output=True, text=True, check=False
        )
        assert not done.returncode, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def client(self) -> SyncPrefectClient:
        """A client of this campaign's server."""
        return SyncPrefectClient(self.environment["PREFECT_API_URL"])

    def round(self, number: int) -> Round:
        """Change the input, build, hurt it, build again, and look."""
        this = Round(number, self.faults[number % len(self.faults)], round(self.draw.uniform(0, 5), 2))
        for project in (self.clone, self.reference):
            (project / "in.txt").write_text(f"round {number}\n")
        first = self.start()
        until(lambda: self.state(first) not in ("SCHEDULED", "PENDING"), "the run begins")
        time.sleep(this.after_seconds)
        mend = self.hurt(this.fault, first)
        time.sleep(1)
        mend()
        second = self.start()
        with suppress(AssertionError):  # `problems` says it
            until(lambda: self.state(second) in ENDED, "the second run ends")
            until(lambda: self.state(first) in ENDED, "the first run isn't left running", 60)
        this.first, this.second = self.state(first), self.state(second)
        this.problems = list(self.problems(this))
        return this

    def start(self) -> UUID:
        """Ask for a build, as a schedule does."""
        with self.client() as client:
            deployment = client.read_deployment_by_name("build/rebuild")
            return client.create_flow_run_from_deployment(deployment.id).id

    def state(self, run: UUID) -> str:
        """The type of the run's state."""
        with self.client() as client:
            state = client.read_flow_run(run).state
        return state.type.value if state else "NONE"

    def hurt(self, fault: str, run: UUID) -> Callable[[], object]:
        """Do `fault` to the running build; what is returned mends what a person, or systemd, would."""
        match fault:
            case "kill stage":
                until(lambda: self._kill("stage.py") or self.state(run) in ENDED, "there is a stage to kill")
            case "kill dvc":
                until(lambda: self._kill("child.py") or self.state(run) in ENDED, "there is a dvc to kill")
            case "kill flow":
                until(lambda: self._kill("prefect") or self.state(run) in ENDED, "there is a flow to kill")
            case "kill worker":
                self.worker.kill()
                return self.worker.start
            case "kill Prefect server":
                self.server.kill()
                return self.server.start
            case "kill S3":
                self.s3.kill()
                return self.s3.start
            case "faulty S3":
                os.kill(self.s3.process.pid, signal.SIGSTOP)  # type: ignore[union-attr]
                return lambda: os.kill(self.s3.process.pid, signal.SIGCONT)  # type: ignore[union-attr]
            case "full disk":
                return self._fill()
            case "clock jump":
                self.clock.write_text(str(self.draw.choice([3, -3]) * 3600))
                return lambda: self.clock.write_text("0")
            case "cancel":
                self._cancel(run)
        return lambda: None

    def _fill(self) -> Callable[[], object]:
        filler = self.clone / "filler"
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        return filler.unlink

    def _cancel(self, run: UUID) -> None:
        from prefect.states import Cancelling

        with self.client() as client:
            client.set_flow_run_state(run, Cancelling())

    def _kill(self, mark: str) -> bool:
        """Kill one process of the build whose command has `mark` in it."""
        found = [process for process in self.at_work() if any(mark in word for word in process.info["cmdline"])]
        if not found:
            return False
        with suppress(psutil.NoSuchProcess):
            self.draw.choice(sorted(found, key=lambda process: process.pid)).kill()
        return True

    def at_work(self) -> list[psutil.Process]:
        """The processes in the clone, but for the worker itself."""
        mine = self.worker.process.pid if self.worker.process else None
        every = psutil.process_iter(["cmdline", "cwd"])
        return [
            each for each in every if each.info["cwd"] == str(self.clone) and each.pid != mine and each.info["cmdline"]
        ]

    def problems(self, this: Round) -> Iterator[str]:
        """What doesn't hold after a round."""
        if this.second != "COMPLETED":
            yield f"the second run is {this.second}"
        self._run("dvc", "repro", "--quiet", folder=self.reference)
        ours, theirs = (yaml.safe_load((each / "dvc.lock").read_text()) for each in (self.clone, self.reference))
        if ours != theirs:
            yield "dvc.lock differs from that of an undisturbed build"
        with suppress(AssertionError):
            until(lambda: not self.at_work(), "no process is left", 30)
        yield from (f"orphan: {' '.join(each.info['cmdline'])[:80]}" for each in self.at_work())
        with self.client() as client:
            runs = client.read_flow_runs()
        yield from (f"run {run.name} is {run.state_name}" for run in runs if run.state and not run.state.is_final())
        yield from self.half_objects(ours)

    def half_objects(self, lock: Mapping[str, object]) -> Iterator[str]:
        """New objects in the store whose bytes don't have the digest in their name, and outs that it lacks."""
        store = s3fs.S3FileSystem(
            key=self.keys["AWS_ACCESS_KEY_ID"], secret=self.keys["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=self.keys["AWS_ENDPOINT_URL"], use_listings_cache=False, skip_instance_cache=True,
        )  # fmt: skip
        for key in set(store.find("pedigree/dvc/files/md5")) - self._seen:
            if hashlib.md5(store.cat_file(key), usedforsecurity=False).hexdigest() != "".join(key.split("/")[-2:]):
                yield f"half object: {key}"
            self._seen.add(key)
        stages = lock["stages"]
        assert isinstance(stages, dict)
        digests = [out["md5"] for stage in stages.values() for out in stage["outs"]]
        keys = {digest: f"pedigree/dvc/files/md5/{digest[:2]}/{digest[2:]}" for digest in digests}
        yield from (f"not in the store: {digest}" for digest, key in keys.items() if key not in self._seen)


def compile_clock(folder: Path) -> Path | None:
    """The library that moves the wall clock, in `folder`; None without a C compiler."""
    if not (compiler := shutil.which("gcc")):
        return None
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return library


def make_project(folder: Path, environment: Mapping[str, str]) -> None:
    """Four stages in a diamond, with the flows of this repository, in `folder`."""
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True)
    (folder / "stage.py").write_text(STAGE)
    (folder / "in.txt").write_text("new\n")
    stages = {
        name: {
            "cmd": f"exec python stage.py {' '.join([name, *before])}",
            "deps": ["stage.py", "in.txt", *(f"out/{each}" for each in before)],
            "outs": [f"out/{name}"],
        }
        for name, before in STAGES.items()
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "prefect.yaml", folder / "prefect.yaml")
    subprocess.run(["dvc", "init", "--quiet", "--no-scm"], cwd=folder, env={**environment}, check=True)
