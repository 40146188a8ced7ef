"""The build flow beside `dvc repro`, on toy projects: what it costs, and what it gains.

    python -m benchmarks.flows

Each side is a fresh process; they run in turn, and medians are compared. A Prefect server runs all the while, as one
would on a machine that builds every week; its start isn't counted. The load of the machine is printed, as a busy one
favours nobody but makes all of it slow.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import yaml

from flows.lifetime.server import own_server

ROUNDS = 5
PIPELINE = 30
WIDE, AT_ONCE = 200, 20
SPIN_SECONDS = 30.0  # long beside the import of Prefect, which a build pays once
FLOW = "from flows.terminal import build_with_prefect, watched; watched(); build_with_prefect([])"

# Counts to a number that takes SPIN_SECONDS of processor time on the machine at hand.
LOOP = """
total = 0
for number in range(count):
    total += number
"""
SPIN = f"""
import sys
from pathlib import Path
count = int(sys.argv[2])
{LOOP}
Path("out", sys.argv[1]).write_text(Path("in").read_text() + sys.argv[1])
"""


def make(root: Path, upstream: Mapping[str, str | None], count: int = 0) -> Path:
    """A project in `root` whose stages each wait for at most one other, and count to `count`."""
    (root / "out").mkdir(parents=True)
    (root / ".dvc").mkdir()
    config = "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
    (root / ".dvc" / "config").write_text(config)
    (root / "in").write_text("1")
    (root / "stage.py").write_text(SPIN)
    stages = {
        name: {
            "cmd": f"exec python stage.py {name} {count}",
            "deps": ["in", "stage.py", *([f"out/{before}"] if before else [])],
            "outs": [f"out/{name}"],
        }
        for name, before in upstream.items()
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    return root


def by_flow(root: Path, slots: int = 2, server: bool = True) -> None:
    """Build `root` as `pedigree run` does, with Prefect, on the running server or on one of its own."""
    command = [sys.executable, "-c", FLOW]
    _run(
        command if server else ["env", "--unset", "PREFECT_API_URL", *command],
        root,
        {"PEDIGREE_FLOW_SLOTS": str(slots)},
    )


def by_dvc(root: Path) -> None:
    """Build `root` by `dvc repro`."""
    _run([sys.executable, "-m", "dvc", "repro", "--quiet"], root, {})


def seconds(action: Callable[[], None]) -> float:
    """How long `action` takes."""
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


def in_turn(one: Callable[[], None], other: Callable[[], None], rounds: int = ROUNDS) -> tuple[float, float]:
    """The median seconds of each, run in turn."""
    both = [(seconds(one), seconds(other)) for _ in range(rounds)]
    return median(first for first, _ in both), median(second for _, second in both)


def nothing_to_do(folder: Path) -> None:
    """A chain of stages that are up to date."""
    names = [f"stage{number}" for number in range(PIPELINE)]
    root = make(folder / "chain", dict(zip(names, [None, *names], strict=False)))
    by_flow(root)
    flow, dvc = in_turn(lambda: by_flow(root), lambda: by_dvc(root))
    alone = median(seconds(lambda: by_flow(root, server=False)) for _ in range(ROUNDS))
    _say(f"{PIPELINE} stages, nothing to do", f"{alone:.2f} s, dvc repro {dvc:.2f} s", f"{alone / dvc:.2f} x (under 3)")
    _say("the same, as a run on a server", f"{flow:.2f} s, dvc repro {dvc:.2f} s", f"{flow / dvc:.2f} x")


def each_stage(folder: Path) -> None:
    """What a stage costs beyond dvc's own process: a chain, which gains nothing by running side by side.

    What a build costs once (Prefect's import, the DAG) is taken away by the difference of two lengths.
    """
    short, long = (make(folder / f"chain{size}", dict(_chain(size))) for size in (2, 12))
    flow = [_ran(by_flow, long) - _ran(by_flow, short) for _ in range(3)]
    alone = [_one_by_one(long) - _one_by_one(short) for _ in range(3)]
    cost = (median(flow) - median(alone)) / 10
    _say("cost of the flow, each stage", f"{median(flow) / 10:.2f} s, dvc's process {median(alone) / 10:.2f} s",
         f"{cost:.2f} s (under 0.5)")  # fmt: skip


def side_by_side(folder: Path) -> None:
    """Four stages that keep a processor busy, on two slots."""
    count = _count_for(SPIN_SECONDS)
    root = make(folder / "four", {f"stage{number}": None for number in range(4)}, count)
    flow, dvc = in_turn(lambda: _again(by_flow, root), lambda: _again(by_dvc, root), rounds=3)
    _say("4 busy stages, 2 at once", f"{flow:.1f} s, dvc repro {dvc:.1f} s", f"{dvc / flow:.2f} x faster (1.6)")


def many(folder: Path) -> None:
    """All the stages at once that a big project may have: nothing of the lock is lost."""
    names = [f"stage{number:03d}" for number in range(WIDE)]
    root = make(folder / "wide", dict.fromkeys(names))
    taken = seconds(lambda: by_flow(root, AT_ONCE))
    entries = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    _say(f"{WIDE} stages, {AT_ONCE} at once", f"{taken:.0f} s", f"{len(entries)} entries in dvc.lock")
    assert set(entries) == set(names)


def main() -> None:
    """Print a line for each."""
    with tempfile.TemporaryDirectory() as name, _at_home(Path(name)), own_server(Path(name)) as url:
        os.environ["PREFECT_API_URL"] = url
        chosen = sys.argv[1:]
        for part in (nothing_to_do, each_stage, side_by_side, many):
            if not chosen or part.__name__ in chosen:
                part(Path(name))


@contextmanager
def _at_home(home: Path) -> Iterator[None]:
    """No database, cache or setting of this user's takes part."""
    for variable in [variable for variable in os.environ if variable.startswith(("PREFECT_", "PEDIGREE_"))]:
        del os.environ[variable]
    os.environ |= {
        "PREFECT_HOME": str(home / "prefect"),
        "DVC_SITE_CACHE_DIR": str(home / "site"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path.cwd()),
        "DVC_NO_ANALYTICS": "1",
    }
    yield


def _chain(size: int) -> Iterator[tuple[str, str | None]]:
    for number in range(size):
        yield f"stage{number}", f"stage{number - 1}" if number else None


def _ran(build: Callable[[Path], None], root: Path) -> float:
    return seconds(lambda: _again(build, root))


def _one_by_one(root: Path) -> float:
    """As the flow does it, without the flow: a process of dvc for each stage."""
    _forget(root)
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    command = [sys.executable, "-m", "dvc", "repro", "--quiet", "--single-item"]
    begin = time.monotonic()
    for stage in stages:
        _run([*command, stage], root, {})
    return time.monotonic() - begin


def _again(build: Callable[[Path], None], root: Path) -> None:
    _forget(root)
    build(root)


def _forget(root: Path) -> None:
    """Another input, so that everything runs, and nothing is in the run-cache."""
    (root / "in").write_text(str(time.time_ns()))


def _count_for(target: float) -> int:
    """How far a stage counts in `target` seconds."""
    count, taken = 1 << 20, 0.0
    while taken < 1:
        count *= 2
        begin = time.process_time()
        exec(LOOP, {"count": count})  # as a stage does, with globals: in a function it would be twice as fast
        taken = time.process_time() - begin
    return int(count * target / taken)


def _run(command: list[str], root: Path, variables: Mapping[str, str]) -> None:
    done = subprocess.run(command, cwd=root, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _say(what: str, measured: str, ratio: str) -> None:
    print(f"{what:32} {measured:38} {ratio:32} load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
