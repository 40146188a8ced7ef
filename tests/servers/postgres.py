"""A real Postgres, and a Prefect server that keeps its database there."""

import ctypes
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.prefect_server import PR_SET_PDEATHSIG, PrefectServer, prefect_serving, wait_for

from infra.postgres import Postgres, binaries, command, create_database, prepare, user
from stages.params import Refusal

START_SECONDS = 120  # 2 s when the machine is idle


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """An empty Postgres that listens on this machine only, and dies with this process."""
    if not binaries() or (user() and not shutil.which("runuser")):
        pytest.skip("Postgres is not installed: apt-get install postgresql util-linux")
    # Not in a folder of pytest's, which other users may not enter.
    folder = Path(tempfile.mkdtemp(prefix="pedigree-postgres-"))
    server = prepare(folder)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command(server), "-c", "fsync=off"],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            user=user(), group=user(), extra_groups=[] if user() else None,
            preexec_fn=lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT),
        )  # fmt: skip
    try:
        wait_for(lambda: process.poll() is None and server.answers and has_database(server), START_SECONDS)
        yield server
    finally:
        process.send_signal(signal.SIGINT)  # its word for: end now, in good order
        process.wait(60)
        shutil.rmtree(folder)


def has_database(server: Postgres) -> bool:
    """Whether Prefect's database is there; a server listens before it lets anybody in."""
    try:
        create_database(server)
    except Refusal:
        return False
    return True


@pytest.fixture(scope="session")
def prefect_on_postgres(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """`prefect server start` with Postgres as its database."""
    home = tmp_path_factory.mktemp("prefect-postgres")
    with prefect_serving(home, PREFECT_SERVER_DATABASE_CONNECTION_URL=postgres.url) as server:
        for name in [name for name in server.environment if name.startswith("PREFECT_SERVER_DATABASE")]:
            del server.environment[name]  # whoever asks the server needs no password
        yield server
