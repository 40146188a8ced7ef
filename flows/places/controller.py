"""What is asked of Slurm's controller, by its own programs: jobs are found, submitted, looked at and stopped.

Nothing here needs Slurm's accounting database: a job is asked for while the controller knows it.
"""

import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Any

from flows.places import Errand
from flows.places.settings import SlurmResources
from flows.stage import StageRefused
from stages.params import Refusal

SCRIPT = Path(__file__).parents[2] / "infra" / "slurm" / "stage.sbatch"
LOST_SECONDS = 600.0  # a controller that doesn't answer for so long can't be reached
ENDED = {
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "OUT_OF_MEMORY", "DEADLINE",
    "REVOKED",
}  # fmt: skip
_AWAY = ("Unable to contact slurm controller", "Socket timed out", "Zero Bytes were transmitted", "Connection refused")


class Away(Exception):
    """The controller doesn't answer."""


class Unknown(Exception):
    """The controller has forgotten the job."""


@dataclass(frozen=True)
class Task:
    """One task of a job array, and the commit that it runs the stage of."""

    name: str  # 17_0
    commit: str


def find(errand: Errand) -> Task | None:
    """The task of this user that already waits or runs for what `errand` is of.

    Raises:
        Away: if the controller doesn't answer.
    """
    mark = _mark(errand)
    try:
        queue = ask("squeue", "--me", "--array", "--noheader", "--format=%i|%k")
    except subprocess.CalledProcessError as error:
        raise Away(error.stderr.strip()) from None
    for line in queue.splitlines():
        name, _, comment = line.strip().partition("|")
        tasks = comment.removeprefix("pedigree:").split(",") if comment.startswith("pedigree:") else []
        index = name.rpartition("_")[2]
        if index.isdecimal() and int(index) < len(tasks):
            found, _, commit = tasks[int(index)].partition("/")
            if found == mark:
                return Task(name, commit)
    return None


def submit(errands: list[Errand], resources: SlurmResources) -> str:
    """The number of the job array that runs `errands`, a task for each, in their order.

    Raises:
        StageRefused: if Slurm won't have it.
        Away: if the controller doesn't answer.
    """
    names = ", ".join(errand.stage for errand in errands)
    if resources.log_folder and not Path(resources.log_folder).is_dir():
        raise StageRefused(
            f"{names}: log_folder {resources.log_folder} is no folder on this machine; make it where the nodes see it, "
            "or leave it out of infra/places.yaml"
        )
    comment = "pedigree:" + ",".join(f"{_mark(errand)}/{errand.commit}" for errand in errands)
    settings = "\n".join(f"{name}={value}" for name, value in resources.environment.items())
    try:
        number = ask(
            "sbatch", "--parsable", f"--array=0-{len(errands) - 1}", f"--comment={comment}",
            *options(errands, resources), str(SCRIPT), errands[0].remote, resources.program,
            resources.node_environment, str(resources.restarts), settings,
            *(word for errand in errands for word in (errand.commit, errand.stage)),
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        said = [line.removeprefix("sbatch: error: ") for line in error.stderr.splitlines() if "error: " in line]
        raise StageRefused(
            f"{names}: Slurm refuses the job: {'; '.join(said) or error.stderr.strip()}; correct its partition, "
            "account or resources in infra/places.yaml"
        ) from None
    return number.partition(";")[0]


def options(errands: list[Errand], resources: SlurmResources) -> list[str]:
    """What sbatch is told of the job: its name, its resources, how it is stopped and where it writes."""
    given: dict[str, Any] = {
        "job-name": errands[0].stage if len(errands) == 1 else errands[0].stage.partition("@")[0],
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "nodes": resources.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": resources.cpus,
        "mem": resources.memory_gib and f"{ceil(resources.memory_gib * 1024)}M",
        "gpus-per-node": resources.gpus or None,
        "time": resources.hours and ceil(resources.hours * 60),
        "signal": f"B:TERM@{resources.save_seconds}",
        # Nothing of this environment: credentials would lie in the controller's files. "NIL" is none at all.
        "export": "NIL",
        "chdir": "/",  # a folder that every node has
        "output": f"{resources.log_folder}/%A_%a.log" if resources.log_folder else "/dev/null",
    }
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


def show(task: str) -> dict[str, str]:
    """What the controller says of `task`, by name.

    Raises:
        Unknown: if it has forgotten it.
        Away: if it doesn't answer.
    """
    if job := _record(task):
        return job
    # A task that was cancelled before it began was never parted from its array.
    array = _record(task.partition("_")[0])
    if array and array["JobState"] in ENDED:
        return array
    raise Unknown(task)


def _record(job: str) -> dict[str, str] | None:
    try:
        said = ask("scontrol", "--oneliner", "show", "job", job)
    except subprocess.CalledProcessError as error:
        if re.search("not found|Invalid job id", error.stdout + error.stderr):
            return None
        raise Away(error.stderr.strip()) from None
    return dict(re.findall(r"(\S+?)=(\S*)", said.splitlines()[0]))


def stop(task: str) -> None:
    """Have the stage in `task` save and end, and not come again; one that waits is removed."""
    attempt("scontrol", "update", f"JobId={task}", "Requeue=0")
    with suppress(Unknown, Away):
        if show(task)["JobState"] == "PENDING":
            attempt("scancel", task)
        else:
            attempt("scancel", "--batch", "--signal=TERM", task)


def ask(*command: str) -> str:
    """What a program of Slurm answers.

    Raises:
        Refusal: if it isn't installed.
        Away: if the controller doesn't answer it.
        subprocess.CalledProcessError: if it fails for another reason.
    """
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LOST_SECONDS)
    except FileNotFoundError:
        raise Refusal(
            f"{command[0]} is not on this machine, but infra/places.yaml sends stages to Slurm; run on a node that "
            "submits jobs, or let them run here"
        ) from None
    except subprocess.TimeoutExpired:
        raise Away(f"{command[0]} doesn't end: the controller doesn't answer") from None
    if done.returncode and any(words in done.stderr for words in _AWAY):
        raise Away(" ".join(done.stderr.split()))
    done.check_returncode()
    return done.stdout.strip()


def attempt(*command: str) -> None:
    """Tell Slurm something that comes too late if the job has just ended or begun."""
    with suppress(subprocess.CalledProcessError, Away):
        ask(*command)


def _mark(errand: Errand) -> str:
    """What tells two errands apart: the stage's inputs, and the store that its outs are wanted in."""
    return sha256(f"{errand.digest}\0{errand.remote}".encode()).hexdigest()[:32]
