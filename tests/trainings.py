"""Many short trainings in little time: the libraries are loaded once, and each process of a training is a fork.

    python -m trainings < plan.json      [{"folder": …, "world": 2, …}, …]  ->  [[exit code of each process], …]

Run as a program it reads a plan, one training after another; `train` is how a test asks for that.
"""

import itertools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tiny import ROOT, Project


@dataclass(frozen=True)
class Training:
    """One training in `folder`, by `world` processes, and how it ends before its time."""

    folder: str
    world: int = 1
    settings: dict[str, str] = field(default_factory=dict)  # PEDIGREE_ variables, and others
    stop_after: int | None = None  # steps in all, then a signal to the first process
    sent: int = signal.SIGTERM
    hangs_after: int | None = None  # steps in all, then nothing happens any more
    pauses: float = 0.0  # seconds before each step
    forgets: bool = False  # its folder's checkpoints before it begins, as a new node has none
    dies_after: float | None = None  # seconds, by SIGKILL
    dies_writing: int | None = None  # by SIGKILL, inside so manieth act of writing a checkpoint


def train(project: Project, *trainings: Training) -> list[list[int]]:
    """Run `trainings`, one after another; the exit codes of the processes of each. They tell in FOLDER/said-RANK."""
    environment = project.environment() | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "trainings"], input=json.dumps([asdict(each) for each in trainings]), text=True,
        env=environment, capture_output=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    codes: list[list[int]] = json.loads(done.stdout)
    return codes


def main() -> None:
    """Run the plan on stdin."""
    import transformers.models.llama.modeling_llama  # noqa: F401 -- or each fork would load it

    import stages.pretrain.__main__ as pretrain
    from infra.ports import free_port

    plan = [Training(**each) for each in json.load(sys.stdin)]
    print(json.dumps([_run(training, pretrain.main, free_port()) for training in plan]))


def _run(training: Training, main: Callable[[], None], port: int) -> list[int]:
    if training.forgets:  # but the lock: it says that the dead trainer was on this machine
        for path in Path(training.folder).glob("scratch/pretrain/*/*"):
            shutil.rmtree(path, ignore_errors=True)
    ranks = [os.fork() or _be(training, rank, main, port) for rank in range(training.world)]
    if training.dies_after is not None:
        time.sleep(training.dies_after)
        for rank in ranks:
            os.kill(rank, signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]


def _be(training: Training, rank: int, main: Callable[[], None], port: int) -> Any:
    """Be a process of the training, to its end."""
    os.chdir(training.folder)
    os.dup2(os.open(f"said-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    if training.world > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(training.world), "MASTER_ADDR": "127.0.0.1",
            "LOCAL_WORLD_SIZE": str(training.world), "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
    os.environ |= {"ACCELERATE_USE_CPU": "true"} | training.settings
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s", force=True)
    if training.stop_after and rank == 0:
        _after(training.stop_after - 1, lambda: os.kill(os.getpid(), training.sent))
    if training.pauses:
        _after(None, lambda: time.sleep(training.pauses))
    if training.hangs_after:
        _after(training.hangs_after, lambda: time.sleep(300))
    if training.dies_writing is not None:
        _die_writing(training.dies_writing)
    code = 1
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _after(steps: int | None, act: Callable[[], None]) -> None:
    """Have `act` done after so many steps, within the next; None: in each."""
    from stages.pretrain.trainer import Trainer

    real = Trainer.train_step

    def step(self: Any, *arguments: Any) -> Any:
        if steps is None or len(self.steps) == steps:
            act()
        return real(self, *arguments)

    Trainer.train_step = step  # type: ignore[method-assign]


def _die_writing(at: int) -> None:
    """Die inside the act number `at` of those that write, name and remove checkpoints."""
    from stages.pretrain import checkpoint

    acts = itertools.count()

    def deadly(real: Callable[..., Any], tear: bool = False) -> Callable[..., Any]:
        def act(*arguments: Any, **named: Any) -> Any:
            mine = next(acts) == at
            if mine and tear:  # half a file
                real(*arguments, **named)
                os.truncate(arguments[1], Path(arguments[1]).stat().st_size // 2)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        return act

    checkpoint.save_file = deadly(checkpoint.save_file, tear=True)
    checkpoint.write_manifest = deadly(checkpoint.write_manifest)
    checkpoint._sync = deadly(checkpoint._sync)
    Path.rename = deadly(Path.rename)  # type: ignore[method-assign]
    checkpoint.shutil.rmtree = deadly(checkpoint.shutil.rmtree)  # type: ignore[assignment]


def deaths(folder: Path, number: int, seed: int, settings: dict[str, str]) -> Sequence[Training]:
    """So many trainings in `folder` that die at moments drawn from `seed`: every other one inside a write.

    They pause before each step, so that all of them together don't come to the end, however fast the machine is.
    """
    draw = random.Random(seed)
    return [
        Training(str(folder), settings=settings, pauses=0.15, dies_writing=draw.randrange(12))
        if index % 2
        else Training(str(folder), settings=settings, pauses=0.15, dies_after=draw.uniform(0.1, 0.9))
        for index in range(number)
    ]


if __name__ == "__main__":
    main()
