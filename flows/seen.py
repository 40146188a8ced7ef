"""What is seen of a stage while it runs: when, on what machine, with which settings. Never the machine's name."""

import os
import platform
import shlex
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stages.settings import settings

# Those arguments of `accelerate launch` that say how many processes compute, and how: no address, no path.
LAUNCH = (
    "num_processes", "num_machines", "multi_gpu", "cpu", "mixed_precision", "use_fsdp", "fsdp_version", "use_deepspeed",
    "use_megatron_lm", "dynamo_backend", "num_cpu_threads_per_process", "machine_rank", "use_parallelism_config",
    "parallelism_config_dp_replicate_size", "parallelism_config_dp_shard_size", "parallelism_config_tp_size",
    "parallelism_config_cp_size",
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """One run of a stage. It is JSON as it is: it comes from other machines, too."""

    began: str  # ISO 8601, UTC
    finished: str
    peak_bytes: int | None  # of memory, by the largest of its processes
    settings: dict[str, Any]
    machine: dict[str, Any]


def seen_of(began: datetime, peak_bytes: int | None) -> Seen:
    """What is seen of a stage that began then, on this machine, and has ended just now."""
    return Seen(moment(began), moment(datetime.now(UTC)), peak_bytes, settings_here(), machine_here())


def moment(time: datetime) -> str:
    """`time` as records have it: 2026-03-01T12:00:00Z."""
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def settings_here() -> dict[str, Any]:
    """Where and how fast a stage runs that is started by this process, without what could be a secret or a name."""
    here = settings()
    launch = launch_options(shlex.split(here.launch))
    found = {"workers": here.workers, "microBatch": here.micro_batch, "worldSize": world_size(launch)}
    return {name: value for name, value in found.items() if value is not None} | ({"launch": launch} if launch else {})


def launch_options(arguments: Iterable[str]) -> dict[str, str]:
    """Those of the arguments of `accelerate launch` that are LAUNCH, by their names; a switch has the value true."""
    found, name = {}, None
    for argument in arguments:
        if argument.startswith("--"):
            name, _, value = argument.removeprefix("--").replace("-", "_").partition("=")
            if name in LAUNCH:
                found[name] = value or "true"
        elif name in LAUNCH:
            found[name] = argument
            name = None
    return found


def world_size(launch: dict[str, str]) -> int | None:
    """The processes that train: one without `accelerate launch`; None if its own settings decide."""
    if not settings().launch:
        return 1
    with suppress(KeyError, ValueError):
        return int(launch["num_processes"])
    return None


def machine_here() -> dict[str, Any]:
    """Python, torch, kind of system, model of processor and GPUs of this machine, as far as they are known."""
    found = {
        "python": platform.python_version(),
        "torch": _version("torch"),
        "platform": f"{platform.system()}-{platform.machine()}",
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)),
        "gpus": gpus() or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def gpus(folder: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """The models of the GPUs that NVIDIA's driver knows."""
    return [model for path in sorted(folder.glob("*/information")) if (model := _value_of(path, "Model"))]


def _processor() -> str | None:
    return _value_of(Path("/proc/cpuinfo"), "model name") or platform.processor() or None


def _value_of(path: Path, name: str) -> str | None:
    """What the first line of `path` that begins with `name` says behind its colon."""
    with suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip() or None
    return None


def _version(package: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(package)
    return None
