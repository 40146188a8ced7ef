"""Slurm as a place: stages that become ready together are one job array, whose tasks are found again and followed.

A task carries in its comment what it is of, so that a flow that starts while it waits or runs follows it instead of
submitting another. What a task took is kept in logs/jobs.jsonl, as the controller soon forgets it.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event, Lock

from flows.places import GRACE_SECONDS, Errand, failure
from flows.places.controller import ENDED, LOST_SECONDS, Away, Task, Unknown, attempt, find, show, stop, submit
from flows.places.handover import fetch_log, forget_log
from flows.places.settings import SlurmResources
from flows.stage import BURST, ComeAgain, StageFailed, StageRefused, Stopped, Tell

GATHER_SECONDS = 2.0  # siblings that become ready within it are one array
LOOK_SECONDS = 10.0  # between two looks at a task; a controller serves thousands of them
AGAIN_SECONDS = 5  # Slurm lets a job wait for two minutes before it comes again; at once, its old node refuses it

# What can't become true by waiting.
_NEVER = {
    "PartitionTimeLimit",
    "PartitionNodeLimit",
    "PartitionConfig",
    "BadConstraints",
    "InvalidAccount",
    "InvalidQOS",
}
_HELD = "launch_failed_requeued_held"


@dataclass
class Batch:
    """Stages that will be submitted together, and, once they are, the name of the array or why there is none."""

    errands: list[Errand] = field(default_factory=list)
    submitted: Event = field(default_factory=Event)
    job: str = ""
    error: Exception | None = None


class Slurm:
    """The Slurm cluster that this machine's sbatch talks to, for one build."""

    def __init__(self, root: Path = Path()) -> None:
        self._jobs = root / "logs" / "jobs.jsonl"
        self._gathering: dict[tuple[str, str], Batch] = {}
        self._lock = Lock()

    def run(self, errand: Errand, resources: SlurmResources, tell: Tell, stopping: Event) -> None:
        """Run `errand` as a task of a job array and wait for its end; see flows.places.Place.

        Raises:
            StageRefused, StageFailed, ComeAgain, Stopped, Refusal: why it isn't done.
        """
        try:
            task = find(errand)
            if task:
                errand = Errand(errand.stage, errand.digest, task.commit, errand.remote, errand.log)
                tell(f"follows Slurm job {task.name}, which was submitted before")
            else:
                task = Task(self._submit(errand, resources, stopping), errand.commit)
                tell(f"is Slurm job {task.name}")
        except Away as away:
            raise ComeAgain(f"{errand.stage}: {away}") from None
        self._follow(errand, task.name, resources, tell, stopping)

    def _submit(self, errand: Errand, resources: SlurmResources, stopping: Event) -> str:
        """The task that runs `errand`: of an array with those of the same kind and resources that come soon after."""
        forget_log(errand)
        key = (errand.stage.partition("@")[0], resources.model_dump_json())
        with self._lock:
            first = key not in self._gathering
            batch = self._gathering.setdefault(key, Batch())
            index = len(batch.errands)
            batch.errands.append(errand)
        if first:
            stopping.wait(GATHER_SECONDS)
            with self._lock:
                del self._gathering[key]
            try:
                batch.job = submit(batch.errands, resources)
            except Exception as error:
                batch.error = error
            batch.submitted.set()
        batch.submitted.wait()
        if batch.error:
            raise batch.error
        return f"{batch.job}_{index}"

    def _follow(self, errand: Errand, task: str, resources: SlurmResources, tell: Tell, stopping: Event) -> None:
        """Wait for the end of `task`, tell what becomes of it, and say it as the place's exceptions do."""
        lines = _new_lines(Path(resources.log_folder, f"{task}.log"), errand.log) if resources.log_folder else None
        said, job = "", {}
        for job in self._looks(errand, task, tell, stopping):
            if (state := _in_words(job)) != said:
                said = state
                tell(f"Slurm job {task}: {state}")
            _tell_some(next(lines, []) if lines else [], errand.log, tell)
            if obstacle := _obstacle(job):
                attempt("scancel", task)
                raise StageRefused(
                    f"{errand.stage}: Slurm job {task} can't start: {obstacle}; "
                    "correct its partition, nodes or hours in infra/places.yaml"
                )
            if _waits_needlessly(job):
                attempt("scontrol", "update", f"JobId={task}", f"StartTime=now+{AGAIN_SECONDS}")
        fetch_log(errand)
        self._account(errand, task, job, tell)
        if error := outcome(errand, task, job, stopping.is_set()):
            raise error

    def _looks(self, errand: Errand, task: str, tell: Tell, stopping: Event) -> Iterator[dict[str, str]]:
        """What the controller says of `task`, again and again until it has ended; it is ended if `stopping` is set."""
        deadline = answered = time.monotonic()
        stopped = False
        while True:
            if stopping.is_set() and not stopped:
                stopped, deadline = True, time.monotonic() + GRACE_SECONDS
                tell(f"stops Slurm job {task}")
                stop(task)
            try:
                job = show(task)
                answered = time.monotonic()
                yield job
                if job["JobState"] in ENDED:
                    return
            except Unknown:
                if stopped:
                    raise Stopped(f"{errand.stage}: stopped") from None
                raise ComeAgain(f"{errand.stage}: Slurm knows no job {task} (any more)") from None
            except Away as away:
                if time.monotonic() > answered + LOST_SECONDS:
                    raise ComeAgain(f"{errand.stage}: {away}") from None
            if stopped and time.monotonic() > deadline:
                attempt("scancel", task)
                raise Stopped(f"{errand.stage}: stopped")
            time.sleep(min(1.0, LOOK_SECONDS)) if stopped else stopping.wait(LOOK_SECONDS)

    def _account(self, errand: Errand, task: str, job: dict[str, str], tell: Tell) -> None:
        """Keep what `task` took: without Slurm's accounting database the controller soon forgets it."""
        record = {
            "stage": errand.stage, "commit": errand.commit, "digest": errand.digest, "place": "slurm", "job": task,
            "state": job["JobState"], "exit_code": job["ExitCode"], "nodes": job["NodeList"],
            "cpus": int(job["NumCPUs"]), "seconds": _seconds(job["RunTime"]), "restarts": int(job["Restarts"]),
            "submitted": job["SubmitTime"], "started": job["StartTime"], "ended": job["EndTime"],
        }  # fmt: skip
        self._jobs.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, self._jobs.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        tell(
            f"Slurm job {task} ended as {record['state']} ({record['exit_code']}) on {record['nodes']}: "
            f"{record['cpus']} CPUs for {record['seconds']} s, restarted {record['restarts']} times"
        )


def outcome(errand: Errand, task: str, job: dict[str, str], stopped: bool) -> Exception | None:
    """The exception for how `task` ended; None if it ended well."""
    code, _, death = (int(part) if part.isdecimal() else part for part in job["ExitCode"].partition(":"))
    where = f"Slurm job {task}"
    match job["JobState"]:
        case "COMPLETED":
            return None
        case _ if stopped:
            return Stopped(f"{errand.stage}: stopped")
        case "FAILED":
            return failure(errand, int(code or 128 + int(death)), where)
        case "CANCELLED":
            return StageFailed(f"{errand.stage}: {where} was cancelled by someone; run again if that was not meant")
        case "TIMEOUT":
            return StageFailed(
                f"{errand.stage}: {where} ran into its time limit and had not saved; raise its hours or save_seconds "
                "in infra/places.yaml"
            )
        case "OUT_OF_MEMORY":
            return StageFailed(f"{errand.stage}: {where} ran out of memory; raise its memory_gib in infra/places.yaml")
        case state:
            return ComeAgain(f"{errand.stage}: {where} ended as {state}")


def _in_words(job: dict[str, str]) -> str:
    if job["JobState"] == "PENDING":
        again = f", restarted {job['Restarts']} times" if job["Restarts"] != "0" else ""
        return f"waits ({job['Reason']}{again})"
    return f"{job['JobState'].lower()} on {job['NodeList']}"


def _obstacle(job: dict[str, str]) -> str | None:
    """Why a waiting job will never start."""
    waits = job["JobState"] == "PENDING"
    return job["Reason"] if waits and (job["Reason"] in _NEVER or job["Reason"] == _HELD) else None


def _waits_needlessly(job: dict[str, str]) -> bool:
    """Whether a job that came again waits for longer than AGAIN_SECONDS by order of Slurm alone."""
    if job["JobState"] != "PENDING" or job["Reason"] != "BeginTime" or job["Restarts"] == "0":
        return False
    begin, submitted = (datetime.fromisoformat(job[name]) for name in ("EligibleTime", "SubmitTime"))
    return begin - submitted > timedelta(seconds=60)


def _seconds(duration: str) -> int:
    """`1-02:03:04` in seconds."""
    days, _, clock = duration.rpartition("-")
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _new_lines(source: Path, log: Path) -> Iterator[list[str]]:
    """Copy what is new in `source` to `log` at each step, and give its whole lines; nothing while it isn't there."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    offset, rest = 0, ""
    while True:
        if not source.exists():
            yield []
            continue
        with source.open("rb") as file:
            file.seek(offset)
            new = file.read()
        offset += len(new)
        with log.open("ab") as copy:
            copy.write(new)
        *lines, rest = (rest + new.decode("utf-8", errors="replace")).split("\n")
        yield lines


def _tell_some(lines: list[str], log: Path, tell: Tell) -> None:
    lines = [line for line in lines if line.strip()]
    if len(lines) > BURST:
        tell(f"({len(lines) - BURST} more lines in {log})")
    for line in lines[-BURST:]:
        tell(line.rstrip())
