"""The units are what systemd accepts, and fit the rest of the project."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from flows.stage import GRACE_SECONDS

PROJECT = Path(__file__).parents[2]
UNITS = sorted((PROJECT / "infra" / "systemd").glob("*.service"))


def values(unit, key):
    """What `unit` sets `key` to, each time."""
    return [line.partition("=")[2] for line in unit.read_text().splitlines() if line.startswith(f"{key}=")]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_accepts_the_unit(unit, tmp_path):
    for each in UNITS:
        (tmp_path / each.name).write_text(each.read_text().replace("%h/pedigree", str(PROJECT)))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(tmp_path / unit.name)],
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr


def test_the_worker_works_for_the_pool_of_the_deployments_and_stops_in_time():
    [worker] = [unit for unit in UNITS if "worker" in unit.name]
    pools = {
        each["work_pool"]["name"] for each in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    }

    [command] = values(worker, "ExecStart")
    assert {command.split("--pool ")[1].split()[0]} == pools
    assert int(values(worker, "TimeoutStopSec")[0]) > 2 * GRACE_SECONDS


def test_the_worker_asks_the_server_that_is_started_here():
    server, worker = (PROJECT / "infra" / "systemd" / f"pedigree-{name}.service" for name in ("prefect", "worker"))

    [command], [url] = values(server, "ExecStart"), values(worker, "Environment")
    host, port = (command.split(f"--{name} ")[1].split()[0] for name in ("host", "port"))
    assert url == f"PREFECT_API_URL=http://{host}:{port}/api"
