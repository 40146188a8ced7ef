"""A real Postgres, and a Prefect server that keeps its database there."""

import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers.prefect_server import PR_SET_PDEATHSIG, PrefectServer, free_port, prefect_serving, wait_for

START_SECONDS = 120  # 2 s when the machine is idle
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").is_dir() else []


@dataclass(frozen=True)
class Postgres:
    """A server that listens on 127.0.0.1 only."""

    url: str  # as SQLAlchemy and Prefect read it, password included
    password: str
    log: Path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """An empty Postgres, run by the user `postgres` where the tests are run by root, whom it refuses."""
    if not BINARIES or (os.getuid() == 0 and not shutil.which("runuser")):
        pytest.skip("Postgres is not installed: apt-get install postgresql util-linux")
    # Not in a folder of pytest's, which other users may not enter.
    folder = Path(tempfile.mkdtemp(prefix="pedigree-postgres-"))
    password, port = secrets.token_hex(16), free_port()
    (folder / "password").write_text(password)
    if os.getuid() == 0:
        for path in (folder, folder / "password"):
            shutil.chown(path, "postgres", "postgres")
    initdb = ["-U", "prefect", f"--pwfile={folder}/password", "-A", "scram-sha-256", "-E", "UTF8", "--no-sync"]
    _run("initdb", "-D", f"{folder}/data", *initdb, "--locale=C.UTF-8")
    process = _serve(folder, port)
    try:
        wait_for(lambda: _ready(port, process), START_SECONDS)
        _run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "prefect", password=password)
        url = f"postgresql+asyncpg://prefect:{password}@127.0.0.1:{port}/prefect"
        yield Postgres(url, password, folder / "log")
    finally:
        process.send_signal(signal.SIGINT)  # its word for: end now, in good order
        process.wait(60)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def prefect_on_postgres(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """`prefect server start` with Postgres as its database."""
    home = tmp_path_factory.mktemp("prefect-postgres")
    with prefect_serving(home, PREFECT_SERVER_DATABASE_CONNECTION_URL=postgres.url) as server:
        for name in [name for name in server.environment if name.startswith("PREFECT_SERVER_DATABASE")]:
            del server.environment[name]  # whoever asks the server needs no password
        yield server


def _serve(folder: Path, port: int) -> "subprocess.Popen[bytes]":
    """The server itself, as our child: not by pg_ctl, so that it ends with us, however we die."""
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), "fsync": "off"}
    command = [str(BINARIES[-1] / "postgres"), "-D", f"{folder}/data", "-p", str(port)]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [*command, *(word for name, value in options.items() for word in ("-c", f"{name}={value}"))],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            user="postgres" if os.getuid() == 0 else None, group="postgres" if os.getuid() == 0 else None,
            extra_groups=[] if os.getuid() == 0 else None,
            preexec_fn=lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT),
        )  # fmt: skip


def _run(program: str, *arguments: str, password: str = "") -> None:
    who = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    done = subprocess.run(
        [*who, str(BINARIES[-1] / program), *arguments],
        cwd="/", env=os.environ | {"PGPASSWORD": password}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not done.returncode, done.stderr


def _ready(port: int, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, f"postgres ended with {process.returncode}"
    command = [str(BINARIES[-1] / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    return subprocess.run(command, check=False).returncode == 0
