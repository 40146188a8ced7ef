"""A real Dask cluster for the tests: a scheduler and two workers on this machine, which run in a project's folder."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers.slurm import until

SILENT = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "3"}


class Dask:
    """A cluster whose workers run in `folder`."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self.folder, self.workers = folder, workers
        self.file = folder / "scheduler.json"
        self.daemons: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        """Of the scheduler."""
        address: str = json.loads(self.file.read_text())["address"]
        return address

    def start(self) -> None:
        """Start scheduler and workers."""
        self._daemon("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(self.file))
        until(lambda: self.file.exists() and self.file.read_text().endswith("}"), 60)
        for _ in range(self.workers):
            self._daemon("worker", "--nthreads", "1", "--no-dashboard", "--scheduler-file", str(self.file))

    def stop(self) -> None:
        """End them all."""
        for daemon in self.daemons:
            os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()

    def busy(self) -> list[int]:
        """The workers that have a task, by the process id of the worker proper, not of its nanny."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = entry.read_bytes()
                status = (entry.parent / "status").read_text()
            except OSError:
                continue
            if b"stages.process" in command and (entry.parent / "cwd").resolve() == self.folder:
                found.append(int(status.split("PPid:")[1].split()[0]))
        return found

    def _daemon(self, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PEDIGREE_")}
        environment |= {"PYTHONPATH": str(self.folder), **SILENT}
        with (self.folder / "dask.log").open("ab") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.daemons.append(daemon)


@contextmanager
def cluster_in(folder: Path) -> Iterator[Dask]:
    """A cluster for the project in `folder`, for as long as the block lasts."""
    cluster = Dask(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
