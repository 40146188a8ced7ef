"""Several processes, by `accelerate launch`; and what their end means to whoever runs this stage.

The launcher ends with 1 whatever its processes ended with. So each of them leaves its exit code in a file, and this
process, which waits for the launcher, ends with the one that says most.
"""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stages.pretrain.signals import ASKED
from stages.process import USER_ERROR, die_with_parent

COME_AGAIN = 75  # EX_TEMPFAIL: the flow runs the stage again
_FOLDER = "STAGES_PRETRAIN_ENDED"  # the variable by which a process knows where to leave its exit code


def is_launched() -> bool:
    """Whether a launcher has started this process."""
    return _FOLDER in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


def launch(arguments: str) -> int:
    """Run this stage by `accelerate launch` with these `arguments`, and return the exit code of it all."""
    with tempfile.TemporaryDirectory(prefix="pretrain-") as folder:
        command = [*launcher(shlex.split(arguments)), "-m", "stages.pretrain"]
        child = subprocess.Popen(command, env=_environment(command, folder), preexec_fn=_before_launcher)
        for number in ASKED:  # the launcher knows SIGTERM only, and passes it on
            signal.signal(number, lambda _number, _frame: child.terminate())
        code = child.wait()
        codes = {int(path.read_text()) for path in Path(folder).iterdir()}
    if code == 0:
        return 0
    return next((known for known in (USER_ERROR, COME_AGAIN) if known in codes), 1)


def launcher(arguments: Sequence[str]) -> list[str]:
    """The command that starts a module in processes, as these `arguments` of `accelerate launch` want it.

    Of several processes on the processors of a machine Accelerate (1.15) starts but one, and says nothing; so these
    are started by what it uses for GPUs.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for name, default in (("num_processes", 1), ("num_machines", 1), ("machine_rank", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--main_process_ip", default="127.0.0.1")
    parser.add_argument("--main_process_port", default="29500")
    parser.add_argument("--cpu", action="store_true")
    asked, _ = parser.parse_known_args(arguments)
    if not asked.cpu or asked.num_processes < 2:
        return ["accelerate", "launch", *arguments]
    each = [f"--nproc_per_node={asked.num_processes // asked.num_machines}"]
    if asked.num_machines == 1:
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", *each]
    return [
        sys.executable, "-m", "torch.distributed.run", *each, f"--nnodes={asked.num_machines}",
        f"--node_rank={asked.machine_rank}", f"--master_addr={asked.main_process_ip}",
        f"--master_port={asked.main_process_port}",
    ]  # fmt: skip


def _environment(command: Sequence[str], folder: str) -> dict[str, str]:
    """The environment of the processes that `command` starts."""
    added = {_FOLDER: folder}
    if "torch.distributed.run" in command:
        added["ACCELERATE_USE_CPU"] = "true"
    if "--standalone" in command:  # the machine's own name may lead nowhere
        added["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    return os.environ | added


def _before_launcher() -> None:
    die_with_parent()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # sent to all of a Slurm step, it is for the trainers


@contextmanager
def told() -> Iterator[None]:
    """Leave the exit code of the block to `launch`, if this process is launched."""
    try:
        yield
    except SystemExit as end:
        tell(end.code if isinstance(end.code, int) else 1)
        raise


def tell(code: int) -> None:
    """Leave `code` to `launch`, if this process is launched and it still waits."""
    folder = os.environ.get(_FOLDER)
    if folder and Path(folder).is_dir():
        Path(folder, os.environ.get("RANK", "0")).write_text(str(code))
