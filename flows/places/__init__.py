"""Places where a stage runs that isn't run here: each takes an errand, and is done when its outs are in the store.

A place is one object for the whole build, used by a thread for each of its stages. The two are
`flows.places.slurm.Slurm` and `flows.places.kubernetes.Kubernetes`.
"""

from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Protocol

from flows.stage import COME_AGAIN, USER_ERROR, ComeAgain, StageFailed, StageRefused, Tell, end_of

GRACE_SECONDS = 30.0  # for a stage that is stopped elsewhere to save what it has


@dataclass(frozen=True)
class Errand:
    """One stage of one commit, to be run elsewhere by a machine that has nothing but the store."""

    stage: str
    digest: str  # of all that the stage depends on: DVC's key of it in the run-cache, 64 hex digits
    commit: str  # lies as a git bundle in the store, see flows.places.handover
    remote: str  # URL of the default DVC remote: the store
    log: Path  # where the place puts all that the stage says there, as far as it can see it

    def command(self, program: str = "pedigree") -> list[str]:
        """What a node runs. It needs no file of the asker's; the store's credentials it has of its own.

        It exits with 0 (the outs and run-cache are in the store), 2 (refused: its last line is `error: …`),
        75 (stopped by a signal, after saving; or the store can't be reached: come again) or anything else (failed).
        """
        return [program, "stage", self.commit, self.stage, "--remote", self.remote]


class Place(Protocol):
    """Where stages are run. Part of it is not to run one twice: an errand of the same digest is followed instead."""

    def run(self, errand: Errand, resources: Any, tell: Tell, stopping: Event) -> None:
        """Run `errand` there with `resources` (the model of this place in flows.places.settings); wait for its end.

        Its log is followed into `errand.log`, and some of it told, as far as the place can see it while it runs.
        A job that was preempted or lost its node comes again without the caller. When `stopping` is set, the job gets
        SIGTERM and GRACE_SECONDS to save, and is removed; a caller that dies leaves it running, to be found again.

        Raises:
            StageRefused, StageFailed, ComeAgain: why it isn't done; see `failure`.
            Stopped: if `stopping` was set.
        """


def failure(errand: Errand, code: int, where: str) -> Exception:
    """The exception for an errand whose command exited with `code` in `where` ("Slurm job 17"), by its log."""
    said = end_of(errand.log) if errand.log.exists() else ""
    errors = [line.removeprefix("error: ").strip() for line in said.splitlines() if line.startswith("error: ")]
    sentence = errors[-1].removeprefix(f"{errand.stage}: ") if errors else ""
    if code == USER_ERROR and sentence:
        return StageRefused(f"{errand.stage}: {sentence}")
    if code == COME_AGAIN:
        return ComeAgain(f"{errand.stage}: {sentence or 'preempted'} ({where})")
    end = f"all it said is in {errand.log}" if said else "it left no log"
    return StageFailed(f"{errand.stage}: {sentence or f'exited with {code}'} ({where}); {end}")
