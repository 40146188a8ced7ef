"""A Postgres of this machine's own, for Prefect's database: initdb once, then the server, on loopback only.

Postgres refuses to be run by root; then its own user runs it, who must be able to enter the folder.
"""

import json
import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from infra.ports import can_be_asked, free_port
from stages.params import Refusal

USER = "postgres"  # who runs it where we are root
NAME = "prefect"  # of the database and of the one who may use it


@dataclass(frozen=True)
class Postgres:
    """A database server in `folder`: where it listens, and the password of NAME."""

    folder: Path
    port: int
    password: str

    @property
    def url(self) -> str:
        """As SQLAlchemy reads it, password included."""
        return f"postgresql+asyncpg://{NAME}:{self.password}@127.0.0.1:{self.port}/{NAME}"

    @property
    def answers(self) -> bool:
        """Whether it takes connections."""
        return can_be_asked(self.port)


def binaries() -> Path | None:
    """The folder of Postgres' programs, the newest if there are some."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if found:
        return found[-1]
    program = shutil.which("initdb")
    return Path(program).parent if program else None


def prepare(folder: Path) -> Postgres:
    """The server of `folder`, made if it isn't there: an empty database, and a password that nobody has seen.

    Raises:
        Refusal: if Postgres isn't installed, or can't work in `folder`.
    """
    state = folder / "postgres.json"
    if not state.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "data", ignore_errors=True)  # of a first start that was killed
        made = Postgres(folder, free_port(), secrets.token_hex(16))
        _initialize(made)
        partial = state.with_suffix(".partial")
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump({"port": made.port, "password": made.password}, file)
        partial.rename(state)
    return Postgres(folder, **json.loads(state.read_text(encoding="utf-8")))


def command(server: Postgres) -> list[str]:
    """What runs it in the foreground; SIGINT ends it in good order."""
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
    words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    data = (server.folder / "data").resolve()
    return [str(_program("postgres")), "-D", str(data), "-p", str(server.port), *words]


def create_database(server: Postgres) -> None:
    """Have Prefect's database; nothing if it is there."""
    environment = {**os.environ, "PGPASSWORD": server.password}
    done = subprocess.run(
        [str(_program("createdb")), "-h", "127.0.0.1", "-p", str(server.port), "-U", NAME, NAME],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode and "already exists" not in done.stderr:
        raise Refusal(f"Postgres makes no database: {' '.join(done.stderr.split())}")


def _initialize(server: Postgres) -> None:
    program = _program("initdb")
    folder, word = server.folder.resolve(), server.folder / "password"
    with open(os.open(word, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(server.password)
    if _as_user():
        shutil.chown(server.folder, USER, USER)
        shutil.chown(word, USER, USER)
    try:
        done = subprocess.run(
            [*_as_user(), str(program), "-D", f"{folder}/data", "-U", NAME, f"--pwfile={folder}/password",
             "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8"],
            cwd="/", capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        word.unlink()
    if done.returncode:
        reason = " ".join(done.stderr.split())
        raise Refusal(f"{folder}: Postgres can't work there ({reason}); name another folder with --folder")


def _program(name: str) -> Path:
    folder = binaries()
    if not folder:
        raise Refusal("Postgres is not installed; install it (`apt-get install postgresql`), or take --sqlite")
    return folder / name


def user() -> str | None:
    """Who has to run it, if not we."""
    return USER if os.getuid() == 0 else None


def _as_user() -> list[str]:
    return ["runuser", "-u", USER, "--"] if user() else []
