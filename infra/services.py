"""All that scheduled builds need, on one machine, for trying: an S3 server, Postgres, a Prefect server, a worker.

    FOLDER/store      the S3 server, see infra/store/server.py
    FOLDER/postgres   Prefect's database
    FOLDER/*.log      what the others say

Each is a process in the background, started if it isn't there. For good, systemd keeps them going (infra/systemd),
or a cluster does (infra/kubernetes); nothing here does after a restart of the machine.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]

from infra import postgres
from infra.ports import can_be_asked
from infra.store import server as store
from stages.params import Refusal

MARK = "SERVICE_OF"  # in the environment of each process, with the folder and the name
POOL = "pedigree"
PORT = 4200  # Prefect's own
READY_SECONDS = 180.0  # Prefect makes its tables first: 6 to 20 s, 75 s were seen on slow disks
STOP_SECONDS = 60.0


def up(folder: Path, port: int, sqlite: bool, tell: Callable[[str], None]) -> None:
    """Have all of them run, the work pool made and the deployments of prefect.yaml loaded; their schedules are asleep.

    Raises:
        Refusal: if one is not installed, or doesn't come up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    _store_up(folder, tell)
    database = {} if sqlite else {"PREFECT_SERVER_DATABASE_CONNECTION_URL": _postgres_up(folder, tell).url}
    client = environment(folder, port)
    api = client["PREFECT_API_URL"]
    _start(folder, "prefect", ["server", "start", "--host", "127.0.0.1", "--port", str(port)], client | database)
    _wait(folder, "prefect", lambda: _answers(api))
    tell(f"Prefect      {api.removesuffix('/api')}")
    (folder / "prefect.port").write_text(str(port), encoding="utf-8")
    _prefect(["work-pool", "create", POOL, "--type", "process", "--overwrite"], client)
    _prefect(["--no-prompt", "deploy", "--all"], client)
    _start(folder, "worker", ["worker", "start", "--pool", POOL, "--type", "process"], client)
    _wait(folder, "worker", lambda: "started!" in (folder / "worker.log").read_text(encoding="utf-8"))
    tell(f"worker       of the pool {POOL}, in {Path.cwd()}")


def down(folder: Path) -> list[str]:
    """Stop what runs, the worker first, which lets its builds save what they have; the names of what was stopped."""
    stopped = [name for name in ("worker", "prefect", "postgres") if _stop(folder, name)]
    if (folder / "store/server.json").exists() and store.stop(folder / "store"):
        stopped.append("store")
    return stopped


def environment(folder: Path, port: int | None = None) -> dict[str, str]:
    """What a shell needs to work with them: where they are, and the credentials of the store.

    Raises:
        Refusal: if they were never started.
    """
    if port is None:
        try:
            port = int((folder / "prefect.port").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise Refusal(f"{folder} holds no services; `pedigree up` starts them") from None
    return {
        **store.read_server(folder / "store").environment,
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def _store_up(folder: Path, tell: Callable[[str], None]) -> None:
    remembered = folder / "store" / "server.json"
    server = store.read_server(folder / "store") if remembered.exists() else None
    if not server or not server.running:
        # Its usual port, unless another clone's server has it already.
        port = None if server or not can_be_asked(store.PORT) else store.free_port()
        server, _ = store.start(folder / "store", port, own_session=True)
    tell(f"object store {server.endpoint}")


def _postgres_up(folder: Path, tell: Callable[[str], None]) -> postgres.Postgres:
    server = postgres.prepare(folder / "postgres")
    _launch(folder, "postgres", postgres.command(server), {}, postgres.user())
    _wait(folder, "postgres", lambda: server.answers and _has_database(server))
    tell(f"Postgres     127.0.0.1:{server.port}")
    return server


def _has_database(server: postgres.Postgres) -> bool:
    with suppress(Refusal):  # it listens before it lets anybody in
        postgres.create_database(server)
        return True
    return False


def _start(folder: Path, name: str, arguments: Sequence[str], more: Mapping[str, str]) -> None:
    _launch(folder, name, [sys.executable, "-m", "prefect", *arguments], more)


def _launch(folder: Path, name: str, command: Sequence[str], more: Mapping[str, str], user: str | None = None) -> None:
    """Start `command` in the background, unless it runs."""
    if any(_processes(folder, name)):
        return
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    given = {**os.environ, **more, "PATH": path, MARK: f"{name}@{folder.resolve()}"}
    with (folder / f"{name}.log").open("wb") as log:
        subprocess.Popen(
            command, env=given, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            user=user, group=user, extra_groups=[] if user else None,
        )  # fmt: skip


def _wait(folder: Path, name: str, ready: Callable[[], bool]) -> None:
    end = time.monotonic() + READY_SECONDS
    while not ready():
        if time.monotonic() > end or not any(_processes(folder, name)):
            raise Refusal(f"{name} did not come up; {folder}/{name}.log says why")
        time.sleep(0.2)


def _answers(api: str) -> bool:
    try:
        return httpx.get(f"{api}/health", timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _prefect(arguments: Sequence[str], more: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        env={**os.environ, **more}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise Refusal(f"prefect {' '.join(arguments)} failed: {said}")


def _stop(folder: Path, name: str) -> bool:
    """End the service and all that it started; whether there was anything."""
    found = list(_processes(folder, name))
    for process in found:
        with suppress(psutil.NoSuchProcess):
            # Postgres waits for its clients on SIGTERM; SIGINT has it end in good order.
            process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
    _, left = psutil.wait_procs(found, timeout=STOP_SECONDS)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return bool(found)


def _processes(folder: Path, name: str) -> Iterator[psutil.Process]:
    """The processes of the service of this folder, by the mark in their environment."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == f"{name}@{folder.resolve()}" and process.pid != os.getpid():
                yield process
